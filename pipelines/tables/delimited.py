"""CSV and TSV."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.names import listing
from pipelines.tables.encoding import open_text
from pipelines.tables.records import Records

# Characters in one cell: Python's own limit of 131,072 is met by long documents; without one, a quote that is never
# closed would make a cell of the whole rest of a large file.
_MAX_CELL = 16_777_216


def records(path: Path, delimiter: str, encoding: str) -> Records:
    """The records of a file of separated cells with a header; blank lines are left out.

    Raises:
        UserError: the file is empty; while iterating: a row has more or fewer cells than the header, or its quotes
            are wrong.
    """
    rows = _rows(path, delimiter, encoding)
    header = next(rows, None)
    if header is None:
        raise UserError(f"{path} is empty; a header with the columns' names and at least one row were expected")
    columns = [column.removeprefix("\ufeff") for column in header[0]]
    return Records(columns, _checked(rows, columns, path, delimiter))


def _rows(path: Path, delimiter: str, encoding: str) -> Iterator[tuple[list[str], int]]:
    csv.field_size_limit(_MAX_CELL)
    with open_text(path, encoding) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield cells, reader.line_num
        except csv.Error as error:
            raise UserError(
                f'{path} line {reader.line_num}: {error}; a cell with quotes in it is written "like ""this"" one"'
            ) from error


def _checked(
    rows: Iterator[tuple[list[str], int]], columns: list[str], path: Path, delimiter: str
) -> Iterator[tuple[list[Any], int]]:
    for number, (cells, line) in enumerate(rows, start=1):
        if len(cells) != len(columns):
            raise UserError(
                f"{path} row {number} (line {line}) has {len(cells)} cells and the header has {len(columns)} "
                f"({listing(columns, 6)}); put quotes around cells that contain {delimiter!r}, or fill up the row"
            )
        yield cells, line
