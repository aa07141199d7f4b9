"""`Data` for a corpus: batches read from its store, the same at (epoch, step) whatever came before."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from pipelines.buckets import bucketed_batch
from pipelines.config import TextConfig
from pipelines.data import SPLITS, DatasetInfo, Preprocessor, Split
from pipelines.errors import UserError
from pipelines.shares import Shares, finished, shuffled, traced, training_batches
from pipelines.stateless import random_keys
from pipelines.text.corpus_examples import ExampleMaker, Tensors

# Pairs, masks and cuts of an evaluation are those of this seed and epoch, whatever the training's seed is.
EVALUATION_SEED, EVALUATION_EPOCH = 0, -1


class CorpusData:
    """`Data` whose examples are made from a store on disk.

    Args:
        info: what a model needs to know; `counts` are filled in here.
        preprocess: maps raw texts to model inputs, for serving.
        examples: the examples of each split.
        texts: split → the cleaned texts of its documents, one after the other.
        config: batch size, shuffling and its seed, bucketing.
        origin: the corpus, for messages.

    Raises:
        UserError: there are no training examples, or fewer than one batch needs.
    """

    def __init__(
        self,
        info: DatasetInfo,
        preprocess: Preprocessor,
        examples: Mapping[Split, ExampleMaker],
        texts: Callable[[Split], Any],
        config: TextConfig,
        origin: str,
    ) -> None:
        num_training = len(examples["train"])
        if not num_training:
            raise UserError(
                f"{origin}: no training document is long enough for an example: all {examples['train'].num_left_out} "
                "have less than two words or tokens; add longer documents, or see data.parts[].documents for what "
                "separates them"
            )
        if num_training < config.batch_size:
            raise UserError(
                f"{origin}: {num_training} training examples are fewer than one batch of {config.batch_size}; set "
                f"data.batch_size to at most {num_training}, or add documents"
            )
        self.info = dataclasses.replace(info, counts={split: len(examples[split]) for split in SPLITS})
        self.preprocess = preprocess
        self.batch_size = config.batch_size
        self.steps_per_epoch = num_training // config.batch_size
        self.texts = texts
        self._examples = examples
        self._origin = origin
        self._shuffle = config.shuffle
        self._seed = config.shuffle_seed or 0
        self._service = config.service
        self._window = config.bucket_batches if config.shuffle else 0
        self._train_batch = traced(self._make_train_batch)
        self._evaluations: dict[tuple[Split, Shares], tf.data.Dataset] = {}

    def train(
        self,
        epoch: int = 0,
        step: int = 0,
        input_context: tf.distribute.InputContext | None = None,
        epochs: int = 1,
    ) -> tf.data.Dataset:
        """The training batches from `step` of `epoch` on: `(features, labels)`, both dicts.

        Args:
            epoch: which order, pairs, masks and cuts; the same epoch has the same always.
            step: how many batches of the epoch to leave out; this costs nothing.
            input_context: given, the worker gets the batches of its own replicas: for every step one element per local
                replica, whose rows together are those of the batch that one process would get. Each share is padded to
                its own longest row.
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
        """All examples of a split once: `(features, labels, weight)`, every weight 1.0.

        A batch has examples of similar length, and the batches come in a random order, so that the first ones are a
        fair sample of the split. Order, pairs, masks and cuts are the same every time, for every training seed. With an
        `input_context` the last batch is filled up with rows of weight 0.0, so that it can be divided among replicas.
        """
        key = (split, Shares.of(self.batch_size, input_context))
        if key not in self._evaluations:
            self._evaluations[key] = self._in_order(self._examples[split], key[1])
        return self._evaluations[key]

    def validation(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("validation")`."""
        return self.evaluation("validation", input_context)

    def test(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("test")`."""
        return self.evaluation("test", input_context)

    def examples(self, split: Split) -> NoReturn:
        """Raises a UserError: the documents are not held in memory."""
        raise UserError(
            f"the {split} split of a corpus ({self._origin}) is not held in memory; it can be measured, not listed"
        )

    def _make_train_batch(self, rows: int) -> Any:
        maker, batch_size, steps_per_epoch = self._examples["train"], self.batch_size, self.steps_per_epoch

        def make(element: tf.Tensor, context: tf.Tensor) -> tuple[Tensors, Tensors]:
            seed, first_replica, local_replicas = tf.unstack(context)
            step, replica = element // local_replicas, first_replica + element % local_replicas
            epoch, step = step // steps_per_epoch, step % steps_per_epoch
            if self._window:
                whole = bucketed_batch(step, seed, epoch, len(maker), batch_size, self._window, self._lengths)
                index = tf.slice(whole, [replica * rows], [rows])
            else:
                index = step * batch_size + replica * rows + tf.range(rows, dtype=tf.int64)
                index = shuffled(index, seed, epoch, len(maker)) if self._shuffle else index
            return maker.finish(_made(maker, index, rows, seed, epoch))

        return make

    def _lengths(self, index: tf.Tensor) -> tf.Tensor:
        maker = self._examples["train"]
        lengths = tf.numpy_function(
            lambda rows: maker.lengths(rows).astype(np.int64), [index], tf.int64, stateful=False
        )
        return tf.ensure_shape(lengths, [None])

    def _in_order(self, maker: ExampleMaker, shares: Shares) -> tf.data.Dataset:
        num_examples, batch_size = len(maker), self.batch_size
        order = np.argsort(maker.lengths(np.arange(num_examples)), kind="stable")
        # The full batches in another order; what is left over, the longest examples, stays at the end.
        full = num_examples // batch_size * batch_size
        moved = np.argsort(random_keys(EVALUATION_SEED, np.arange(full // batch_size)))
        order[:full] = order[:full].reshape(-1, batch_size)[moved].ravel()

        def make(element: tf.Tensor) -> tuple[Tensors, Tensors, tf.Tensor]:
            step, replica = element // shares.local_replicas, shares.first_replica + element % shares.local_replicas
            place = step * batch_size + replica * shares.rows + tf.range(shares.rows, dtype=tf.int64)
            weight = tf.cast(place < num_examples, tf.float32)
            if shares.filled_up:
                place = tf.minimum(place, num_examples - 1)
            else:
                place, weight = tf.boolean_mask(place, weight > 0), tf.boolean_mask(weight, weight > 0)
            index = tf.numpy_function(lambda places: order[places], [place], tf.int64, stateful=False)
            seed, epoch = (tf.constant(value, tf.int64) for value in (EVALUATION_SEED, EVALUATION_EPOCH))
            rows = shares.rows if shares.filled_up else None
            return *maker.finish(_made(maker, index, rows, seed, epoch)), weight

        return finished(shares.elements(0, -(-num_examples // batch_size)), make)


def _made(maker: ExampleMaker, index: tf.Tensor, rows: int | None, seed: tf.Tensor, epoch: tf.Tensor) -> Tensors:
    """The arrays of the examples of these indices, of which there are `rows` (None: not known in the graph)."""

    def make(index: np.ndarray, seed: np.int64, epoch: np.int64) -> list[np.ndarray]:
        return list(maker.make(index, int(seed), int(epoch)))

    names = list(maker.arrays)
    arrays = tf.numpy_function(make, [index, seed, epoch], list(maker.arrays.values()), stateful=False)
    for name, array in zip(names, arrays, strict=True):
        array.set_shape([rows] if name.endswith("*") else [rows, None])
    return dict(zip(names, arrays, strict=True))
