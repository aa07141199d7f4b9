"""Documents of a corpus, one after the other, each with its place for messages."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.config import CorpusPart
from pipelines.errors import MissingFileError, UserError
from pipelines.lookup import require_file
from pipelines.names import listing
from pipelines.remote import is_remote, join, local, local_files, matching_below
from pipelines.tables.columns import require_column
from pipelines.tables.reading import FORMATS

BUILTIN_FILES = {"reviews_zh": Path(__file__).parents[1] / "datasets" / "reviews_zh.csv"}
"""Shipped texts, by name."""
_BUILTIN_COLUMN = "text"
_BYTE_ORDER_MARK = "\ufeff"


class Document(NamedTuple):
    """A document.

    Attributes:
        text: its text as the file has it; line breaks are line feeds.
        place: file and line, or file and row.
    """

    text: str
    place: str


def corpus_files(part: CorpusPart, data_dir: Path | str, key: str) -> list[Path]:
    """The files of a part of a corpus, in the order in which they are read.

    Args:
        part: the part's configuration.
        data_dir: what its path is relative to.
        key: the part's configuration key, such as `data.parts[0]`, for messages.

    Returns:
        At least one file; what a pattern matches comes sorted by name.

    Raises:
        UserError: a file is missing, or a pattern matches none.
    """
    if part.builtin is not None:
        return [require_file(BUILTIN_FILES[part.builtin], f"{key}.builtin")]
    path = join(data_dir, part.path or "")
    if not glob.has_magic(path) or (not is_remote(path) and Path(path).exists()):
        return [require_file(local(path), f"{key}.path")]
    files = matching_below(data_dir, part.path or "")
    if not files:
        there = "" if is_remote(path) else f"; {_what_is_there(Path(path))}"
        raise MissingFileError(f"{path} ({key}.path) matches no file{there}")
    return local_files(files)


def read_documents(part: CorpusPart, path: Path, key: str) -> Iterator[Document]:
    """The documents of one file; no more than one of them is in memory.

    Args:
        part: says how the documents are written, and their encoding.
        path: one of `corpus_files`.
        key: the part's configuration key, for messages.

    Yields:
        The documents in the file's order. Text files give none that is empty; a table's empty cells are given.

    Raises:
        UserError: a byte is not in the encoding, the table is damaged, or it has no such column.
    """
    column = _BUILTIN_COLUMN if part.builtin is not None else part.text
    try:
        if column is not None:
            yield from _cells(part, path, column, key)
        elif path.suffix.lower() in FORMATS:
            raise UserError(f"{path} is a table; name its column of documents with {key}.text")
        elif part.documents == "file":
            text = "".join(line for _, line in _lines(path, part.encoding, key))
            if text.strip():
                yield Document(text, str(path))
        elif part.documents == "line":
            for number, line in _lines(path, part.encoding, key):
                if line.strip():
                    yield Document(line.rstrip("\n"), f"{path} line {number}")
        else:
            yield from _paragraphs(path, part.encoding, key)
    except PermissionError as error:
        raise UserError(f"no permission to read {path}") from error


def _paragraphs(path: Path, encoding: str, key: str) -> Iterator[Document]:
    lines: list[str] = []
    first = 0
    for number, line in _lines(path, encoding, key):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield Document("".join(lines).rstrip("\n"), f"{path} line {first}")
            lines = []
    if lines:
        yield Document("".join(lines).rstrip("\n"), f"{path} line {first}")


def _lines(path: Path, encoding: str, key: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers and line feeds. Neither encoding has the byte of a line break inside a character."""
    offset = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode(encoding)
            except UnicodeDecodeError as error:
                other = "gb18030" if encoding == "utf-8" else "utf-8"
                raise UserError(
                    f"{path} line {number}: byte 0x{raw[error.start]:02x} at offset {offset + error.start} is not "
                    f"{encoding}; if the file is {other}, set {key}.encoding: {other}"
                ) from None
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            offset += len(raw)
            yield number, line.replace("\r\n", "\n").replace("\r", "\n")


def _cells(part: CorpusPart, path: Path, column: str, key: str) -> Iterator[Document]:
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f'{path} ends in "{path.suffix}", and {key}.text names a column; tables are read from files that end in '
            f"{listing(FORMATS)}"
        )
    records = reader(path, part.delimiter, part.encoding)
    require_column(column, list(records.columns), str(path), f"{key}.text")
    index = list(records.columns).index(column)
    for row, (cells, line) in enumerate(records.rows, start=1):
        shown = "" if line in (None, row, row + 1) else f" (line {line})"
        text = cells[index] or ""
        yield Document(text.replace("\r\n", "\n").replace("\r", "\n"), f"{path} row {row}{shown}")


def _what_is_there(pattern: Path) -> str:
    folder = pattern.parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    if not folder.is_dir():
        return f"there is no folder {folder}; relative paths are looked up in data.data_dir"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"in {folder} there are {listing(names, 6)}"
