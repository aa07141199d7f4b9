"""What a table's preprocessor learns, from the training examples alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.errors import UserError
from pipelines.names import input_names
from pipelines.tables.cells import WHITESPACE
from pipelines.tables.preprocess import CategoricalColumn, NumericColumn, TablePreprocessor

# The part of a column's spread that float32 may round away before the column is refused.
_TOLERABLE_ROUNDING = 1e-3


def fit(
    numeric: Mapping[str, np.ndarray],
    categorical: Mapping[str, np.ndarray],
    *,
    missing: str,
    normalization: str,
    origin: str,
) -> TablePreprocessor:
    """Learns fill values, normalisation and categories.

    Args:
        numeric: column → training values, float64 `(num_examples,)` or `(num_examples, size)`, NaN where missing.
        categorical: column → training values, object array of `str`, "" where missing.
        missing: `refuse`, `mean`, `median` or `most_frequent`.
        normalization: `none`, `min_max` or `z_score`.
        origin: where the examples come from, for messages.

    Raises:
        UserError: a column is empty in every training example, or float32 cannot tell its values apart.
    """
    inputs = iter(input_names([*numeric, *categorical]))
    return TablePreprocessor(
        tuple(_fit_numeric(name, next(inputs), v, missing, normalization, origin) for name, v in numeric.items()),
        tuple(_fit_categorical(name, next(inputs), v, missing, origin) for name, v in categorical.items()),
    )


def _fit_numeric(
    column: str, name: str, values: np.ndarray, missing: str, normalization: str, origin: str
) -> NumericColumn:
    parts = [
        _fit_component(column, values[:, i], missing, normalization, origin)
        for i in range(values.shape[1] if values.ndim == 2 else 0)
    ] or [_fit_component(column, values, missing, normalization, origin)]
    center, scale, fill = zip(*parts, strict=True)
    return NumericColumn(column, name, center, scale, () if missing == "refuse" else fill, values.ndim == 2)


def _fit_component(
    column: str, values: np.ndarray, missing: str, normalization: str, origin: str
) -> tuple[float, float, float]:
    """Center, scale and fill value of one number."""
    present = values[~np.isnan(values)]
    if not len(present):
        raise _empty_error(column, origin)
    # The model is given float32: what it is given is what is learned from, with float64's digits.
    rounded = present.astype(np.float32).astype(np.float64)
    _check_precision(column, present, rounded, origin)
    fill = _FILLS[missing](rounded)
    filled = np.where(np.isnan(values), fill, values.astype(np.float32).astype(np.float64))
    if normalization == "none":
        return 0.0, 1.0, fill
    center = float(filled.mean() if normalization == "z_score" else filled.min())
    spread = float(filled.std() if normalization == "z_score" else np.ptp(filled))
    # A column that never changes says nothing, and must not divide by zero. (A mean is rounded, so the standard
    # deviation of equal numbers may be a little above 0.)
    if np.ptp(filled) == 0:
        return float(filled[0]), 1.0, fill
    return center, spread, fill


def _check_precision(column: str, exact: np.ndarray, rounded: np.ndarray, origin: str) -> None:
    spread = float(exact.std())
    lost = float(np.sqrt(np.mean((exact - rounded) ** 2)))
    if np.ptp(exact) > 0 and lost > _TOLERABLE_ROUNDING * spread:
        step = float(np.spacing(np.float32(np.abs(exact).max())))
        raise UserError(
            f"{origin}: column {column} has values near {exact.mean():.6g} that differ by about {spread:.3g}, and "
            f"float32, which models compute in, has steps of {step:.3g} there; subtract an offset from the column in "
            "the file, or list it under data.categorical or data.ignore"
        )


def _most_frequent(values: np.ndarray) -> float:
    different, counts = np.unique(values, return_counts=True)
    return float(different[counts.argmax()])


# Under `refuse` there is nothing to fill in.
_FILLS = {
    "refuse": lambda values: 0.0,
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(np.median(values)),
    "most_frequent": _most_frequent,
}


def _fit_categorical(
    column: str, name: str, values: Sequence[str] | np.ndarray, missing: str, origin: str
) -> CategoricalColumn:
    counts: dict[str, int] = {}
    for value in values:
        stripped = value.strip(WHITESPACE)
        if stripped:
            counts[stripped] = counts.get(stripped, 0) + 1
    if not counts:
        raise _empty_error(column, origin)
    categories = tuple(sorted(counts))
    fill = max(categories, key=lambda category: counts[category])
    return CategoricalColumn(column, name, categories, None if missing == "refuse" else fill)


def _empty_error(column: str, origin: str) -> UserError:
    return UserError(f"{origin}: column {column} is empty in every training row; list it under data.ignore, or fill it")
