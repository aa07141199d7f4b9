"""The label column of a table."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.names import shorten
from pipelines.tables.cells import WHITESPACE, check_finite, parse_numbers


def class_labels(cells: Sequence[Any], column: str, place: Callable[[int], str]) -> np.ndarray:
    """Class names as they are written, without white space around them: object array of `str`.

    Raises:
        UserError: a label is missing.
    """
    labels = np.empty(len(cells), object)
    labels[:] = ["" if isinstance(cell, float) else cell.strip(WHITESPACE) for cell in cells]
    for index, label in enumerate(labels):
        if not label:
            raise _missing(place(index), column)
    return labels


def target_labels(cells: Sequence[Any], column: str, place: Callable[[int], str]) -> np.ndarray:
    """Targets of a regression, float64.

    Raises:
        UserError: a label is missing or no finite number.
    """
    values, unreadable = parse_numbers(cells)
    if unreadable.any():
        index = int(unreadable.argmax())
        raise UserError(
            f'{place(index)}, column {column}: the label "{shorten(cells[index])}" is not a number, and data.task is '
            "regression; correct it, or set data.task: classification"
        )
    absent = np.isnan(values)
    if absent.any():
        raise _missing(place(int(absent.argmax())), column)
    check_finite(values, column, missing="refuse", place=place)
    return values


def _missing(place: str, column: str) -> UserError:
    return UserError(
        f"{place}, column {column}: the label is empty; a label cannot be filled in, so give it or leave out the row"
    )
