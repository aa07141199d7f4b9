"""`Data` for files of examples that are read block by block; see `pipelines.shards.order` for their order.

What is in memory of the examples does not depend on how many there are: six windows of training examples at most (the
one that batches are made of, the next one, the one that is being read, and copies while one takes the other's place:
5.2 to 5.7 were measured), and of each stream a block:

    (6 × shuffle_window × bytes of an example + streams × bytes of a block) / workers

An example's bytes are those of its whole record, or of its used columns in Parquet. Beside that there are eight bytes
for each of a handful of numbers about each block. The labels are mapped from disk.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.batching import varied
from pipelines.config import ShardsConfig
from pipelines.data import DatasetInfo, Examples, Preprocessor, Split
from pipelines.errors import UserError
from pipelines.images.config import AugmentationConfig
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.shards.examples import ShardColumn, ShardReading
from pipelines.shards.form import Mapper
from pipelines.shards.order import Order, Places
from pipelines.shards.values import Reader
from pipelines.shares import Shares
from pipelines.stateless import graph_keys

# Examples whose indices are found together.
_PLACES = 2**20
# Examples of an evaluation that are read together, unless a window has fewer.
_EVALUATED = 1_024


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The examples of a split.

    Attributes:
        reader: reads the files that they are in.
        places: where they are among the files' records.
        labels: from indices of records to class indices or targets, for arrays.
        origin: the files, for messages.
    """

    reader: Reader
    places: Places
    labels: Callable[[np.ndarray], np.ndarray]
    origin: str


