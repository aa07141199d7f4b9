"""Names as people write them: near misses in messages, and column names as a server can take them."""

import difflib
import keyword
import re
from collections.abc import Iterable, Sequence


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: the nearest known one, or all of them.

    Example:
        >>> did_you_mean("lable", ["text", "label"])
        'did you mean "label"?'
    """
    names = list(known)
    by_folded = {name.casefold().strip(): name for name in names}
    near = difflib.get_close_matches(wrong.casefold().strip(), by_folded, n=1, cutoff=0.6)
    return f'did you mean "{by_folded[near[0]]}"?' if near else f"known are {listing(names)}"


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Names in one line, in quotes, shortened where there are many.

    Example:
        >>> listing(["a", "b"])
        '"a", "b"'
    """
    all_names = list(names)
    shown = ", ".join(f'"{shorten(name)}"' for name in all_names[:limit])
    rest = len(all_names) - limit
    return f"{shown} and {rest:,} more" if rest > 0 else shown or "none"


def shorten(text: str, limit: int = 40) -> str:
    """The text on one line and no longer than `limit` characters, so that a message stays one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def input_names(columns: Sequence[str]) -> list[str]:
    """Names for these columns inside a graph, where inputs are named like Python variables in ASCII.

    Every other character becomes an underscore; names that would become equal get a number. Clients never see them: an
    export gives the inputs their columns' names again.

    Example:
        >>> input_names(["age", "年龄", "sepal length (cm)", "class", "2nd", "_id"])
        ['age', 'column', 'sepal_length_cm', 'column_class', 'column_2nd', 'column_id']
    """
    taken: set[str] = set()
    result = []
    for column in columns:
        name = re.sub("[^A-Za-z0-9]+", "_", column).strip("_")
        if not name.isidentifier() or keyword.iskeyword(name) or name == "self" or column.startswith("_"):
            name = f"column_{name}".rstrip("_")
        candidate, number = name, 2
        while candidate.casefold() in taken:  # TensorFlow takes `Age` and `age` for one name
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        result.append(candidate)
    return result
