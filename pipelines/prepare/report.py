"""The report of a preparation: what was read, changed and left out, and what is in the files."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def report_of(
    num_files: int,
    settings: Mapping[str, Any],
    kinds: Mapping[str, str],
    counts: Mapping[str, int],
    files: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The report's content.

    Args:
        num_files: files that were read.
        settings: of the preparation.
        kinds: column → what its values are.
        counts: event → number.
        files: what is known of each file.
    """
    files = sorted(files, key=lambda file: file["file"])
    return {
        "input_files": num_files,
        "settings": {name: value for name, value in settings.items() if name != "output"},
        "read": counts.get("read", 0),
        "damaged": counts.get("damaged", 0),
        "changed": _named("changed ", counts),
        "left_out": _named("left_out ", counts),
        "differing_duplicates": counts.get("differing_duplicates", 0),
        "kept": counts.get("kept", 0),
        "columns": dict(kinds),
        "splits": {
            split: _of_split([file for file in files if file["split"] == split])
            for split in ("train", "validation", "test")
        },
        "files": {file["file"]: {"examples": file["examples"], "sha256": file["sha256"]} for file in files},
    }


def quantiles(histogram: Mapping[int, int]) -> dict[str, float]:
    """Quantiles of whole numbers, each the smallest number that so large a share is not above; and their mean.

    Args:
        histogram: number → how many of it.

    Example:
        >>> quantiles({1: 3, 9: 1})["median"]
        1
    """
    total = sum(histogram.values())
    if not total:
        return {}
    found: dict[str, float] = {}
    seen, wanted = 0, list(_QUANTILES.items())
    for number, count in sorted(histogram.items()):
        seen += count
        while wanted and seen >= wanted[0][1] * total:
            found[wanted.pop(0)[0]] = number
    found["mean"] = round(sum(number * count for number, count in histogram.items()) / total, 3)
    return found


def _of_split(files: list[Mapping[str, Any]]) -> dict[str, Any]:
    classes: Counter = sum((Counter(file["classes"]) for file in files), Counter())
    characters: Counter = sum((Counter(file["characters"]) for file in files), Counter())
    return {
        "examples": sum(file["examples"] for file in files),
        "classes": dict(sorted(classes.items())),
        "characters": quantiles(characters),
    }


def _named(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix(prefix): number for name, number in sorted(counts.items()) if name.startswith(prefix)}
