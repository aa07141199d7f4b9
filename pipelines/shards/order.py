"""Which examples a batch has: a function of (seed, epoch, step) in graph operations, without any iterator's state.

The training examples are divided into streams: equal, contiguous ranges of the files' examples (their lengths differ by
one at most). A batch has equally many rows of each stream, one stream's after the other's; so a worker reads nothing
but its own streams, and the batches are the same for every number of workers and replicas that divides the streams.

A stream's examples are in blocks, which are read whole: a Parquet row group, or 256 records of the other formats (a
whole group of an ArrayRecord file that has larger ones). They are shuffled on two levels. Each epoch the blocks
come in another order, and in each block its examples do. This sequence is cut into windows of equally many batches, and
the examples of a window are shuffled once more. (Texts are sorted by length within their window instead, and cut into
batches, which come in random order, the same in each stream: so a whole batch has texts of similar length.) To start at
any step, one window of each stream is read, nothing else.

What does not fill a batch at the end of a stream is left out, another part each epoch. Without shuffling, a stream's
examples come in their order.

Which split an example falls into is a hash of its index, too: where validation and test are shares of the training
files, their examples lie among the others, and reading a block reads them all.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from pipelines.config import SplitConfig
from pipelines.shares import shuffled
from pipelines.stateless import graph_keys, random_keys

# Keep the random numbers of the different purposes apart.
_BLOCK, _EXAMPLE, _BATCH = 1, 2, 3
_SPLIT = 4


@dataclasses.dataclass(frozen=True)
class Division:
    """How the examples of the same files are divided among the splits: by a hash of their index.

    Attributes:
        seed: fixes it.
        test: share of the examples.
        validation: share of the examples.
    """

    seed: int
    test: float
    validation: float

    @classmethod
    def of(cls, config: SplitConfig, with_validation: bool, with_test: bool) -> "Division":
        """The configured shares, of the splits that have no files of their own."""
        return cls(config.seed, config.test if with_test else 0.0, config.validation if with_validation else 0.0)

    @property
    def divides(self) -> bool:
        """Whether there is more than the training split."""
        return self.test > 0 or self.validation > 0

    def codes(self, index: np.ndarray) -> np.ndarray:
        """The split of each example, by its place in `SPLITS`."""
        key = (random_keys(_SPLIT, self.seed, index) >> np.uint64(11)).astype(np.int64)
        first, second = self._limits
        return np.where(key < first, 2, np.where(key < second, 1, 0))

    def graph_codes(self, index: tf.Tensor) -> tf.Tensor:
        """`codes` in graph operations."""
        key = _signed(graph_keys(_SPLIT, self.seed, index), 11)
        first, second = self._limits
        return tf.where(key < first, 2, tf.where(key < second, 1, 0))

    @property
    def _limits(self) -> tuple[int, int]:
        return int(self.test * 2**53), int((self.test + self.validation) * 2**53)


class Places:
    """Where the examples of a split are: place in the split → index among the files' records, in graph operations.

    Args:
        first: the index of each block's first record, and the number of records, `(num_blocks + 1,)`.
        counts: examples of the split in each block, `(num_blocks,)`.
        division: how the split's files are divided; None where all records are the split's.
        code: the split's place in `SPLITS`.
    """

    def __init__(self, first: np.ndarray, counts: np.ndarray, division: Division | None, code: int) -> None:
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._division = division
        self._code = code
        with tf.device("CPU:0"):
            self._starts = tf.constant(self.starts)
            self._first = tf.constant(first, tf.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def index(self, place: tf.Tensor) -> tf.Tensor:
        """The index of each place, int64 `(rows,)` → the same."""
        block = tf.searchsorted(self._starts, place, side="right", out_type=tf.int64) - 1
        within = place - tf.gather(self._starts, block)
        if self._division is None:
            return tf.gather(self._first, block) + within
        # The split's examples in the blocks concerned, and where each block's begin among them.
        blocks = tf.unique(tf.sort(block))[0]
        records = tf.ragged.range(tf.gather(self._first, blocks), tf.gather(self._first, blocks + 1)).flat_values
        members = tf.boolean_mask(records, tf.equal(self._division.graph_codes(records), self._code))
        sizes = tf.gather(self._starts, blocks + 1) - tf.gather(self._starts, blocks)
        begin = tf.gather(tf.cumsum(sizes, exclusive=True), tf.searchsorted(blocks, block))
        return tf.gather(members, begin + within)


class Order:
    """The order of a training split.

    Args:
        places: where its examples are.
        batch_size: examples in a batch.
        streams: into how many it is divided; it divides the batch size.
        window: examples that are shuffled together, in all streams.
        shuffle: whether they are.
    """

    def __init__(self, places: Places, batch_size: int, streams: int, window: int, shuffle: bool) -> None:
        self.steps_per_epoch = len(places) // batch_size
        self.batches_per_window = max(1, min(window // batch_size, self.steps_per_epoch))
        self.windows_per_epoch = -(-self.steps_per_epoch // self.batches_per_window)
        self.rows = batch_size // streams
        self.streams = streams
        self._places = places
        self._shuffle = shuffle
        bounds = np.arange(streams + 1) * len(places) // streams
        first = np.searchsorted(places.starts, bounds[:-1], side="right") - 1
        last = np.searchsorted(places.starts, bounds[1:], side="left")
        with tf.device("CPU:0"):
            self._starts = tf.constant(places.starts)
            self._bounds = tf.constant(bounds, tf.int64)
            self._blocks = tf.constant(np.stack([first, last], axis=1), tf.int64)

    def num_batches(self, window: tf.Tensor) -> tf.Tensor:
        """The batches in a window of an epoch: as many as in the others, or fewer in the last one."""
        return tf.minimum(self.steps_per_epoch - window * self.batches_per_window, self.batches_per_window)

    def window(self, seed: tf.Tensor, epoch: tf.Tensor, window: tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
        """The indices of a stream's examples in a window, in their order: `rows` for each of its batches."""
        begin = window * self.batches_per_window * self.rows
        position = begin + tf.range(self.num_batches(window) * self.rows)
        if not self._shuffle:
            return self._places.index(self._bounds[stream] + position)
        first, last = tf.unstack(self._blocks[stream], num=2)
        # The part of each block that is the stream's, in the epoch's order.
        blocks = first + shuffled(tf.range(last - first), seed, epoch * self.streams + stream, last - first)
        starts = tf.maximum(tf.gather(self._starts, blocks), self._bounds[stream])
        sizes = tf.minimum(tf.gather(self._starts, blocks + 1), self._bounds[stream + 1]) - starts
        ends = tf.cumsum(sizes)
        slot = tf.searchsorted(ends, position, side="right", out_type=tf.int64)
        size = tf.gather(sizes, slot)
        within = position - (tf.gather(ends, slot) - size)
        keys = tf.stack([graph_keys(_BLOCK, seed, epoch, tf.gather(blocks, slot), word) for word in range(3)], axis=1)
        within = tf.raw_ops.RandomIndexShuffle(
            index=within, seed=tf.cast(keys, tf.uint32), max_index=size - 1, rounds=4
        )
        index = self._places.index(tf.gather(starts, slot) + within)
        return tf.gather(index, tf.argsort(_signed(graph_keys(_EXAMPLE, seed, epoch, index), 1)))

    def by_length(self, lengths: tf.Tensor, seed: tf.Tensor, epoch: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        """A window's rows, sorted by length and cut into batches that come in random order, the same in each stream.

        Args:
            lengths: of the window's examples, `(rows,)`.
            seed: fixes the order of all epochs.
            epoch: which order.
            window: the window's number.

        Returns:
            Which of the examples comes when, int32 `(rows,)`.
        """
        batches = tf.argsort(_signed(graph_keys(_BATCH, seed, epoch, window, tf.range(self.num_batches(window))), 1))
        rows = tf.reshape(tf.argsort(lengths, stable=True), [-1, self.rows])
        return tf.reshape(tf.gather(rows, batches), [-1])


def _signed(keys: tf.Tensor, places: int) -> tf.Tensor:
    """The upper bits of keys as whole numbers, which TensorFlow can sort and compare."""
    return tf.cast(tf.bitwise.right_shift(keys, tf.constant(places, tf.uint64)), tf.int64)
