"""Cells of text → numbers and categories."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.names import shorten

# What spreadsheets, R, SQL and pandas write where a number is missing. In a categorical column only the empty cell
# counts: "NA" may well be Namibia, and "none" an answer.
MISSING_NUMBERS = frozenset({"", "nan", "na", "n/a", "null", "none"})
# ASCII only, so that it does what `tf.strings.strip` does in the graph.
WHITESPACE = " \t\n\v\f\r"

LARGEST = float(np.finfo(np.float32).max)


def parse_numbers(cells: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Reads numbers.

    Args:
        cells: text, or NaN where there is no cell.

    Returns:
        The numbers, float64, NaN where one is missing; and which cells are text and no number, bool.
    """
    values = [_number(cell) for cell in cells]
    unreadable = np.fromiter((value is None for value in values), bool, len(values))
    return np.fromiter((math.nan if value is None else value for value in values), np.float64, len(values)), unreadable


def _number(cell: Any) -> float | None:
    try:
        # Python would read 1_000 as a thousand, which no other program means.
        return float(cell) if isinstance(cell, float) or "_" not in cell else None
    except ValueError:
        return math.nan if cell.strip().lower() in MISSING_NUMBERS else None


def numeric_column(
    cells: Sequence[Any], column: str, *, missing: str, place: Callable[[int], str], hint: str = ""
) -> np.ndarray:
    """The numbers of a feature column, float64, NaN where one is missing and may be.

    Args:
        cells: text, or NaN where there is no cell.
        column: its name, for messages.
        missing: `data.missing`; under `refuse` a missing number is an error.
        place: from a cell's index to its file and row, for messages.
        hint: the end of the message about a cell that is no number.

    Raises:
        UserError: a cell is no number, infinite, too large for float32, or missing under `refuse`.
    """
    values, unreadable = parse_numbers(cells)
    if unreadable.any():
        index = int(unreadable.argmax())
        raise UserError(
            f'{place(index)}, column {column}: "{shorten(cells[index])}" is not a number; '
            + (hint or "correct it, or list the column under data.categorical or data.ignore")
        )
    check_finite(values, column, missing=missing, place=place)
    return values


def check_finite(values: np.ndarray, column: str, *, missing: str, place: Callable[[int], str]) -> None:
    """Refuses numbers that no model input can be.

    Raises:
        UserError: a number is infinite, too large for float32, or missing where `missing` is `refuse`.
    """
    too_large = np.abs(values) > LARGEST
    if too_large.any():
        index = int(too_large.argmax())
        said = "is not finite" if math.isinf(values[index]) else f"is beyond what float32 can hold ({LARGEST:.2g})"
        raise UserError(f"{place(index)}, column {column}: {values[index]:g} {said}; correct it or leave out the row")
    absent = np.isnan(values)
    if missing == "refuse" and absent.any():
        raise missing_error(place(int(absent.argmax())), column, int(absent.sum()))


def categorical_column(cells: Sequence[Any], column: str, *, missing: str, place: Callable[[int], str]) -> np.ndarray:
    """The categories of a feature column as they are written, object array of `str`, "" where one is missing.

    Raises:
        UserError: a category is missing and `missing` is `refuse`.
    """
    values = ["" if isinstance(cell, float) else cell for cell in cells]
    if missing == "refuse":
        absent = [index for index, value in enumerate(values) if not value.strip(WHITESPACE)]
        if absent:
            raise missing_error(place(absent[0]), column, len(absent))
    array = np.empty(len(values), object)
    array[:] = values
    return array


def missing_error(place: str, column: str, count: int) -> UserError:
    """The error about missing cells in a column of features."""
    more = f" (and {count - 1:,} more cells of this column)" if count > 1 else ""
    return UserError(
        f"{place}, column {column}: the cell is empty or NaN{more}; fill it in the file, or set data.missing to mean, "
        "median or most_frequent"
    )
