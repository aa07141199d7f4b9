"""Rows of files of any size, on any file system that Apache Beam knows; a row at a time in memory."""

import bz2
import csv
import dataclasses
import gzip
import io
import itertools
import json
import lzma
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from pipelines.errors import UserError
from pipelines.names import did_you_mean
from pipelines.prepare.content import Row, Value

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
# Python's own, which find out that a file is cut off: Beam's take what they have for all there is.
_UNPACKED: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".lzma": lzma.open}
TEXT_COLUMN = "text"
"""The column of a text file's documents."""


@dataclasses.dataclass(frozen=True)
class Form:
    """How files are to be read.

    Attributes:
        text: the column that is cleaned and compared.
        label: the column to predict.
        documents: what separates the documents of a text file: `line`, `blank_line` or `file`.
        encoding: of text files, CSV and JSON Lines.
    """

    text: str | None
    label: str | None
    documents: str
    encoding: str


def is_table(path: str) -> bool:
    """Whether a file has columns, by its name."""
    return _suffix(path) in (*_DELIMITERS, *_JSON_LINES, ".parquet")


def read_rows(path: str, form: Form) -> Iterator[dict[str, Value]]:
    """The rows of a file, compressed or not.

    Raises:
        UserError: it is damaged, or a column is missing.
    """
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    unpacked = _UNPACKED.get(PurePosixPath(path.lower()).suffix)
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        try:
            yield from _rows(unpacked(file) if unpacked else file, path, form)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{path} cannot be read, or is damaged or cut off: {error}") from error


def _rows(file: Any, path: str, form: Form) -> Iterator[dict[str, Value]]:
    suffix = _suffix(path)
    if suffix == ".parquet":
        rows = _parquet(file, path)
    else:
        text = io.TextIOWrapper(io.BufferedReader(_Readable(file)), form.encoding, errors="replace", newline="")
        if suffix in _DELIMITERS:
            rows = _delimited(text, path, _DELIMITERS[suffix])
        elif suffix in _JSON_LINES:
            rows = _json_lines(text, path)
        else:
            rows = ({TEXT_COLUMN: document} for document in _documents(text, form.documents))
    for index, row in enumerate(rows):
        # An object of JSON may leave out a column that has no value.
        if index == 0 and suffix not in _JSON_LINES:
            _check_columns(row, form, path)
        yield row


class _Readable(io.RawIOBase):
    """What `io` wants of a file beside what Beam's files have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _documents(text: io.TextIOBase, separator: str) -> Iterator[str]:
    if separator == "file":
        yield text.read().removeprefix("\ufeff")
        return
    lines: list[str] = []
    for number, line in enumerate(text):
        line = line.removeprefix("\ufeff") if number == 0 else line
        if separator == "line":
            yield line.rstrip("\r\n")
        elif line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines)
            lines = []
    if lines:
        yield "".join(lines)


def _delimited(text: io.TextIOBase, path: str, delimiter: str) -> Iterator[dict[str, Value]]:
    csv.field_size_limit(2**31 - 1)
    # Without its byte-order mark, or quotes around the first column's name would be taken for a part of it.
    lines = itertools.chain([next(text, "").removeprefix("\ufeff")], text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next((cells for cells in reader if cells), [])]
        if len(set(header)) < len(header) or "" in header:
            raise UserError(f"{path}: the first row must name the columns, each once; it is {header}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(f"{path}, line {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
            yield {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error


def _json_lines(text: io.TextIOBase, path: str) -> Iterator[dict[str, Value]]:
    for number, line in enumerate(text, 1):
        if not line.strip("\ufeff \t\r\n"):
            continue
        try:
            row = json.loads(line.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:  # a number of more digits than Python reads is one, too
            raise UserError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object with columns, received {line.strip()[:40]}")
        yield {_whole(name): _plain(value, f"{path}, line {number}, {name}") for name, value in row.items()}


def _parquet(file: BinaryIO, path: str) -> Iterator[dict[str, Value]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row_number = 0
    try:
        opened = pq.ParquetFile(pa.PythonFile(file, mode="r"))
        names = opened.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path} has two columns of the name {twice!r}; give each a name of its own")
        for batch in opened.iter_batches(1_024):
            for row in batch.to_pylist():
                row_number += 1
                yield {name: _plain(value, f"{path}, row {row_number}, {name}") for name, value in row.items()}
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file, or is damaged: {error}") from error


def _plain(value: Any, place: str) -> Value:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value  # as tables of other programs say that one is missing
    if value is None or isinstance(value, bytes) or type(value) is int:
        return value
    if isinstance(value, bool):
        return str(value).lower()
    raise UserError(f"{place}: expected a text or a number, received {type(value).__name__}")


def _whole(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON can hold and no file of ours can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _check_columns(row: Row, form: Form, path: str) -> None:
    for option, column in (("--text", form.text), ("--label", form.label)):
        if column is not None and column not in row:
            raise UserError(f"{path} has no column {column!r} ({option}); {did_you_mean(column, list(row))}")


def _suffix(path: str) -> str:
    name = PurePosixPath(path.lower())
    return PurePosixPath(name.stem).suffix if name.suffix in _UNPACKED else name.suffix
