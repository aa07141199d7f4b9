"""Text from user data, made fit to be shown: no control characters, measured in terminal cells."""


def printable(text: str) -> str:
    """`text` on one line, its control characters and lone surrogates written as Python's escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def cell_width(text: str) -> int:
    """How many terminal cells `text` takes: two for a Chinese character, none for a combining accent."""
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` cells; where it is cut, it ends with `..`."""
    from rich.cells import set_cell_size

    if cell_width(text) <= width:
        return text
    mark = ".."[:width]
    return set_cell_size(text, width - len(mark)) + mark


def fit(text: str, width: int, right: bool = False) -> str:
    """`text` in exactly `width` cells: cut, or filled with spaces (on the left where `right`)."""
    text = shortened(text, width)
    spaces = " " * (width - cell_width(text))
    return spaces + text if right else text + spaces
