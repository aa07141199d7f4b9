"""Decimals against C's printf, digit by digit."""

import ctypes
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rest.numbers import decimal_text, decimal_texts

snprintf = ctypes.CDLL(None).snprintf
strtof, strtod = ctypes.CDLL(None).strtof, ctypes.CDLL(None).strtod
strtof.restype, strtod.restype = ctypes.c_float, ctypes.c_double


def reference(value, single):
    """The rule in C: %.6g if it reads back, else %.9g or %.17g, and `.0` where it looks like an integer."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    buffer = ctypes.create_string_buffer(64)
    for digits, read in ((6, strtof if single else strtod), (9 if single else 17, None)):
        snprintf(buffer, 64, b"%.*g", digits, ctypes.c_double(value))
        if read is None or read(buffer.value, None) == value:
            break
    text = buffer.value.decode()
    return text if "." in text or "e" in text else text + ".0"


@given(st.lists(st.floats(width=32), min_size=1))
def test_floats_are_printed_as_c_prints_them(values):
    assert decimal_texts(np.array(values, np.float32)) == [reference(value, True) for value in values]


@given(st.lists(st.floats(), min_size=1))
def test_doubles_are_printed_as_c_prints_them(values):
    assert decimal_texts(np.array(values, np.float64)) == [reference(value, False) for value in values]


@given(st.lists(st.floats(allow_nan=False, width=32)))
def test_floats_are_read_back_as_they_were(values):
    array = np.array(values, np.float32)
    np.testing.assert_array_equal(np.array([float(text) for text in decimal_texts(array)], np.float32), array)


def test_many_ordinary_numbers():
    values = np.random.default_rng(1).normal(size=20_000).astype(np.float32)
    assert decimal_texts(values) == [reference(value, True) for value in values.tolist()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9000000, "9e+06"), (999999, "999999.0"), (0.5, "0.5"), (0.0003, "0.0003"), (0.00003, "3e-05"),
        (555557.5, "555557.5"), (0.2, "0.2"), (-0.0, "-0.0"), (3, "3.0"), (0.1234567, "0.123456702"),
        (1e-45, "1.4013e-45"), (math.nan, "NaN"), (-math.inf, "-Infinity"), (1e10, "1e+10"),
    ],
)  # fmt: skip
def test_floats(value, text):
    assert decimal_text(value, single=True) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1 / 3, "0.33333333333333331"),
        (123456789, "123456789.0"),
        (1e300, "1e+300"),
        (math.inf, "Infinity"),
    ],
)
def test_doubles(value, text):
    assert decimal_text(value, single=False) == text
