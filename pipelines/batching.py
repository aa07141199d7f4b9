"""Batches of examples read by index: shuffled, sharded among workers and replicas, started anywhere at once."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.buckets import bucketed_batch
from pipelines.columns import Column, columns_of, fingerprint, on_cpu
from pipelines.config import BatchingConfig, ImagesConfig, TextConfig
from pipelines.data import SPLITS, DatasetInfo, Examples, Preprocessor, Split
from pipelines.errors import UserError
from pipelines.images.config import AugmentationConfig
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.shares import Shares, finished, shuffled, traced, training_batches
from pipelines.stateless import graph_keys

# The word of a key that keeps the random numbers of mixing apart from those of what comes before it.
_MIXING = 1_000


class MemoryData:
    """`Data` for examples that fit in memory, or are `ImageFiles` on disk.

    Training images are varied as `config.augmentation` says, by random numbers that depend on the seed, the epoch and
    the example alone: they are the same after resuming, and however the batch is divided among replicas. Mixup and
    cutmix take an image's partner from its replica's rows, and are the same for the same number of replicas only.

    Args:
        info: what a model needs to know; `counts` and `fingerprint` are filled in here.
        preprocess: maps raw features to model inputs.
        splits: the raw examples of each split, with labels.
        config: batch size, shuffling and its seed; for texts, how many batches are sorted by length together; for
            images, their augmentation.
        lengths: the length of each training example, `(num_examples,)`, where they differ: shuffled batches are then
            made of examples of similar length.

    Raises:
        UserError: there are fewer training examples than one batch needs.

    Example:
        >>> data = MemoryData(info, preprocess, {"train": a, "validation": b, "test": c}, config)
        >>> for features, label in data.train(epoch=3, step=10):
        ...     ...
    """

    def __init__(
        self,
        info: DatasetInfo,
        preprocess: Preprocessor,
        splits: Mapping[Split, Examples],
        config: BatchingConfig,
        lengths: np.ndarray | None = None,
    ) -> None:
        num_training = len(splits["train"])
        if num_training < config.batch_size:
            raise UserError(
                f"{splits['train'].origin}: {num_training} training examples are fewer than one batch of "
                f"{config.batch_size}; set data.batch_size to at most {num_training}, or add examples"
            )
        self.info = dataclasses.replace(
            info, counts={split: len(splits[split]) for split in SPLITS}, fingerprint=fingerprint(splits)
        )
        self.preprocess = preprocess
        self.batch_size = config.batch_size
        self.steps_per_epoch = num_training // config.batch_size
        self._shuffle = config.shuffle
        self._seed = config.shuffle_seed or 0
        self._service = config.service
        self._lengths = None if lengths is None else on_cpu(np.asarray(lengths, np.int32))
        self._window = config.bucket_batches if isinstance(config, TextConfig) and lengths is not None else 0
        self._origins = {split: (splits[split].origin, splits[split].rows) for split in SPLITS}
        self._augmentation = config.augmentation if isinstance(config, ImagesConfig) else AugmentationConfig()
        self._columns = {split: columns_of(splits[split].features) for split in SPLITS}
        self._labels = {split: on_cpu(splits[split].labels) for split in SPLITS}
        self._train_batch = traced(self._make_train_batch)
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
            epoch: which order; the same epoch has the same order always.
            step: how many batches of the epoch to leave out; this costs nothing.
            input_context: given, the worker gets the batches of its own replicas: for every step one element per local
                replica, whose rows together are those of the batch that one process would get.
            epochs: how many epochs, the first one included.

        Raises:
            UserError: the batch cannot be divided equally among the replicas.
            ValueError: `step` is beyond the epoch.
        """
        if not 0 <= step <= self.steps_per_epoch:
            raise ValueError(f"step {step} is not within the epoch's {self.steps_per_epoch} steps")
        shares = Shares.of(self.batch_size, input_context)
        first, last = epoch * self.steps_per_epoch + step, (epoch + epochs) * self.steps_per_epoch
        context = tf.constant([self._seed, shares.first_replica, shares.local_replicas], tf.int64)
        batch = self._train_batch(shares.rows)
        return training_batches(shares, first, last, lambda element: batch(element, context), self._service)

    def evaluation(self, split: Split, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """All examples of a split once, in order: `(features, label, weight)`, every weight 1.0.

        With an `input_context` the last batch is filled up with rows of weight 0.0, so that it can be divided among
        replicas; without one it is as small as it is, so that Keras' unweighted metrics are right too.
        """
        key = (split, Shares.of(self.batch_size, input_context))
        if key not in self._evaluations:
            # Kept, because making it traces the preprocessing, and every epoch ends with an evaluation.
            labels = _scaled(self._labels[split], self.info)
            num_classes = self.info.num_classes if self._augmentation.mixes_labels else 0
            self._evaluations[key] = _in_order(
                self._columns[split], labels, self.preprocess, self.batch_size, key[1], num_classes
            )
        return self._evaluations[key]

    def validation(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("validation")`."""
        return self.evaluation("validation", input_context)

    def test(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("test")`."""
        return self.evaluation("test", input_context)

    def examples(self, split: Split) -> Examples:
        """The raw examples of a split, in the order of `evaluation(split)`; strings come as `bytes`.

        Labels are class indices or targets, also where the batches have shares of the classes.
        """
        origin, rows = self._origins[split]
        features = {name: column.array() for name, column in self._columns[split].items()}
        return Examples(features, np.asarray(self._labels[split]), origin, rows)

    def _make_train_batch(self, rows: int) -> Any:
        columns, labels = self._columns["train"], _scaled(self._labels["train"], self.info)
        num_examples, batch_size, steps_per_epoch = len(labels), self.batch_size, self.steps_per_epoch

        def make(element: tf.Tensor, context: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            seed, first_replica, local_replicas = tf.unstack(context)
            step, replica = element // local_replicas, first_replica + element % local_replicas
            epoch, step = step // steps_per_epoch, step % steps_per_epoch
            if self._shuffle and self._window:
                whole = bucketed_batch(
                    step, seed, epoch, num_examples, batch_size, self._window, lambda i: tf.gather(self._lengths, i)
                )
                index = tf.slice(whole, [replica * rows], [rows])
            else:
                index = step * batch_size + replica * rows + tf.range(rows, dtype=tf.int64)
                if self._shuffle:
                    index = shuffled(index, seed, epoch, num_examples)
            raw = {name: column.rows(index) for name, column in columns.items()}
            label = tf.gather(labels, index)
            if not isinstance(self.preprocess, ImagePreprocessor) or self._augmentation == AugmentationConfig():
                return self.preprocess(raw), label
            return varied(
                self.preprocess, raw, label, graph_keys(seed, epoch, index), self.info.num_classes, self._augmentation
            )

        return make


def batches(
    examples: Examples,
    preprocess: Preprocessor,
    info: DatasetInfo,
    batch_size: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Examples in order as model-ready batches; with an `input_context` the last one is filled up, rows of weight 0.0.

    Args:
        examples: raw examples, from `read_examples` for instance.
        preprocess: the run's preprocessor.
        info: the run's dataset info (a regression's targets are scaled with it).
        batch_size: rows in a batch over all replicas.
        input_context: given, the worker gets its replicas' shares.

    Returns:
        `(features, label, weight)`, or `(features, weight)` where the examples have no labels.
    """
    labels = None if examples.labels is None else _scaled(on_cpu(examples.labels), info)
    shares = Shares.of(batch_size, input_context)
    return _in_order(columns_of(examples.features), labels, preprocess, batch_size, shares)


def varied(
    preprocess: ImagePreprocessor,
    raw: Mapping[str, tf.Tensor],
    labels: tf.Tensor,
    keys: tf.Tensor,
    num_classes: int,
    config: AugmentationConfig,
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Training images and their labels, augmented; the keys, `(rows,)`, decide how."""
    from pipelines.images.augmentation import augment
    from pipelines.images.mixing import mix

    image = preprocess.normalised(augment(preprocess.pixels(raw), keys, config))
    if config.mixes_labels:
        image, labels = mix(image, labels, graph_keys(keys, _MIXING), num_classes, config)
    return {"image": image}, labels


def _in_order(
    columns: Mapping[str, Column],
    labels: tf.Tensor | None,
    preprocess: Preprocessor,
    batch_size: int,
    shares: Shares,
    num_classes: int = 0,
) -> tf.data.Dataset:
    """Batches in order; with `num_classes`, labels as shares of the classes."""
    num_examples = len(next(iter(columns.values())).values)

    def make(element: tf.Tensor) -> tuple[Any, ...]:
        step, replica = element // shares.local_replicas, shares.first_replica + element % shares.local_replicas
        index = step * batch_size + replica * shares.rows + tf.range(shares.rows, dtype=tf.int64)
        weight = tf.cast(index < num_examples, tf.float32)
        if shares.filled_up:
            index = tf.minimum(index, num_examples - 1)
        else:
            index, weight = tf.boolean_mask(index, weight > 0), tf.boolean_mask(weight, weight > 0)
        inputs = preprocess({name: column.rows(index) for name, column in columns.items()})
        if labels is None:
            return inputs, weight
        label = tf.gather(labels, index)
        return inputs, tf.one_hot(label, num_classes) if num_classes else label, weight

    return finished(shares.elements(0, -(-num_examples // batch_size)), make)


def _scaled(labels: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
    """Classes as they are; regression targets as the model is trained on them."""
    if info.task == "classification":
        return labels
    values = (np.asarray(labels, np.float64) - info.target_mean) / info.target_scale
    return on_cpu(values.astype(np.float32))
