"""What the client command is given (JSON, CSV, images, texts) as the arrays that a model's signature asks for."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.info import ClientError, SignatureInfo, TensorInfo, unknown_input
from serving.messages import client_messages

_DTYPES = {wire.name: wire.numpy for wire in client_messages().tensors.WIRE_TYPES}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Example:
    """One example: its values by input name, and where it came from, for error messages."""

    where: str
    values: dict[str, Any]
    columns_of_a_file: bool = False
    """A file may have other columns, which are left out: identifiers, the label. What is typed in may not."""


def read_images(paths: Sequence[str]) -> list[Example]:
    """Image files as examples for the input `image`: the encoded bytes, as they are in the file.

    Raises:
        ClientError: A file cannot be read.
    """
    return [Example(path, {"image": _read(path)}) for path in paths]


def read_json_arguments(texts: Sequence[str]) -> list[Example]:
    """`--input` arguments: one JSON object each.

    Raises:
        ClientError: One is no JSON object.
    """
    return [Example(f"--input {number}", _object(text, f"--input {number}")) for number, text in enumerate(texts, 1)]


def read_file(path: str) -> list[Example]:
    """A file of examples: `.csv` with a header of input names, or `.jsonl` with one object a line.

    Raises:
        ClientError: It cannot be read, is neither, is empty, or a row is malformed; names the row.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ClientError(f"--input_file must be .csv or .jsonl, but {path} was given")
    try:
        text = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClientError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    examples = _csv_examples(path, text) if suffix == ".csv" else _jsonl_examples(path, text)
    if not examples:
        raise ClientError(f"{path} holds no examples")
    return examples


def to_arrays(examples: Sequence[Example], info: SignatureInfo) -> dict[str, np.ndarray]:
    """Examples as one batch.

    Args:
        examples: At least one; every value is one example's, without a batch dimension.
        info: The signature they are for.

    Returns:
        `{input name: array (batch_size, …)}` with the signature's dtypes.

    Raises:
        ClientError: An unknown or missing input, a value that is no number or has another shape; names row and column.
    """
    sent = examples[0].values.keys()
    for example in examples:
        for name in example.values:
            if name not in info.inputs and not example.columns_of_a_file:
                raise ClientError(f"{example.where}: {unknown_input(name, info)}")
        for name in info.inputs:
            if name not in example.values and (name in sent or name not in info.optional_inputs):
                raise ClientError(f"{example.where}: input {name!r} is missing")
    return {name: _column(name, examples, info.inputs[name]) for name in info.inputs if name in sent}


def _column(name: str, examples: Sequence[Example], tensor: TensorInfo) -> np.ndarray:
    arrays: list[np.ndarray] = []
    for example in examples:
        where = f"{example.where}, column {name!r}"
        array = _array(example.values[name], tensor, where)
        if arrays and array.shape != arrays[0].shape:
            raise ClientError(f"{where}: shape {array.shape}, but {arrays[0].shape} in {examples[0].where}")
        arrays.append(array)
    return np.stack(arrays)


def _array(value: Any, tensor: TensorInfo, where: str) -> np.ndarray:
    if tensor.dtype not in _DTYPES:
        raise ClientError(f"{where}: the model wants {tensor.dtype}, which this client cannot send")
    dtype = _DTYPES[tensor.dtype]
    # A cell of a CSV file can hold a vector, as a JSON list.
    if isinstance(value, str) and dtype != np.dtype(object) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ClientError(f"{where}: {value!r} is no JSON list: {error}") from None
    converted = _convert(value, tensor.dtype, where)
    try:
        if dtype == np.dtype(object) and isinstance(converted, bytes):
            array = np.empty((), object)
            array[()] = converted
            return array
        return np.array(converted, dtype)
    except OverflowError:
        raise ClientError(f"{where}: {value} does not fit {tensor.dtype}") from None
    except ValueError:
        raise ClientError(f"{where}: the lists inside it have different lengths") from None


def _convert(value: Any, dtype: str, where: str) -> Any:
    """A JSON value or a cell as what numpy makes an array of that dtype from; lists item by item."""
    if isinstance(value, list):
        return [_convert(item, dtype, where) for item in value]
    if dtype == "string":
        return _bytes(value, where)
    if dtype == "bool":
        if str(value).strip().lower() not in _BOOLEANS:
            raise ClientError(f"{where}: {value!r} is neither true nor false")
        return _BOOLEANS[str(value).strip().lower()]
    whole = "int" in dtype
    try:
        if isinstance(value, bool):
            raise ValueError
        if not whole and (value is None or (isinstance(value, str) and not value.strip())):
            return float(
                "nan"
            )  # an empty cell: a model that was trained to fill in takes NaN for one, others refuse it
        number = int(value) if whole and isinstance(value, (int, str)) and _is_digits(value) else float(value)
    except (ValueError, TypeError):
        raise ClientError(f"{where}: {value!r} is not a number") from None
    if whole and number != number // 1:
        raise ClientError(f"{where}: {value!r} is not a whole number, and the model wants {dtype}")
    return int(number) if whole else number


def _is_digits(value: int | str) -> bool:
    return str(value).strip().lstrip("+-").isdigit()


def _bytes(value: Any, where: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8")
    # The form in which TensorFlow Serving's REST interface takes bytes that are no text.
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ClientError(f"{where}: b64 is not base64") from None
    raise ClientError(f"{where}: {value!r} is not a string")


def _csv_examples(path: str, text: str) -> list[Example]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    examples: list[Example] = []
    try:
        for number, row in enumerate(reader, 1):
            where = f"{path}, row {number} (line {reader.line_num})"
            # DictReader keeps surplus cells under None, and fills missing ones with None.
            if None in row or None in row.values():
                raise ClientError(f"{where}: the header has {len(reader.fieldnames or [])} columns, the row has not")
            examples.append(Example(where, dict(row), columns_of_a_file=True))
    except csv.Error as error:
        raise ClientError(f"{path}, line {reader.line_num}: {error}") from None
    return examples


def _jsonl_examples(path: str, text: str) -> list[Example]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    wheres = [(f"{path}, row {number}", line) for number, line in lines]
    return [Example(where, _object(line, where), columns_of_a_file=True) for where, line in wheres]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientError(f"{where} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ClientError(f'{where} must be a JSON object such as {{"age": 31}}, but is {type(value).__name__}')
    return value


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from None
