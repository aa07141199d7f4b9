"""What every table format gives: the columns' names and the rows, one after the other."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Records(NamedTuple):
    """A table being read.

    Attributes:
        columns: the names, in order.
        rows: for each row its cells (`str`, or None where there is none) and the line it ends on, where there is one.
    """

    columns: Sequence[str]
    rows: Iterator[tuple[Sequence[Any], int | None]]