class StreamedData:
    """`Data` whose examples are read from files while training goes on.

    Args:
        info: what a model needs to know, counts and fingerprint included.
        preprocess: maps raw features to model inputs.
        splits: the examples of each split.
        mapper: from columns to raw features and labels.
        config: batch size, streams, windows, shuffling and its seed, augmentation.
        bytes_per_example: in memory, about.

    Raises:
        UserError: there are fewer training examples than one batch needs, or streams do not divide the batch.
    """

    def __init__(
        self,
        info: DatasetInfo,
        preprocess: Preprocessor,
        splits: Mapping[Split, SplitFiles],
        mapper: Mapper,
        config: ShardsConfig,
        bytes_per_example: float,
    ) -> None:
        train = splits["train"]
        if len(train.places) < config.batch_size:
            raise UserError(
                f"{train.origin}: {len(train.places):,} training examples are fewer than one batch of "
                f"{config.batch_size}; set data.batch_size to at most {len(train.places)}, or add examples"
            )
        self.info = info
        self.preprocess = preprocess
        self.batch_size = config.batch_size
        self.streams = config.streams if config.streams is not None else usual_streams(config.batch_size)
        if config.batch_size % self.streams:
            raise UserError(
                f"data.batch_size {config.batch_size} cannot be divided equally among {self.streams} streams "
                f"(data.streams); choose a multiple of {self.streams}"
            )
        self._order = Order(train.places, config.batch_size, self.streams, config.shuffle_window, config.shuffle)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._splits = splits
        self._mapper = mapper
        self._seed = config.shuffle_seed or 0
        self._by_length = config.shuffle and config.bucket_batches > 0
        self._together = max(1, min(_EVALUATED, config.shuffle_window) // config.batch_size)
        self._augmentation = config.augmentation
        self._bytes_per_example = bytes_per_example
        self._functions: dict[Any, Any] = {}
        self._evaluations: dict[tuple[Split, Shares], tf.data.Dataset] = {}

    def train(
        self,
        epoch: int = 0,
        step: int = 0,
        input_context: tf.distribute.InputContext | None = None,
        epochs: int = 1,
    ) -> tf.data.Dataset:
        """The training batches from `step` of `epoch` on: `(features, label)`.

        Args:
            epoch: which order.
            step: how many batches of the epoch to leave out; one window of each stream is read to start there.
            input_context: given, the worker gets the batches of its own replicas, read from its own streams.
            epochs: how many epochs, the first one included.

        Raises:
            UserError: the streams cannot be divided equally among the replicas.
            ValueError: `step` is beyond the epoch.
        """
        if not 0 <= step <= self.steps_per_epoch:
            raise ValueError(f"step {step} is not within the epoch's {self.steps_per_epoch} steps")
        shares = Shares.of(self.batch_size, input_context)
        replicas = 1 if input_context is None else input_context.num_replicas_in_sync
        if self.streams % replicas:
            raise UserError(
                f"{self.streams} streams (data.streams) cannot be divided equally among {replicas} replicas; set "
                f"data.streams to a multiple of {replicas} that divides data.batch_size {self.batch_size}"
            )
        order, streams = self._order, self.streams // replicas * shares.local_replicas
        remaining = (epochs * self.steps_per_epoch - step) * shares.local_replicas
        if step == self.steps_per_epoch:
            epoch, step, epochs = epoch + 1, 0, epochs - 1
        first = epoch * order.windows_per_epoch + step // order.batches_per_window
        last = (epoch + epochs) * order.windows_per_epoch
        context = tf.constant([self._seed, shares.first_replica * self.streams // replicas], tf.int64)
        read, arrange, finish = self._train_functions(shares, streams)
        parts = tf.data.Dataset.range(first * streams, last * streams).map(
            lambda number: read(number, context), num_parallel_calls=streams, deterministic=True
        )
        batches = parts.batch(streams, drop_remainder=True).map(arrange).unbatch()
        batches = batches.skip(step % order.batches_per_window * shares.local_replicas)
        return _finished(batches, lambda stored: finish(stored, context), remaining)

    def evaluation(self, split: Split, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """All examples of a split once, in order: `(features, label, weight)`, every weight 1.0.

        With an `input_context` the last batch is filled up with rows of weight 0.0, and each worker gets its rows of
        every batch.
        """
        key = (split, Shares.of(self.batch_size, input_context))
        if key not in self._evaluations:
            self._evaluations[key] = self._in_order(self._splits[split], key[1])
        return self._evaluations[key]

    def validation(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("validation")`."""
        return self.evaluation("validation", input_context)

    def test(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("test")`."""
        return self.evaluation("test", input_context)

    def examples(self, split: Split) -> Examples:
        """The raw examples of a split, in the order of `evaluation(split)`; features are read when they are wanted.

        Places, labels and rows (the records' numbers among those of the split's files, from 1) take twenty bytes for
        each example in memory.
        """
        files = self._splits[split]

        def read(places: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._mapper.features(files.reader.columns(files.reader.read(files.places.index(places))))

        reading = ShardReading(read, len(files.places), self._bytes_per_example)
        places = np.arange(len(files.places))
        numeric = {self._mapper.input_of[name] for name in self._mapper.form.numeric}
        features = {
            name: ShardColumn(reading, name, places, np.float32 if name in numeric else object)
            for name in self._mapper.input_of.values()
        }
        # In parts, because what it takes on the way is many times what it gives.
        parts = np.split(places, range(_PLACES, len(places), _PLACES))
        index = np.concatenate([files.places.index(tf.constant(part)).numpy() for part in parts])
        return Examples(features, files.labels(index), files.origin, index + 1)

    def _train_functions(self, shares: Shares, streams: int) -> tuple[Any, Any, Any]:
        """What is done to a window of a stream, to a window of all streams, and to a batch; traced once."""
        key = (shares.rows, shares.local_replicas, streams)
        if key not in self._functions:
            self._functions[key] = self._trace(shares, streams)
        return self._functions[key]

    def _trace(self, shares: Shares, streams: int) -> tuple[Any, Any, Any]:
        reader, order = self._splits["train"].reader, self._order
        mapper, augmentation = self._mapper, self._augmentation
        text = mapper.form.text if self._by_length else None

        def read(number: tf.Tensor, context: tf.Tensor) -> dict[str, Any]:
            seed, first_stream = tf.unstack(context)
            window, stream = number // streams, first_stream + number % streams
            epoch, window = window // order.windows_per_epoch, window % order.windows_per_epoch
            index = order.window(seed, epoch, window, stream)
            stored = reader.read(index)
            if text is not None:
                lengths = tf.strings.length(reader.columns(stored)[text], "UTF8_CHAR")
                rows = order.by_length(lengths, seed, epoch, window)
                stored = {name: tf.gather(values, rows) for name, values in stored.items()}
                index = tf.gather(index, rows)
            return {"stored": stored, "index": index, "epoch": epoch + tf.zeros_like(index)}

        def arrange(parts: Any) -> Any:
            """Streams of batches of rows → batches of streams of rows, one for each local replica."""

            def arranged(values: tf.Tensor) -> tf.Tensor:
                by_stream = tf.reshape(values, [streams, -1, order.rows])
                return tf.reshape(tf.transpose(by_stream, [1, 0, 2]), [-1, shares.rows])

            return tf.nest.map_structure(arranged, parts)

        def finish(batch: Mapping[str, Any], context: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            columns = reader.columns(batch["stored"])
            raw, labels = mapper.features(columns), self._scaled(mapper.labels(columns))
            if not isinstance(self.preprocess, ImagePreprocessor) or augmentation == AugmentationConfig():
                return self.preprocess(raw), labels
            keys = graph_keys(context[0], batch["epoch"], batch["index"])
            return varied(self.preprocess, raw, labels, keys, self.info.num_classes, augmentation)

        context = tf.TensorSpec([2], tf.int64)
        traced_read = _concrete(read, tf.TensorSpec([], tf.int64), context)
        spec = tf.nest.map_structure(
            lambda tensor: tf.TensorSpec([shares.rows, *tensor.shape[1:]], tensor.dtype), traced_read.structured_outputs
        )
        traced_finish = _concrete(finish, spec, context)
        return traced_read, arrange, traced_finish

    def _in_order(self, files: SplitFiles, shares: Shares) -> tf.data.Dataset:
        num_examples, batch_size = len(files.places), self.batch_size
        steps = -(-num_examples // batch_size)
        together = self._together
        num_classes = self.info.num_classes if self._augmentation.mixes_labels else 0

        def read(number: tf.Tensor) -> dict[str, Any]:
            step = tf.range(number * together, tf.minimum((number + 1) * together, steps))
            replica = shares.first_replica + tf.range(shares.local_replicas, dtype=tf.int64)
            first = tf.reshape(step[:, tf.newaxis] * batch_size + replica * shares.rows, [-1, 1])
            place = first + tf.range(shares.rows, dtype=tf.int64)
            weight = tf.cast(place < num_examples, tf.float32)
            index = files.places.index(tf.minimum(tf.reshape(place, [-1]), num_examples - 1))
            stored = files.reader.read(index)
            return {
                "stored": {name: tf.reshape(values, [-1, shares.rows]) for name, values in stored.items()},
                "weight": weight,
            }

        def finish(batch: Mapping[str, Any]) -> tuple[Any, ...]:
            stored, weight = batch["stored"], batch["weight"]
            if not shares.filled_up:
                there = weight > 0
                stored = {name: tf.boolean_mask(values, there) for name, values in stored.items()}
                weight = tf.boolean_mask(weight, there)
            columns = files.reader.columns(stored)
            label = self._scaled(self._mapper.labels(columns))
            inputs = self.preprocess(self._mapper.features(columns))
            return inputs, tf.one_hot(label, num_classes) if num_classes else label, weight

        windows = tf.data.Dataset.range(-(-steps // together)).map(read, num_parallel_calls=2, deterministic=True)
        return _finished(windows.unbatch(), finish, steps * shares.local_replicas)

    def _scaled(self, labels: tf.Tensor) -> tf.Tensor:
        """Classes as they are; regression targets as the model is trained on them."""
        if self.info.task == "classification":
            return labels
        exact = (tf.cast(labels, tf.float64) - self.info.target_mean) / self.info.target_scale
        return tf.cast(exact, tf.float32)


def usual_streams(batch_size: int) -> int:
    """The largest number of streams up to 8 that divides a batch."""
    return next(number for number in range(8, 0, -1) if batch_size % number == 0)


def _concrete(function: Any, *specs: Any) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def _finished(batches: tf.data.Dataset, finish: Any, number: int) -> tf.data.Dataset:
    """Stored rows as batches, in their order, prefetched, not sharded once more; how many is known."""
    finished = batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    # Windows are large: none but those that are counted on may be held.
    options.experimental_optimization.inject_prefetch = False
    known = finished.apply(tf.data.experimental.assert_cardinality(number))
    return known.prefetch(tf.data.AUTOTUNE).with_options(options)
