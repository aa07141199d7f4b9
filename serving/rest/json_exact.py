"""JSON values as tensors, element by element, by TensorFlow Serving's rules, in its order, with its words.

The quick way of `json_request` comes here with everything that it does not take. Values must come from
`json_text.parse_json_exactly`: their nesting is limited, so that recursion is safe.

Reference:
    tensorflow_serving/util/json_tensor.cc
"""

from __future__ import annotations

import binascii
import math
import string
from typing import Any

import numpy as np

from serving.errors import Code, ServingError
from serving.rest.json_text import in_64_bits, type_name, value_text
from serving.tensors import BY_ENUM, dtype_name

# Of float and double: the largest integer below which every one is exact, and the largest number.
FLOAT_TYPES: dict[int, tuple[int, float]] = {
    1: (2**24 - 1, float(np.finfo(np.float32).max)),
    2: (2**53 - 1, float(np.finfo(np.float64).max)),
}
_INT32 = (-(2**31), 2**31 - 1)
# The integer types that JSON may fill, with the numbers accepted. The 8 and 16 bit ones travel as int32 and are cut to
# their lowest bits later, in TensorFlow Serving as here. There is no uint16.
INTEGER_BOUNDS: dict[int, tuple[int, int]] = {
    3: _INT32, 4: _INT32, 5: _INT32, 6: _INT32,
    9: (-(2**63), 2**63 - 1), 22: (0, 2**32 - 1), 23: (0, 2**64 - 1),
}  # fmt: skip
STRING, BOOL = 7, 10
# numpy's arrays have no more dimensions.
MAX_RANK = 64

_BASE64_LETTERS = (string.ascii_letters + string.digits + "+/").encode()


