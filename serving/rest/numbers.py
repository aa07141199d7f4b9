"""Decimals as TensorFlow Serving prints them: 6 digits where they suffice to read the number back, else 9 (float) or
17 (double); `.0` where there would be neither a point nor an exponent; NaN and Infinity bare.
"""

from __future__ import annotations

import math
from itertools import chain

import numpy as np

SHORT_DIGITS = 6
FLOAT_DIGITS, DOUBLE_DIGITS = 9, 17
_STEP = 8192


def decimal_texts(values: np.ndarray) -> list[str]:
    """The texts of all values of an array.

    Args:
        values: A flat array of float32 or float64.

    Returns:
        One text for each.

    Example:
        >>> decimal_texts(np.float32([0.2, 3, 9e6, 0.1234567]))
        ['0.2', '3.0', '9e+06', '0.123456702']
    """
    if len(values) > _STEP:
        # In steps, because formatting keeps Python's lock: between them the event loop gets its turn.
        steps = (decimal_texts(values[start : start + _STEP]) for start in range(0, len(values), _STEP))
        return list(chain.from_iterable(steps))
    if not len(values):
        return []
    short = _formatted(values, SHORT_DIGITS)
    read_back = np.array(list(map(float, short))).astype(values.dtype)
    # NaN differs from itself, and is repaired below with the infinities.
    long = np.flatnonzero(read_back != values)
    if len(long):
        digits = FLOAT_DIGITS if values.dtype == np.float32 else DOUBLE_DIGITS
        for index, text in zip(long.tolist(), _formatted(values[long], digits), strict=True):
            short[index] = text
    texts = [text if "." in text or "e" in text else text + ".0" for text in short]
    if not np.isfinite(values).all():
        for index in np.flatnonzero(~np.isfinite(values)).tolist():
            value = values[index]
            texts[index] = "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return texts


def decimal_text(value: float, single: bool) -> str:
    """The text of one number, rounded to a float first when `single`."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return decimal_texts(np.array([value], np.float32 if single else np.float64))[0]


def _formatted(values: np.ndarray, digits: int) -> list[str]:
    # One format string for all: half the time of formatting them one by one.
    return (f"%.{digits}g " * len(values) % tuple(values.tolist())).split()
