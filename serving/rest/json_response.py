"""Answers as JSON, with the white space and digits of TensorFlow Serving.

It prints with RapidJSON's PrettyWriter: four spaces for a level, everything on a line of its own, except that rows
(`predictions`) switch to arrays on a single line. Strings are written as their bytes, UTF-8 or not.

Reference:
    tensorflow_serving/util/json_tensor.cc
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.errors import Code, ServingError
from serving.rest.numbers import decimal_texts
from serving.tensors import BY_NUMPY

_INDENT = "    "
# Outputs of this name's ending are bytes, not text: base64.
BYTES_SUFFIX = "_bytes"
_SPECIAL = re.compile(r'[\x00-\x1f"\\]')
_ESCAPES = {code: f"\\u{code:04X}" for code in range(32)} | {
    ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r",
}  # fmt: skip
_INTEGERS = frozenset({"int32", "int16", "int8", "uint8", "int64", "uint32", "uint64"})


def predict_body(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    r"""The answer to a Predict request.

    Args:
        outputs: `{output name: array}`, strings as object arrays of bytes. A single output drops its name.
        row_format: `predictions`, a list with an element for each row; else `outputs`, whole arrays.

    Raises:
        ServingError: INVALID_ARGUMENT, a dtype without a JSON form, or rows of outputs that do not match.

    Example:
        >>> predict_body({"y": np.float32([3.5, 4])}, row_format=True)
        b'{\\n    "predictions": [3.5, 4.0\\n    ]\\n}'
    """
    if not outputs:
        raise ServingError(Code.INVALID_ARGUMENT, "Cannot convert empty tensor map to JSON")
    arrays = {name: np.asarray(outputs[name]) for name in sorted(outputs)}
    text = _rows(arrays) if row_format else _columns(arrays)
    return _encoded("{\n" + text + "\n}")


def classify_body(response: Any) -> bytes:
    """The answer to a Classify request: for each example its `[label, score]` pairs.

    Args:
        response: A `ClassificationResponse`.

    Raises:
        ServingError: INVALID_ARGUMENT, it is empty.
    """
    classifications = response.result.classifications
    if not classifications:
        raise ServingError(Code.INVALID_ARGUMENT, "Cannot convert empty ClassificationResults to JSON")
    classes = [item for row in classifications for item in row.classes]
    scores = decimal_texts(np.array([item.score for item in classes], np.float32))
    pairs = iter(f"[{_quoted(item.label)}, {score}]" for item, score in zip(classes, scores, strict=True))
    rows = ["[" + ", ".join(next(pairs) for _ in row.classes) + "]" for row in classifications]
    return _encoded(f'{{\n{_INDENT}"results": [{", ".join(rows)}\n{_INDENT}]\n}}')


def regress_body(response: Any) -> bytes:
    """The answer to a Regress request: a number for each example.

    Args:
        response: A `RegressionResponse`.

    Raises:
        ServingError: INVALID_ARGUMENT, it is empty.
    """
    regressions = response.result.regressions
    if not regressions:
        raise ServingError(Code.INVALID_ARGUMENT, "Cannot convert empty RegressionResults to JSON")
    values = decimal_texts(np.array([item.value for item in regressions], np.float32))
    return _encoded(f'{{\n{_INDENT}"results": [{", ".join(values)}]\n}}')


def error_body(message: str) -> bytes:
    r"""The answer to a request that failed.

    Example:
        >>> error_body("Missing model name in request.")
        b'{\\n    "error": "Missing model name in request."\\n}'
    """
    return f'{{\n{_INDENT}"error": {_quoted(message)}\n}}'.encode("utf-8", "replace")


def _rows(arrays: dict[str, np.ndarray]) -> str:
    """`"predictions": […]`: arrays on single lines, objects over several."""
    size = -1
    for name, array in arrays.items():
        if not array.ndim:
            raise ServingError(Code.INVALID_ARGUMENT, f"Tensor name: {name} has no shape information ")
        if size not in (-1, len(array)):
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}",
            )
        size = len(array)
    if not size:
        return f'{_INDENT}"predictions": []'
    if len(arrays) == 1:
        ((name, array),) = arrays.items()
        rows = _nested(_leaf_texts(name, array, 2 + array.ndim - 1), array.shape, 1, _single_line)
        return f'{_INDENT}"predictions": [{", ".join(rows)}\n{_INDENT}]'
    columns = []
    for name, array in arrays.items():
        head = f"{_INDENT * 3}{_quoted(name)}: "
        texts = _nested(_leaf_texts(name, array, 3 + array.ndim - 1), array.shape, 1, _single_line)
        columns.append([head + text for text in texts])
    objects = (",\n".join(row) for row in zip(*columns, strict=True))
    listed = ",\n".join(f"{_INDENT * 2}{{\n{row}\n{_INDENT * 2}}}" for row in objects)
    return f'{_INDENT}"predictions": [\n{listed}\n{_INDENT}]'


def _columns(arrays: dict[str, np.ndarray]) -> str:
    """`"outputs": …`: every element on a line of its own."""
    if len(arrays) == 1:
        ((name, array),) = arrays.items()
        return f'{_INDENT}"outputs": {_column(name, array, 1)}'
    listed = ",\n".join(f"{_INDENT * 2}{_quoted(name)}: {_column(name, array, 2)}" for name, array in arrays.items())
    return f'{_INDENT}"outputs": {{\n{listed}\n{_INDENT}}}'


def _column(name: str, array: np.ndarray, level: int) -> str:
    (text,) = _nested(_leaf_texts(name, array, level + array.ndim), array.shape, 0, _lines(level))
    return text


def _nested(texts: list[str], shape: tuple[int, ...], outer: int, join: Any) -> list[str]:
    """Joins the elements to lists, innermost first, until the first `outer` dimensions are left."""
    for axis in range(len(shape) - 1, outer - 1, -1):
        size = shape[axis]
        if size:
            texts = [join(texts[start : start + size], axis) for start in range(0, len(texts), size)]
        else:
            texts = ["[]"] * math.prod(shape[:axis])
    return texts


def _single_line(texts: list[str], axis: int) -> str:
    return "[" + ", ".join(texts) + "]"


def _lines(level: int) -> Any:
    def join(texts: list[str], axis: int) -> str:
        line = "\n" + _INDENT * (level + axis + 1)
        return "[" + line + ("," + line).join(texts) + "\n" + _INDENT * (level + axis) + "]"

    return join


def _leaf_texts(name: str, array: np.ndarray, level: int) -> list[str]:
    """The JSON text of every element, which stands inside `level` objects and lists."""
    flat = array.reshape(-1)
    if not len(flat):
        return []
    wire = BY_NUMPY.get(array.dtype)
    kind = wire.name if wire else str(array.dtype)
    if kind in ("float", "double"):
        return decimal_texts(flat)
    if kind in _INTEGERS:
        return list(map(str, flat.tolist()))
    if kind == "bool":
        return ["true" if value else "false" for value in flat.tolist()]
    if kind == "string" and name.endswith(BYTES_SUFFIX):
        head = f'{{\n{_INDENT * (level + 1)}"b64": "'
        tail = f'"\n{_INDENT * level}}}'
        return [head + binascii.b2a_base64(value, newline=False).decode() + tail for value in flat.tolist()]
    if kind == "string":
        return [_quoted(value.decode("utf-8", "surrogateescape")) for value in flat.tolist()]
    raise ServingError(Code.INVALID_ARGUMENT, f"Failed to write JSON value for tensor type: {kind}")


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES) if _SPECIAL.search(text) else text}"'


def _encoded(text: str) -> bytes:
    # Bytes that are no UTF-8 went in as surrogates and come out as they were.
    return text.encode("utf-8", "surrogateescape")
