"""Parquet files: row groups are read whole, only the columns that are used, and the last ones are kept."""

import collections
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.shards.changed import CheckedFiles
from pipelines.shards.values import DTYPES, NO_INTEGER, Blocks, Chunk, Kind

# Rows of a group that are turned into arrays at a time when a file is read for the first time.
_ROWS = 1_024


def kinds(path: str) -> dict[str, Kind] | None:
    """The columns that can be used: numbers, whole numbers (also true and false), texts and bytes.

    None in a file without rows, whose columns programs often give other types.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or two columns have one name.
    """
    file = _open(path)
    if not file.metadata.num_rows:
        return None
    schema = file.schema_arrow
    twice = [name for name, count in collections.Counter(schema.names).items() if count > 1]
    if twice:
        raise UserError(f'{path} has two columns of the name "{twice[0]:.80}"; give each a name of its own')
    found = {field.name: _kind(field.type) for field in schema}
    return {name: kind for name, kind in found.items() if kind is not None}


def unusable(path: str) -> dict[str, str]:
    """The other columns, with their types."""
    return {field.name: str(field.type) for field in _open(path).schema_arrow if _kind(field.type) is None}


def scan(path: str, kinds: Mapping[str, Kind]) -> Iterator[Chunk]:
    """Reads a file from its beginning to its end; a block is a row group.

    Raises:
        UserError: the file is damaged.
    """
    import pyarrow as pa

    file = _open(path)
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        block: tuple[int, int] | None = (count, group)
        try:
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(kinds)):
                columns = {name: _array(batch.column(name), kind, (path, name)) for name, kind in kinds.items()}
                yield Chunk(columns, batch.num_rows, batch.nbytes, block)
                block = None
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, group, error) from error


def _open(path: str, metadata: Any = None) -> Any:
    """A file; with the metadata that was read of it before, nothing is read."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            f'{path} needs the package pyarrow, which is not installed: pip install "tfbigmodel[parquet]"'
        ) from error
    try:
        # Pages without a checksum, which many programs write, are read as they are.
        return pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is no Parquet file, or it is damaged or cut off: {str(error).splitlines()[0]:.200}"
        ) from error


def _damaged(path: str, group: int, error: Exception) -> UserError:
    return UserError(f"{path} row group {group} is damaged ({str(error).splitlines()[0]:.200}); write the file again")


def _kind(type_: Any) -> Kind | None:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_floating(type_):
        return "float"
    if types.is_integer(type_) or types.is_boolean(type_):
        return "int"
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_string_view)
    return "bytes" if any(is_text(type_) for is_text in texts) else None


def _array(column: Any, kind: Kind, place: tuple[str, str]) -> np.ndarray:
    """A column as a `Chunk` has it; `place` is its file and name, for messages."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "float":
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if kind == "int":
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{place[0]}: column {place[1]} has whole numbers beyond 64 bits with a sign ({error}); write them as "
                "texts"
            ) from error
        return np.asarray(column.fill_null(NO_INTEGER).to_numpy(zero_copy_only=False), np.int64)
    values = np.empty(len(column), object)
    values[:] = column.cast(pa.large_binary()).fill_null(b"").to_pylist()
    return values


class ParquetReader:
    """Reads rows of Parquet files.

    Args:
        blocks: where they are; a block's place is the number of its row group.
        kinds: the columns wanted.
        kept: row groups that are kept in memory, the last ones used: a window's last group is the next one's first.
    """

    def __init__(self, blocks: Blocks, kinds: Mapping[str, Kind], kept: int) -> None:
        self.blocks = blocks
        self._kinds = dict(kinds)
        self._kept = kept
        self._files = CheckedFiles(blocks.paths)
        self._groups: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._metadata: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """The columns, `(rows,)` each."""
        values = tf.numpy_function(self._rows, [index], [DTYPES[kind] for kind in self._kinds.values()], stateful=False)
        return {name: tf.ensure_shape(value, index.shape) for name, value in zip(self._kinds, values, strict=True)}

    def columns(self, stored: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """What was read, as it is."""
        return dict(stored)

    def _rows(self, index: np.ndarray) -> list[np.ndarray]:
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        block = np.searchsorted(self.blocks.first, ordered, side="right") - 1
        wanted, starts = np.unique(block, return_index=True)
        columns = {
            name: np.empty(len(order), object if kind == "bytes" else DTYPES[kind].as_numpy_dtype)
            for name, kind in self._kinds.items()
        }
        for number, rows in zip(wanted.tolist(), np.split(order, starts[1:]), strict=True):
            part = self._group(number).take(index[rows] - self.blocks.first[number])
            path = self.blocks.paths[self.blocks.file[number]]
            for name, kind in self._kinds.items():
                # As arrays, because columns of a kind may be of different types in different files: int32 and int64.
                columns[name][rows] = _array(part.column(name).combine_chunks(), kind, (path, name))
        return list(columns.values())

    def _group(self, number: int) -> Any:
        import pyarrow as pa

        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
                return self._groups[number]
        path, group = self.blocks.paths[self.blocks.file[number]], int(self.blocks.place[number])
        self._files.check(path)  # the metadata would be that of another file
        try:
            # Opened anew: what a file keeps of the groups it has read is not freed before it is closed.
            with _open(path, self._metadata.get(path)) as file:
                self._metadata[path] = file.metadata
                table = file.read_row_group(group, columns=list(self._kinds), use_threads=False)
            for position, field in enumerate(table.schema):
                if pa.types.is_string_view(field.type):  # rows cannot be taken of it
                    table = table.set_column(position, field.name, table.column(position).cast(pa.large_string()))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, group, error) from error
        with self._lock:
            self._groups[number] = table
            while len(self._groups) > self._kept:
                self._groups.popitem(last=False)
        return table
