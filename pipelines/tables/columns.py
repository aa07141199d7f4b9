"""Which columns of a table are features, and of what kind."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.config import TableConfig
from pipelines.errors import UserError
from pipelines.names import did_you_mean, shorten
from pipelines.tables.cells import WHITESPACE, parse_numbers

# More categories than this are free text or identifiers: nobody means to one-hot encode them without saying so.
_MOST_INFERRED_CATEGORIES = 1_000


@dataclasses.dataclass(frozen=True)
class Columns:
    """The feature columns, in the order of the model's input: numeric, then categorical."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]


def require_column(column: str, columns: Sequence[str], origin: str, key: str) -> None:
    """Checks that a column is there.

    Raises:
        UserError: it is not; the message has the nearest name.
    """
    if column not in columns:
        hint = did_you_mean(column, columns)
        if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
            hint = f'its only one is "{shorten(columns[0])}"; set data.delimiter to the character between cells'
        raise UserError(f'{origin} has no column "{shorten(column)}" ({key}); {hint}')


def choose_columns(
    columns: Sequence[str],
    training_cells: Callable[[str], Sequence[Any]],
    config: TableConfig,
    origin: str,
    place: Callable[[int], str],
) -> Columns:
    """The feature columns that the configuration names, or else those that the training examples show.

    Args:
        columns: all columns of the table.
        training_cells: from a column to its cells in the training split.
        config: the run's configuration.
        origin: the file, for messages.
        place: from a training cell's index to its file and row, for messages.

    Raises:
        UserError: a column that the configuration names is not there or is named twice; no feature is left; a column is
            empty, holds numbers and text, or has too many categories to be one.
    """
    _check_lists(columns, config, origin)
    if config.numeric is not None or config.categorical is not None:
        chosen = Columns(tuple(config.numeric or ()), tuple(config.categorical or ()))
    else:
        candidates = [column for column in columns if column != config.label and column not in config.ignore]
        numeric = {column: _is_numeric(training_cells(column), column, origin, place) for column in candidates}
        chosen = Columns(
            tuple(column for column in candidates if numeric[column]),
            tuple(column for column in candidates if not numeric[column]),
        )
    if not chosen.numeric and not chosen.categorical:
        raise UserError(f"{origin}: no feature column is left beside the label {config.label}; see data.numeric")
    return chosen


def _check_lists(columns: Sequence[str], config: TableConfig, origin: str) -> None:
    require_column(config.label, columns, origin, "data.label")
    named: dict[str, str] = {config.label: "data.label"}
    for key in ("numeric", "categorical", "ignore"):
        for column in getattr(config, key) or ():
            require_column(column, columns, origin, f"data.{key}")
            if column in named:
                raise UserError(
                    f'column "{shorten(column)}" is named in {named[column]} and in data.{key}; leave it in one of them'
                )
            named[column] = f"data.{key}"


def _is_numeric(cells: Sequence[Any], column: str, origin: str, place: Callable[[int], str]) -> bool:
    """Whether a column holds numbers, as far as the training examples show.

    Raises:
        UserError: they do not show it clearly, and guessing would hide a mistake in the file.
    """
    values, unreadable = parse_numbers(cells)
    num_text, num_numbers = int(unreadable.sum()), int((~np.isnan(values)).sum())
    if not num_text:
        if not num_numbers:
            raise UserError(
                f"{origin}: column {column} is empty in every training row; list it under data.ignore, or fill it"
            )
        return True
    if num_numbers > num_text:
        index = int(unreadable.argmax())
        raise UserError(
            f'{place(index)}, column {column}: "{shorten(cells[index])}" is not a number, and {num_numbers:,} cells of '
            "the column are; correct it, or list the column under data.categorical or data.ignore"
        )
    num_categories = len({cell.strip(WHITESPACE) for cell in cells if isinstance(cell, str)})
    if num_categories > min(_MOST_INFERRED_CATEGORIES, max(50, len(cells) // 2)):
        raise UserError(
            f"{origin}: column {column} has {num_categories:,} different values in {len(cells):,} training rows, which "
            "looks like free text, identifiers, dates or numbers with separators; write numbers as 1030.5, list it "
            "under data.ignore, or under data.categorical if it is meant"
        )
    return False
