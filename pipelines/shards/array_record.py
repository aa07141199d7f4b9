"""ArrayRecord files of `tf.train.Example`s: records are read by their number."""

import collections
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.shards import protos
from pipelines.shards.changed import CheckedFiles
from pipelines.shards.protos import RECORDS_PER_BLOCK
from pipelines.shards.values import Blocks, Chunk, Kind

# Read what is asked for, and nothing beyond it.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_LOOKED_AT = 16
# Files that are open at a time; systems allow a process about a thousand.
_OPEN = 128
_GROUP_SIZE = re.compile(r"group_size:(\d+)")


def kinds(path: str) -> dict[str, Kind] | None:
    """The features in the first records of a file; None in an empty file.

    Raises:
        UserError: the package is not installed, or the file is damaged or holds other records.
    """
    reader = _open(path)
    records = _read(reader, range(min(_LOOKED_AT, reader.num_records())), path)
    return protos.kinds_of(records, path) if records else None


def scan(path: str, kinds: Mapping[str, Kind]) -> Iterator[Chunk]:
    """Reads a file from its beginning to its end; a block is one of its groups or several, which are unpacked whole.

    Raises:
        UserError: a record is damaged, or not as it must be; the message has its number.
    """
    reader = _open(path)
    num_records, block_size = reader.num_records(), _block_size(reader)
    parse = tf.function(
        lambda records: protos.parse(records, kinds),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    for begin in range(0, num_records, block_size):
        block = _read(reader, range(begin, min(begin + block_size, num_records)), path)
        for start in range(0, len(block), RECORDS_PER_BLOCK):
            records, first = block[start : start + RECORDS_PER_BLOCK], begin + start
            try:
                columns = parse(tf.constant(records, tf.string))
            except tf.errors.InvalidArgumentError as error:
                protos.explain(records, first + 1, kinds, path)
                raise UserError(f"{path}: a record after {first:,} cannot be read: {error.message:.200}") from error
            place = None if start else (len(block), begin)
            yield Chunk(protos.arrays(columns), len(records), sum(map(len, records)), place)


def _block_size(reader: Any) -> int:
    """As many whole groups as are in a block of other formats, or one that is larger."""
    found = _GROUP_SIZE.search(reader.writer_options_string() or "")
    group = int(found[1]) if found else 1
    return max(1, RECORDS_PER_BLOCK // group) * group


def _open(path: str) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise UserError(
            f'{path} needs the package array_record, which is not installed: pip install "tfbigmodel[arrayrecord]"'
        ) from error
    try:
        reader = ArrayRecordReader(path, _OPTIONS)
        if not reader.ok():
            reader.read([])  # tells what is wrong; all else takes such a file for one without records
        return reader
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is no ArrayRecord file, or a damaged one: {_first_line(error)}") from error


def _read(reader: Any, numbers: Any, path: str) -> list[bytes]:
    try:
        return list(reader.read(list(numbers))) if len(numbers) else []
    except (RuntimeError, ValueError) as error:
        for number in numbers:
            try:
                reader.read([number])
            except (RuntimeError, ValueError):
                raise UserError(
                    f"{path} record {number + 1} is damaged ({_first_line(error)}); write the file again"
                ) from error
        raise UserError(f"{path} is damaged ({_first_line(error)}); write the file again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class ArrayRecordReader:
    """Reads records of ArrayRecord files.

    Args:
        blocks: where they are.
        kinds: the columns wanted.
    """

    def __init__(self, blocks: Blocks, kinds: Mapping[str, Kind]) -> None:
        self.blocks = blocks
        self._kinds = dict(kinds)
        self._files = CheckedFiles(blocks.paths)
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        starts = np.searchsorted(blocks.file, np.arange(len(blocks.paths)))
        self._first_of_file = blocks.first[starts]

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """`example`, the serialised records, string `(rows,)`."""
        records = tf.numpy_function(self._records, [index], tf.string, stateful=False)
        return {"example": tf.ensure_shape(records, index.shape)}

    def columns(self, stored: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """The features of serialised examples."""
        return protos.parse(stored["example"], self._kinds)

    def _records(self, index: np.ndarray) -> np.ndarray:
        records = np.empty(len(index), object)
        # Sorted, so that neighbours in a file are read together.
        order = np.argsort(index, kind="stable")
        file = np.searchsorted(self._first_of_file, index[order], side="right") - 1
        for number in np.unique(file):
            rows = order[file == number]
            wanted = (index[rows] - self._first_of_file[number]).tolist()
            records[rows] = _read(self._reader(int(number)), wanted, self.blocks.paths[number])
        return records

    def _reader(self, number: int) -> Any:
        with self._lock:
            if number in self._readers:
                self._readers.move_to_end(number)
            else:
                self._files.check(self.blocks.paths[number])
                self._readers[number] = _open(self.blocks.paths[number])
                if len(self._readers) > _OPEN:
                    self._readers.popitem(last=False)  # closed when nothing reads from it any more
            return self._readers[number]
