"""Finding the user's files: what is missing is named, with what is there and looks like it."""

import difflib
from pathlib import Path

from pipelines.errors import MissingFileError, UserError
from pipelines.names import listing


def require_file(path: Path, key: str = "") -> Path:
    """The path, if a file is there.

    Args:
        path: relative to the current directory, or absolute.
        key: the configuration key or flag it comes from, for the message.

    Raises:
        MissingFileError: nothing is there; the message has files of similar names in the same folder.
        UserError: it is a folder.
    """
    if path.is_file():
        return path
    said = f" ({key})" if key else ""
    if path.is_dir():
        raise UserError(f"{path}{said} is a folder; a file was expected")
    folder = path.parent
    if not folder.is_dir():
        raise MissingFileError(
            f"{path}{said} is not there: there is no folder {folder}; relative paths are looked up in data.data_dir, "
            "which is relative to the current directory"
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    there = f"did you mean {listing(near)}?" if near else f"files there: {listing(names, 6)}"
    raise MissingFileError(f"{path}{said} is not there; {there}")
