"""What a table's preprocessor learns, from training examples that come in parts and are not kept."""

import dataclasses
import math

import numpy as np

from pipelines.errors import UserError
from pipelines.tables.cells import WHITESPACE
from pipelines.tables.preprocess import CategoricalColumn, NumericColumn

# Numbers that median and most frequent value are found among.
_SAMPLE = 100_000
# More categories are identifiers or free text, and would take more memory than their numbers are worth.
_MOST_CATEGORIES = 100_000
# The part of a column's spread that float32 may round away, as `pipelines.tables.fitting` has it.
_TOLERABLE_ROUNDING = 1e-3


@dataclasses.dataclass
class Moments:
    """Count, mean and sum of squared differences from the mean, of parts that are put together.

    Reference:
        Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Adds numbers, float64, none of them missing."""
        if len(values):
            mean = float(values.mean())
            self.merge(Moments(len(values), mean, float(((values - mean) ** 2).sum())))

    def merge(self, other: "Moments") -> None:
        """Adds what `other` has seen."""
        count = self.count + other.count
        if count:
            apart = other.mean - self.mean
            self.squares += other.squares + apart**2 * self.count * other.count / count
            self.mean += apart * other.count / count
            self.count = count

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


class NumericStatistics:
    """What is to be known of a numeric column.

    Args:
        sampled: whether median and most frequent value are wanted.
    """

    def __init__(self, sampled: bool) -> None:
        self.moments = Moments()
        self.num_missing = 0
        self._exact = Moments()
        self._lost = 0.0
        self._least, self._most = math.inf, -math.inf
        self._sampled = sampled
        self._keys = np.zeros(0, np.uint64)
        self._values = np.zeros(0)

    def add(self, values: np.ndarray, keys: np.ndarray) -> None:
        """Adds training examples.

        Args:
            values: float64 `(num,)`, NaN where one is missing.
            keys: uint64 `(num,)`, the examples' own random bits: those with the smallest ones are the sample.
        """
        present = ~np.isnan(values)
        exact = values[present]
        self.num_missing += len(values) - len(exact)
        if not len(exact):
            return
        # The model is given float32: what it is given is what is learned from, with float64's digits.
        rounded = exact.astype(np.float32).astype(np.float64)
        self.moments.add(rounded)
        self._exact.add(exact)
        self._lost += float(((exact - rounded) ** 2).sum())
        self._least, self._most = min(self._least, float(rounded.min())), max(self._most, float(rounded.max()))
        if self._sampled:
            self._keys = np.concatenate([self._keys, keys[present]])
            self._values = np.concatenate([self._values, rounded])
            if len(self._keys) > 2 * _SAMPLE:
                self._shrink()

    def fitted(self, column: str, name: str, missing: str, normalization: str, origin: str) -> NumericColumn:
        """How the column is normalised and filled in, as `pipelines.tables.fitting.fit` would say of all values.

        Args:
            column: its name in the files.
            name: its name as an input of the served model.
            missing: `data.missing`.
            normalization: `data.normalization`.
            origin: the files, for messages.

        Raises:
            UserError: the column is empty in every training example, or float32 cannot tell its values apart.
        """
        if not self.moments.count:
            raise _empty(column, origin)
        self._check_precision(column, origin)
        fill = self._fill(missing)
        center, scale = 0.0, 1.0
        if normalization != "none":
            least, most = (
                (min(self._least, fill), max(self._most, fill)) if self.num_missing else (self._least, self._most)
            )
            filled = dataclasses.replace(self.moments)
            filled.merge(Moments(self.num_missing, fill))
            center = filled.mean if normalization == "z_score" else least
            scale = filled.deviation if normalization == "z_score" else most - least
            if least == most:  # it says nothing, and must not divide by zero
                center, scale = least, 1.0
        return NumericColumn(column, name, (center,), (scale,), () if missing == "refuse" else (fill,))

    def _fill(self, missing: str) -> float:
        if missing == "refuse":
            return 0.0
        if missing == "mean":
            return self.moments.mean
        self._shrink()
        if missing == "median":
            return float(np.median(self._values))
        different, counts = np.unique(self._values, return_counts=True)
        return float(different[counts.argmax()])

    def _shrink(self) -> None:
        chosen = np.argsort(self._keys, kind="stable")[:_SAMPLE]
        self._keys, self._values = self._keys[chosen], self._values[chosen]

    def _check_precision(self, column: str, origin: str) -> None:
        lost = math.sqrt(self._lost / self._exact.count)
        spread = self._exact.deviation
        if lost > _TOLERABLE_ROUNDING * spread and self._exact.squares > 0 and spread > 1e-12 * abs(self._exact.mean):
            raise UserError(
                f"{origin}: column {column} has values near {self._exact.mean:.6g} that differ by about {spread:.3g}, "
                "which float32, which models compute in, cannot tell apart; subtract an offset from the column, or "
                "list it under data.categorical or data.ignore"
            )


class CategoryCounts:
    """How often each category of a column occurs in training examples."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, values: list[str], column: str, origin: str) -> None:
        """Adds training examples, "" where one is missing.

        Raises:
            UserError: there are too many categories.
        """
        for value in values:
            stripped = value.strip(WHITESPACE)
            if stripped:
                self.counts[stripped] = self.counts.get(stripped, 0) + 1
        if len(self.counts) > _MOST_CATEGORIES:
            raise UserError(
                f"{origin}: column {column} has more than {_MOST_CATEGORIES:,} different values, which looks like free "
                "text or identifiers; list it under data.ignore"
            )

    def fitted(self, column: str, name: str, missing: str, origin: str) -> CategoricalColumn:
        """The categories and what fills in for a missing one.

        Raises:
            UserError: the column is empty in every training example.
        """
        if not self.counts:
            raise _empty(column, origin)
        categories = tuple(sorted(self.counts))
        # Of equally frequent ones the first, whatever the order of the files.
        fill = max(categories, key=lambda category: self.counts[category])
        return CategoricalColumn(column, name, categories, None if missing == "refuse" else fill)


def _empty(column: str, origin: str) -> UserError:
    return UserError(
        f"{origin}: column {column} is empty in every training example; list it under data.ignore, or fill it"
    )
