"""Files of rows: `tf.train.Example`s in TFRecord files, written without TensorFlow, and Parquet."""

import io
import re
import struct
from collections.abc import Iterable, Mapping, Sequence

from pipelines.errors import UserError
from pipelines.prepare.content import Row, Value

SUFFIXES = {"tfrecord": ".tfrecord", "parquet": ".parquet"}
# From what fits into the others to what everything fits into; a column is of the last one that a value of it needs.
KINDS = ("int", "float", "text", "bytes")

# The field of a `tf.train.Feature` that a kind's values are in.
_LISTS = {"int": 3, "float": 2, "text": 1, "bytes": 1}

# "007" is no number, and a whole one of more digits than 64 bits hold is a name too; "nan" and "inf" are words.
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]{0,17})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def kind_of(value: Value) -> int | None:
    """Which of `KINDS` a value needs; None where it is missing."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return KINDS.index("bytes")
    if isinstance(value, float):
        return KINDS.index("float")
    text = str(value).strip()
    return KINDS.index("int" if _WHOLE.fullmatch(text) else "float" if _NUMBER.fullmatch(text) else "text")


def as_kind(value: Value, kind: str) -> Value:
    """A value as its column's kind."""
    if value is None:
        return None
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    if kind == "text":
        return value if isinstance(value, str) else str(value)
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def file_content(rows: Sequence[Row], kinds: Mapping[str, str], format_name: str) -> bytes:
    """A file of rows, in their order.

    Args:
        rows: column → value; a missing one is None or left out.
        kinds: column → one of `KINDS`.
        format_name: one of `SUFFIXES`.
    """
    typed = [{name: as_kind(row.get(name), kind) for name, kind in kinds.items()} for row in rows]
    if format_name == "parquet":
        return _parquet(typed, kinds)
    return b"".join(_record(example(row, kinds)) for row in typed)


def example(values: Row, kinds: Mapping[str, str]) -> bytes:
    """A serialised `tf.train.Example` with one feature for each column, without a value where one is missing.

    Args:
        values: column → value, of its column's kind.
        kinds: column → one of `KINDS`.

    Reference:
        tensorflow/core/example/example.proto and feature.proto; protobuf's wire format.
    """
    features = b""
    for name, kind in sorted(kinds.items()):
        value = values.get(name)
        if value is None:
            content = b""
        elif isinstance(value, int):
            content = _field(1, _varint(value & (2**64 - 1)))  # packed
        elif isinstance(value, float):
            content = _field(1, _float32(value, name))
        else:
            content = _field(1, value.encode("utf-8", "replace") if isinstance(value, str) else value)
        # An empty list says of what kind it is: a file that begins without values has the column all the same.
        features += _field(1, _field(1, name.encode()) + _field(2, _field(_LISTS[kind], content)))
    return _field(1, features)


def _float32(value: float, column: str) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError as error:
        raise UserError(
            f"column {column}: {value:g} is beyond what the float32 of a TFRecord file can hold; correct it, or use "
            "--format parquet"
        ) from error


def _field(number: int, content: bytes) -> bytes:
    """A field with a length: a message, a string, or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _record(data: bytes) -> bytes:
    """A record of a TFRecord file: its length and itself, each with a checksum."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    import google_crc32c

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _parquet(rows: Iterable[Row], kinds: Mapping[str, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bytes": pa.binary()}
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), buffer, row_group_size=1_024)
    return buffer.getvalue()
