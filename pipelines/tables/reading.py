"""Table files → text: every cell as it is written, with its row and line for messages."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.errors import UserError
from pipelines.lookup import require_file
from pipelines.names import listing, shorten
from pipelines.tables import delimited, json_lines, parquet
from pipelines.tables.records import Records

GIBIBYTE = 2**30
# Rows that are turned from Python lists to columns at a time: lists take ten times the memory of columns.
_CHUNK_ROWS = 50_000
# Missing cells (JSON's null, Parquet's null) are NaN; an empty cell of a CSV file is the text "".
_TEXT = pd.StringDtype(na_value=np.nan)

FORMATS: dict[str, Callable[[Path, str | None, str], Records]] = {
    ".csv": lambda path, delimiter, encoding: delimited.records(path, delimiter or ",", encoding),
    ".tsv": lambda path, delimiter, encoding: delimited.records(path, delimiter or "\t", encoding),
    ".jsonl": lambda path, delimiter, encoding: json_lines.records(path, encoding),
    ".ndjson": lambda path, delimiter, encoding: json_lines.records(path, encoding),
    ".parquet": lambda path, delimiter, encoding: parquet.records(path),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table file's content.

    Attributes:
        frame: every cell as text, NaN where the format says that there is none; the index is the row, from 1.
        origin: the file, as it was given.
        lines: the line on which each row ends, from 1; None for formats without lines.
    """

    frame: pd.DataFrame
    origin: str
    lines: np.ndarray | None

    def __len__(self) -> int:
        return len(self.frame)

    def cells(self, column: str) -> list[Any]:
        """A column's cells: `str`, or NaN where there is none."""
        return self.frame[column].tolist()

    def place(self, index: int) -> str:
        """Where the example at `index` (from 0) is: file and row, and the line where rows and lines differ."""
        line = None if self.lines is None else int(self.lines[index])
        # Without quoted line breaks or blank lines, row n of a file with a header is on line n + 1: no need to say.
        return f"{self.origin} row {index + 1}" + ("" if line in (None, index + 1, index + 2) else f" (line {line})")


def read(
    path: Path,
    *,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    max_memory_gb: float = 4.0,
    key: str = "",
) -> Table:
    """Reads a CSV, TSV, JSON Lines or Parquet file, by its suffix.

    Args:
        path: the file.
        delimiter: between the cells of CSV and TSV; by suffix where it is None.
        encoding: `utf-8` (with or without byte-order mark) or `gb18030`.
        max_memory_gb: gibibytes that the text may take.
        key: the configuration key that the path comes from, for messages.

    Raises:
        UserError: the file is not there, empty, of another format, damaged, too large, or not in this encoding.
    """
    reader = FORMATS.get(path.suffix.lower())
    require_file(path, key)
    if reader is None:
        raise UserError(f'{path} ends in "{path.suffix}"; tables are read from files that end in {listing(FORMATS)}')
    _check_memory(path.stat().st_size, path, max_memory_gb)
    try:
        records = reader(path, delimiter, encoding)
        _check_header(records.columns, path)
        chunks, lines, size = [], [], 0
        for rows, row_lines in _chunks(records.rows):
            # Of text, not of rows: a JSON object may lack columns that the first one had.
            chunks.append(pd.DataFrame(dict(zip(records.columns, zip(*rows, strict=True), strict=True)), dtype=_TEXT))
            lines.extend(row_lines)
            size += int(chunks[-1].memory_usage(index=False, deep=True).sum())
            _check_memory(size, path, max_memory_gb)
    except PermissionError as error:
        raise UserError(f"no permission to read {path}") from error
    if not chunks:
        raise UserError(f"{path} has a header and no rows; at least one example per class was expected")
    frame = pd.concat(chunks, ignore_index=True)
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    return Table(frame, str(path), np.asarray(lines) if lines[0] is not None else None)


def _chunks(rows: Iterator[tuple[Sequence[Any], int | None]]) -> Iterator[tuple[list[Any], list[int | None]]]:
    cells: list[Any] = []
    lines: list[int | None] = []
    for row, line in rows:
        cells.append(row)
        lines.append(line)
        if len(cells) == _CHUNK_ROWS:
            yield cells, lines
            cells, lines = [], []
    if cells:
        yield cells, lines


def _check_header(columns: Sequence[str], path: Path) -> None:
    seen: dict[str, int] = {}
    for number, column in enumerate(columns, start=1):
        if not column.strip():
            raise UserError(
                f"{path}: column {number} of the header has no name (pandas writes such a column unless told "
                "index=False); give it a name or remove it"
            )
        if column in seen:
            raise UserError(
                f'{path}: columns {seen[column]} and {number} of the header are both named "{shorten(column)}"; '
                "rename one of them"
            )
        seen[column] = number


def _check_memory(size: int, path: Path, max_memory_gb: float) -> None:
    if size > max_memory_gb * GIBIBYTE:
        raise UserError(
            f"{path} takes at least {size / GIBIBYTE:.3g} GiB of memory, and data.max_memory_gb is {max_memory_gb:g}; "
            "raise it if the machine has more, or use a part of the file"
        )
