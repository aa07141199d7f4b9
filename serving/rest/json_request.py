"""The body of a Predict request as arrays.

Lists of numbers are turned into arrays without a look at each element from Python. Whatever is not plainly right goes
the exact way (`json_exact`), element by element, which either succeeds after all or says what TensorFlow Serving says.
Every array has as many elements as the body has values: no size is taken from the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from serving.errors import Code, ServingError
from serving.inference.predict import DEFAULT_SIGNATURE
from serving.rest.json_exact import (
    BOOL,
    FLOAT_TYPES,
    INTEGER_BOUNDS,
    MAX_RANK,
    STRING,
    decode_base64,
    exact_inputs,
    exact_instances,
    is_base64_object,
)
from serving.rest.json_text import CONSTANTS, object_of, parse_json_exactly, signature_name_of, value_text
from serving.tensors import BY_ENUM


@dataclass(frozen=True)
class PredictBody:
    """What a Predict request asks for.

    Attributes:
        signature_name: The signature, `serving_default` when the request names none.
        inputs: `{input name: array}` for every input of the signature, in sorted order of the names.
        row_format: Whether the answer is to be in rows (`instances`, `predictions`) or columns (`inputs`, `outputs`).
    """

    signature_name: str
    inputs: dict[str, np.ndarray]
    row_format: bool


def parse_predict(body: bytes, signatures: Mapping[str, Any]) -> PredictBody:
    """Reads the body of a Predict request.

    Args:
        body: Untrusted bytes.
        signatures: `{signature key: SignatureDef}` of the model that answers.

    Returns:
        The signature and an array for each of its inputs, of the dtype that the signature declares; strings as object
        arrays of bytes.

    Raises:
        ServingError: One of the contract's errors.

    Example:
        >>> parse_predict(b'{"instances": [[1.0], [2.0]]}', model.signatures).inputs["x"].shape
        (2, 1)
    """
    document = object_of(body)
    key = signature_name_of(document)
    name = key or DEFAULT_SIGNATURE
    if name not in signatures:
        raise ServingError(Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
    dtypes = {alias: info.dtype for alias, info in sorted(signatures[name].inputs.items())}
    if not dtypes:
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to get input map for signature: {key or 'DEFAULT'}")
    row_format = _is_row_format(document)
    if row_format:
        inputs = _plain_instances(document["instances"], dtypes)
        if inputs is None:
            inputs = exact_instances(object_of(body, parse_json_exactly)["instances"], dtypes)
    else:
        inputs = _plain_inputs(document["inputs"], dtypes)
        if inputs is None:
            inputs = exact_inputs(object_of(body, parse_json_exactly)["inputs"], dtypes)
    return PredictBody(name, inputs, row_format)


def _is_row_format(document: dict[str, Any]) -> bool:
    if "instances" not in document:
        if "inputs" not in document:
            raise ServingError(Code.INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
        return False
    if "inputs" in document:
        problem = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    elif type(document["instances"]) is not list:
        problem = "Excepting 'instances' to be an list/array"  # TensorFlow Serving's spelling
    elif not document["instances"]:
        problem = "No values in 'instances' array"
    else:
        return True
    raise ServingError(Code.INVALID_ARGUMENT, f"JSON Value: {value_text(document)} {problem}")


def _plain_instances(instances: list[Any], dtypes: dict[str, int]) -> dict[str, np.ndarray] | None:
    """Rows as arrays; None = look again, exactly."""
    first = instances[0]
    if type(first) is not dict or is_base64_object(first):
        return _plain_arrays(dict.fromkeys(dtypes, instances), dtypes) if len(dtypes) == 1 else None
    if set(map(type, instances)) != {dict} or set(map(len, instances)) != {len(dtypes)} or "b64" in dtypes:
        return None
    try:
        columns = {name: [row[name] for row in instances] for name in dtypes}
    except KeyError:
        return None
    return _plain_arrays(columns, dtypes)


def _plain_inputs(inputs: Any, dtypes: dict[str, int]) -> dict[str, np.ndarray] | None:
    if type(inputs) is not dict or is_base64_object(inputs):
        return _plain_arrays(dict.fromkeys(dtypes, inputs), dtypes) if len(dtypes) == 1 else None
    return _plain_arrays(inputs, dtypes) if inputs.keys() >= dtypes.keys() else None


def _plain_arrays(values: Mapping[str, Any], dtypes: dict[str, int]) -> dict[str, np.ndarray] | None:
    arrays = {}
    for name, dtype in dtypes.items():
        array = _plain_array(values[name], dtype)
        if array is None:
            return None
        arrays[name] = array
    return arrays


def _plain_array(value: Any, dtype: int) -> np.ndarray | None:
    """Nested lists of one shape as an array; None = not plainly right."""
    shape: list[int] = []
    level = [value]  # all elements of one depth, in order
    while level and set(map(type, level)) == {list}:
        lengths = set(map(len, level))
        if len(lengths) != 1 or len(shape) == MAX_RANK:
            return None
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    flat = _plain_leaves(level, dtype)
    return None if flat is None else flat.reshape(shape)


def _plain_leaves(leaves: list[Any], dtype: int) -> np.ndarray | None:
    types = set(map(type, leaves))
    if dtype in FLOAT_TYPES:
        return _plain_decimals(leaves, types, dtype)
    if dtype in INTEGER_BOUNDS and types <= {int}:
        low, high = INTEGER_BOUNDS[dtype]
        if leaves and not (low <= min(leaves) and max(leaves) <= high):
            return None
        # Through 64 bits: an 8-bit input takes what fits 32 bits and keeps the lowest 8, as in TensorFlow Serving.
        wide = np.array(leaves, np.int64 if high < 2**63 else np.uint64)
        return wide.astype(BY_ENUM[dtype].numpy)
    if dtype == BOOL and types <= {bool}:
        return np.array(leaves, np.bool_)
    if dtype == STRING and types <= {str, dict}:
        return _plain_strings(leaves)
    return None


def _plain_decimals(leaves: list[Any], types: set[type], dtype: int) -> np.ndarray | None:
    if not types <= {float, int}:
        return None
    largest_int, largest = FLOAT_TYPES[dtype]
    if int in types:
        integers = leaves if float not in types else [leaf for leaf in leaves if type(leaf) is int]
        if max(integers) > largest_int or min(integers) < -largest_int:
            return None
    decimals = np.array(leaves, np.float64)
    beyond = np.abs(decimals) > largest
    if beyond.any():
        infinities = CONSTANTS.values()
        for index in np.flatnonzero(beyond).tolist():
            if not any(leaves[index] is infinity for infinity in infinities):
                return None
    return decimals.astype(BY_ENUM[dtype].numpy, copy=False)


def _plain_strings(leaves: list[Any]) -> np.ndarray | None:
    strings = np.empty(len(leaves), dtype=object)
    for index, leaf in enumerate(leaves):
        if type(leaf) is str:
            strings[index] = leaf.encode()
        elif is_base64_object(leaf) and (decoded := decode_base64(leaf["b64"])) is not None:
            strings[index] = decoded
        else:
            return None
    return strings
