"""TFRecord files of `tf.train.Example`s, read in graph operations only: from block to block, by byte offset.

TensorFlow checks each record's two checksums whenever it is read. Where the blocks begin is found when the files are
read for the first time.
"""

import collections
import itertools
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.shards import protos
from pipelines.shards.changed import CheckedFiles
from pipelines.shards.protos import RECORDS_PER_BLOCK
from pipelines.shards.values import Blocks, Chunk, Kind

# Around each record: its length and that number's checksum before it, its own checksum after it.
_FRAME_BYTES = 16
_GZIP = b"\x1f\x8b"
# Bytes that are read at a time.
_BUFFER = 256 * 1024
# Records whose features stand for those of the file.
_LOOKED_AT = 16


def kinds(path: str) -> dict[str, Kind] | None:
    """The features in the first records of a file; None in an empty file.

    Raises:
        UserError: the file is compressed or damaged, or holds other records.
    """
    with open(path, "rb") as file:
        if file.read(2) == _GZIP:
            raise UserError(f"{path} is compressed, and there is no way into its middle; unpack it (gunzip)")
    _check_lengths(path, _LOOKED_AT)
    records = _first_records(path)
    return protos.kinds_of(records, path) if records else None


def scan(path: str, kinds: Mapping[str, Kind]) -> Iterator[Chunk]:
    """Reads a file from its beginning to its end.

    Raises:
        UserError: a record is damaged, or not as it must be; the message has its number.
    """
    _check_lengths(path)
    parse = lambda records: (protos.parse(records, kinds), tf.strings.length(records))  # noqa: E731
    dataset = tf.data.TFRecordDataset(path).batch(RECORDS_PER_BLOCK).map(parse, tf.data.AUTOTUNE).prefetch(4)
    offset = number = 0
    try:
        for columns, lengths in dataset.as_numpy_iterator():
            size = int(lengths.sum(dtype=np.int64)) + _FRAME_BYTES * len(lengths)
            yield Chunk(protos.arrays(columns), len(lengths), size, (len(lengths), offset))
            offset += size
            number += len(lengths)
        # TensorFlow takes a file that ends within a record's first bytes for one that ends before it.
        if offset != os.path.getsize(path):
            raise UserError(f"{path} record {number + 1} {_damage(path, offset)}; write the file again")
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        records = list(itertools.islice(_records(path, offset, number + 1), RECORDS_PER_BLOCK))
        protos.explain(records, number + 1, kinds, path)
        raise UserError(f"{path}: a record after {number:,} cannot be read: {error.message:.200}") from error


def _first_records(path: str) -> list[bytes]:
    return list(itertools.islice(_records(path, 0, 1), _LOOKED_AT))


def _check_lengths(path: str, most: int | None = None) -> None:
    """Refuses a record that would be longer than the file: TensorFlow asks for its memory first, and dies of it."""
    size, offset = os.path.getsize(path), 0
    with open(path, "rb") as file:
        for number in itertools.count(1) if most is None else range(1, most + 1):
            head = file.read(8)
            if len(head) < 8:
                return
            after = offset + struct.unpack("<Q", head)[0] + _FRAME_BYTES
            if after > size:
                raise UserError(f"{path} record {number} {_damage(path, offset)}; write the file again")
            offset = file.seek(after)


def _records(path: str, offset: int, number: int) -> Iterator[bytes]:
    """The records from a byte offset on; a damaged one is named."""
    # Within a function: outside, TensorFlow 2.21 takes the dataset apart to optimise it, and forgets the offset.
    dataset = tf.data.Dataset.from_tensors(np.int64(offset)).flat_map(lambda offset: _dataset(path, offset))
    iterator = dataset.as_numpy_iterator()
    while True:
        try:
            record = next(iterator)
        except StopIteration:
            return
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise UserError(f"{path} record {number} {_damage(path, offset)}; write the file again") from error
        yield record
        offset += len(record) + _FRAME_BYTES
        number += 1


def _damage(path: str, offset: int) -> str:
    """What is wrong with the record at a byte offset, as far as lengths show it."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(offset)
        head = file.read(8)
    if len(head) < 8:
        return "is cut off: the file ends within it"
    length = struct.unpack("<Q", head)[0]
    if offset + length + _FRAME_BYTES > size and length < 2**40:
        return "is damaged, or cut off: the file ends within it"
    return "is damaged: its checksum does not agree" + (" (or the file is no TFRecord)" if not offset else "")


def _damaged_at(blocks: Blocks, offset: int) -> str | None:
    """Which record is damaged in the block at a byte offset of one of the files."""
    for number, path in enumerate(blocks.paths):
        of_file = np.flatnonzero(blocks.file == number)
        before = of_file[blocks.place[of_file] <= offset]
        if len(before):
            block = int(before[-1])
            first = int(blocks.first[block] - blocks.first[of_file[0]]) + 1
            try:
                records = _records(path, int(blocks.place[block]), first)
                collections.deque(itertools.islice(records, RECORDS_PER_BLOCK), maxlen=0)
            except UserError as error:
                return str(error).partition(";")[0]
    return None


def _dataset(path: Any, offset: Any) -> tf.data.Dataset:
    """The records of a file from a byte offset on."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=tf.reshape(path, [1]),
        compression_type="",
        buffer_size=tf.constant(_BUFFER, tf.int64),
        byte_offsets=tf.reshape(tf.cast(offset, tf.int64), [1]),
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


class TFRecordReader:
    """Reads records of TFRecord files.

    Args:
        blocks: where they are; a block's place is its byte offset.
        kinds: the columns wanted.
    """

    def __init__(self, blocks: Blocks, kinds: Mapping[str, Kind]) -> None:
        self.blocks = blocks
        self._kinds = dict(kinds)
        self._files = CheckedFiles(blocks.paths, lambda offset: _damaged_at(blocks, offset))
        with tf.device("CPU:0"):
            self._paths = tf.constant(list(blocks.paths), tf.string)
            self._file = tf.constant(blocks.file, tf.int64)
            self._place = tf.constant(blocks.place, tf.int64)
            self._first = tf.constant(blocks.first, tf.int64)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """`example`, the serialised records, string `(rows,)`; one of their blocks at a time is held."""
        order = tf.argsort(index, stable=True)
        ordered = tf.gather(index, order)
        block = tf.searchsorted(self._first, ordered, side="right", out_type=tf.int64) - 1
        wanted, _, counts = tf.unique_with_counts(block, tf.int64)
        ends = tf.cumsum(counts)

        def read_block(block: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.data.Dataset:
            first, after = self._first[block], self._first[block + 1]
            records = _dataset(self._paths[self._file[block]], self._place[block]).take(after - first)
            return records.batch(after - first).map(lambda each: tf.gather(each, ordered[begin:end] - first)).unbatch()

        blocks = tf.data.Dataset.from_tensor_slices((wanted, ends - counts, ends))
        records = blocks.flat_map(read_block).batch(tf.size(index, tf.int64)).get_single_element()
        return {"example": tf.gather(records, tf.math.invert_permutation(order))}

    def columns(self, stored: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """The features of serialised examples."""
        return protos.parse(stored["example"], self._kinds)
