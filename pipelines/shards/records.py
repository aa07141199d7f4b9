"""Writing files of examples, in the schema that `data.source: shards` reads; see `pipelines.shards.protos`."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf

from pipelines.errors import UserError
from pipelines.files import atomic_folder
from pipelines.shards.values import Kind

Value: TypeAlias = float | int | str | bytes | None
Write: TypeAlias = Callable[[Mapping[str, Value]], None]

SUFFIXES: Mapping[str, str] = {"tfrecord": ".tfrecord", "parquet": ".parquet", "arrayrecord": ".array_record"}

# Rows of a Parquet row group, which is read whole: few enough for a window to come from many of them, and less than
# this many bytes of images.
_GROUP_ROWS, _GROUP_BYTES = 1_024, 2**24


def serialised(values: Mapping[str, Value], kinds: Mapping[str, Kind]) -> bytes:
    """A record: a `tf.train.Example` with one feature for each column, without a value where one is missing.

    Args:
        values: column → value; None, or no such key, where it is missing.
        kinds: the columns, and what they hold.

    Example:
        >>> record = serialised({"text": "好书", "label": 1}, {"text": "bytes", "label": "int"})
        >>> tf.train.Example.FromString(record).features.feature["label"].int64_list.value
        [1]
    """
    features = {}
    for name, kind in kinds.items():
        value = values.get(name)
        present: list[Any] = [] if value is None else [value.encode() if isinstance(value, str) else value]
        if kind == "float":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=present))
        elif kind == "int":
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=present))
        else:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=present))
    record: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)
    return record


def write_shards(
    sets: Mapping[str, Iterable[Mapping[str, Value]]],
    kinds: Mapping[str, Kind],
    folder: Path,
    format_name: str,
    shards: int,
) -> dict[str, int]:
    """Writes examples to files `<name>-00000-of-00008.tfrecord`, one after the other to each of them in turn.

    Args:
        sets: name, such as `train` → examples, each column → value.
        kinds: the columns, and what they hold.
        folder: where the files will be; it appears with all of them, and must not be there before.
        format_name: `tfrecord`, `parquet` or `arrayrecord`.
        shards: files of each name; those that would be empty are not made.

    Returns:
        Name → the number of examples.

    Raises:
        UserError: the folder is there or cannot be written, or a package is not installed.
    """
    counts = {}
    with atomic_folder(folder) as into:
        for name, examples in sets.items():
            with ExitStack() as stack:
                writers: list[Write] = []
                number = 0
                for example in examples:
                    if len(writers) < shards:
                        file = into / f"{name}-{len(writers):05}-of-{shards:05}{SUFFIXES[format_name]}"
                        writers.append(_OPEN[format_name](stack, file, kinds))
                    writers[number % shards](example)
                    number += 1
            counts[name] = number
    return counts


def _tfrecord(stack: ExitStack, path: Path, kinds: Mapping[str, Kind]) -> Write:
    writer = stack.enter_context(tf.io.TFRecordWriter(str(path)))
    return lambda values: writer.write(serialised(values, kinds))


def _array_record(stack: ExitStack, path: Path, kinds: Mapping[str, Kind]) -> Write:
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError as error:
        raise UserError(
            "--format arrayrecord needs the package array_record, which is not installed: pip install "
            '"tfbigmodel[arrayrecord]"'
        ) from error
    # Records that are compressed together are read together: of a block, one is read with the others anyway.
    writer = ArrayRecordWriter(str(path), "group_size:64")
    stack.callback(writer.close)
    return lambda values: writer.write(serialised(values, kinds))


def _parquet(stack: ExitStack, path: Path, kinds: Mapping[str, Kind]) -> Write:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            '--format parquet needs the package pyarrow, which is not installed: pip install "tfbigmodel[parquet]"'
        ) from error
    groups = _ParquetGroups(path, kinds)
    stack.callback(groups.close)
    return groups.write


_OPEN: Mapping[str, Callable[[ExitStack, Path, Mapping[str, Kind]], Write]] = {
    "tfrecord": _tfrecord,
    "parquet": _parquet,
    "arrayrecord": _array_record,
}


class _ParquetGroups:
    """Gathers rows until they are a row group."""

    def __init__(self, path: Path, kinds: Mapping[str, Kind]) -> None:
        self._path = path
        self._kinds = kinds
        self._rows: list[Mapping[str, Value]] = []
        self._size = 0
        self._writer: Any = None

    def write(self, values: Mapping[str, Value]) -> None:
        self._rows.append(values)
        self._size += sum(len(value) for value in values.values() if isinstance(value, bytes | str))
        if len(self._rows) == _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._schema = pa.schema([(name, self._type(name, kind)) for name, kind in self._kinds.items()])
            self._writer = pq.ParquetWriter(self._path, self._schema, write_page_checksum=True)
        self._writer.write_table(pa.Table.from_pylist([dict(row) for row in self._rows], schema=self._schema))
        self._rows, self._size = [], 0

    def _type(self, name: str, kind: Kind) -> Any:
        import pyarrow as pa

        if kind != "bytes":
            return pa.float64() if kind == "float" else pa.int64()
        binary = any(isinstance(row.get(name), bytes) for row in self._rows)
        return pa.binary() if binary else pa.string()