def is_base64_object(value: Any) -> bool:
    """Whether a value is `{"b64": "…"}`: binary data, and no object with keys."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def decode_base64(text: str) -> bytes | None:
    """Base64 as Abseil decodes it: white space is skipped, padding may be left out or be dots, other letters (the
    URL-safe ones too) are errors.

    Args:
        text: Untrusted.

    Returns:
        The bytes; None = no base64.
    """
    data = text.encode().translate(None, b" \t\n\v\f\r")
    letters = data.rstrip(b"=.")
    padding = -len(letters) % 4
    if padding == 3 or len(data) - len(letters) not in (0, padding) or letters.translate(None, _BASE64_LETTERS):
        return None
    return binascii.a2b_base64(letters + b"=" * padding)


def exact_instances(instances: list[Any], dtypes: dict[str, int]) -> dict[str, np.ndarray]:
    """Rows as arrays with a batch dimension.

    Args:
        instances: The list under that key, not empty.
        dtypes: `{input name: DataType number}`, sorted.

    Raises:
        ServingError: INVALID_ARGUMENT with the contract's text.
    """
    if type(instances[0]) is not dict and len(dtypes) > 1:
        raise _error(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    rows_are_objects = _is_object(instances[0])
    columns = {name: _Column(dtype) for name, dtype in dtypes.items()}
    for index, item in enumerate(instances):
        if rows_are_objects:
            _add_object(item, index, columns)
        elif _is_object(item):
            raise _error(f"Expecting value/list but got object at item {index} of input list")
        else:
            try:
                next(iter(columns.values())).add(item)
            except ServingError as error:
                raise _error(
                    f"Failed to process element: {index} of 'instances' list. Error: {_shown(error)}"
                ) from None
    missing = [name for name, column in columns.items() if not column.rows]
    if missing:  # several inputs, and rows that are binary values: Predict's words for what is missing then
        sent = sorted(columns.keys() - set(missing))
        raise _error(
            f"input size does not match signature: {len(sent)}!={len(columns)} len({{{','.join(sent)}}}) != "
            f"len({{{','.join(columns)}}}). Sent extra: {{}}. Missing but required: {{{','.join(missing)}}}."
        )
    return {name: column.array() for name, column in columns.items()}


def exact_inputs(inputs: Any, dtypes: dict[str, int]) -> dict[str, np.ndarray]:
    """Columns as arrays.

    Args:
        inputs: The value under that key: an object by input names or, for a single input, its value.
        dtypes: `{input name: DataType number}`, sorted.

    Raises:
        ServingError: INVALID_ARGUMENT, UNIMPLEMENTED for a dtype that JSON cannot fill.
    """
    if not _is_object(inputs):
        if len(dtypes) > 1:
            raise _error(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return {name: exact_array(inputs, dtype) for name, dtype in dtypes.items()}
    arrays = {}
    for name, dtype in dtypes.items():
        if name not in inputs:
            raise _error(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = exact_array(inputs[name], dtype)
    return arrays


def exact_array(value: Any, dtype: int) -> np.ndarray:
    """A value, or lists in lists of values, as an array of a `DataType`.

    Raises:
        ServingError: Ragged lists, a value of another type, base64 that is none, a dtype that JSON cannot fill.
    """
    shape, leaves = _shape_and_leaves(value, dtype)
    return _array(leaves, shape, dtype)


class _Column:
    """The rows of one input: their elements one after another, and the shape that all of them have."""

    def __init__(self, dtype: int) -> None:
        self.rows = 0
        self._dtype = dtype
        self._leaves: list[Any] = []
        self._shape: list[int] = []

    def add(self, value: Any) -> None:
        shape, leaves = _shape_and_leaves(value, self._dtype)
        if not self.rows:
            self._shape = shape
        elif math.prod(shape) != math.prod(self._shape):
            raise _error(f"Expecting tensor size: {math.prod(self._shape)} but got: {math.prod(shape)}")
        elif shape != self._shape:
            raise _error(f"Expecting shape {_shape_text(self._shape)} but got: {_shape_text(shape)}")
        self.rows += 1
        self._leaves += leaves

    def array(self) -> np.ndarray:
        return _array(self._leaves, [self.rows, *self._shape], self._dtype)


def _shape_and_leaves(value: Any, dtype: int) -> tuple[list[int], list[Any]]:
    """The shape that the first elements say, and all elements, of which there are as many as the shape needs."""
    shape: list[int] = []
    inner = value
    while type(inner) is list:
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    leaves: list[Any] = []
    _add_leaves(value, 0, shape, dtype, leaves)
    return shape, leaves


def _array(leaves: list[Any], shape: list[int], dtype: int) -> np.ndarray:
    if len(shape) > MAX_RANK:
        raise _error(f"Encountered {len(shape)} levels of lists; a tensor has at most {MAX_RANK} dimensions")
    if dtype not in BY_ENUM:  # an empty list: there was no element to refuse
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: [] to type: {dtype_name(dtype)}")
    numpy_type = BY_ENUM[dtype].numpy
    if dtype == STRING:
        array = np.empty(len(leaves), dtype=object)
        array[:] = leaves
    else:
        wide = np.int64 if INTEGER_BOUNDS.get(dtype) == _INT32 else np.float64 if dtype in FLOAT_TYPES else numpy_type
        array = np.array(leaves, wide).astype(numpy_type)
    return array.reshape(shape)


def _add_object(item: Any, index: int, columns: dict[str, _Column]) -> None:
    if not _is_object(item):
        raise _error(f"Expecting object but got list at item {index} of input list")
    for name, value in item.items():
        try:
            if name not in columns:
                raise _error(f"JSON object: does not have named input: {name}")
            columns[name].add(value)
        except ServingError as error:
            raise _error(
                f"Failed to process element: {index} key: {name} of 'instances' list. Error: {_shown(error)}"
            ) from None
    if item.keys() != columns.keys():
        raise _error(
            f"Failed to process element: {index} of 'instances' list. JSON object: {value_text(item)} keys must be "
            f"equal to: {','.join(columns)}"
        )


def _add_leaves(value: Any, level: int, shape: list[int], dtype: int, leaves: list[Any]) -> None:
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            raise _error(
                f"JSON Value: {value_text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= rank:
        raise _error(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise _error(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _add_leaves(element, level + 1, shape, dtype, leaves)


def _leaf(value: Any, dtype: int) -> Any:
    """One element as what numpy takes for the dtype."""
    value = in_64_bits(value)
    kind = type(value)
    if kind is dict:
        return _base64_leaf(value, dtype)
    if dtype in FLOAT_TYPES:
        fits = kind in (int, float)
        if fits and not is_lossless(value, dtype):
            name = dtype_name(dtype)
            raise _error(f"Cannot convert JSON value: {value_text(value)} to {name} without loss of precision.")
    elif dtype in INTEGER_BOUNDS:
        low, high = INTEGER_BOUNDS[dtype]
        fits = kind is int and low <= value <= high
    elif dtype == STRING:
        fits = kind is str
    elif dtype == BOOL:
        fits = kind is bool
    else:
        raise ServingError(
            Code.UNIMPLEMENTED, f"Conversion of JSON Value: {value_text(value)} to type: {dtype_name(dtype)}"
        )
    if not fits:
        raise _type_error(value, dtype)
    return value.encode() if kind is str else value


def is_lossless(value: float, dtype: int) -> bool:
    """Whether a number may become a float (1) or double (2): integers up to where all are exact, decimals in range."""
    largest_int, largest = FLOAT_TYPES[dtype]
    if type(value) is int:
        return abs(value) <= largest_int
    return not math.isfinite(value) or abs(value) <= largest


def _base64_leaf(value: Any, dtype: int) -> bytes:
    if dtype != STRING:
        raise _type_error(value, dtype)
    if not is_base64_object(value):
        raise _error(f"JSON Value: {value_text(value)} not formatted correctly for base64 data")
    decoded = decode_base64(value["b64"])
    if decoded is None:
        raise _error("Unable to base64 decode")
    return decoded


def _is_object(value: Any) -> bool:
    return type(value) is dict and not is_base64_object(value)


def _shape_text(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _type_error(value: Any, dtype: int) -> ServingError:
    return _error(
        f"JSON Value: {value_text(value)} Type: {type_name(value)} is not of expected type: {dtype_name(dtype)}"
    )


def _error(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)


def _shown(error: ServingError) -> str:
    """An error inside another's text, as `Status::ToString` shows it."""
    return f"{error.code.name}: {error.message}"
