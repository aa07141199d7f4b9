"""`Data` for a corpus: batches read from its store, the same at (epoch, step) whatever came before."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from pipelines.batching import _finished, _Shares, _shuffled, _traced
from pipelines.buckets import bucketed
from pipelines.config import TextConfig
from pipelines.data import SPLITS, DatasetInfo, Preprocessor, Split
from pipelines.errors import UserError
from pipelines.text.masking import Masking
from pipelines.text.pairs import Pairs
from pipelines.text.stateless import random_keys
from pipelines.text.windows import Continuations, Windows

Tensors: TypeAlias = dict[str, tf.Tensor]
# Pairs, masks and cuts of an evaluation are those of this seed and epoch, whatever the training's seed is.
EVALUATION_SEED, EVALUATION_EPOCH = 0, -1


class ExampleMaker(Protocol):
    """The examples of a split, made when they are asked for.

    Attributes:
        arrays: name → dtype of what `make` returns; names that end in `*` are of one number per row, the others padded
            `(rows, tokens)`.
        mean_tokens: mean number of predicted tokens in an example.
        num_left_out: documents that give no example.
    """

    arrays: Mapping[str, Any]
    mean_tokens: float
    num_left_out: int

    def __len__(self) -> int: ...

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """About how many tokens these examples have, without reading them: `(rows,)`."""
        ...

    def make(self, index: np.ndarray, seed: int, epoch: int) -> Sequence[np.ndarray]:
        """The arrays of these examples, in the order of `arrays`; they depend on (seed, epoch, index) alone."""
        ...

    def finish(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """Arrays → features and labels, in graph operations."""
        ...


class PretrainingExamples:
    """Masked pairs of segments: see `Pairs` and `Masking`."""

    arrays: Mapping[str, Any] = {
        "token_ids": tf.int32,
        "segment_ids": tf.int32,
        "padding_mask": tf.int32,
        "is_next*": tf.int32,
        "keys*": tf.uint64,
    }

    def __init__(self, pairs: Pairs, masking: Masking) -> None:
        self._pairs, self._masking = pairs, masking
        self.num_left_out = pairs.num_left_out
        # Of the first epoch, by the lengths of pairs as they are before one in ten is shortened.
        sample = np.arange(0, len(pairs), max(len(pairs) // 10_000, 1))
        counts = masking.num_masked(pairs.lengths(sample) - 3) if len(sample) else np.zeros(1)
        self.mean_tokens = float(counts.mean())

    def __len__(self) -> int:
        return len(self._pairs)

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """See `ExampleMaker`."""
        return self._pairs.lengths(index)

    def make(self, index: np.ndarray, seed: int, epoch: int) -> Sequence[np.ndarray]:
        """See `ExampleMaker`."""
        pairs = self._pairs.batch(index, seed, epoch)
        keys = random_keys(seed, epoch, index, 1)  # other random bits than the pair's
        return pairs.token_ids, pairs.segment_ids, pairs.padding_mask, pairs.is_next, keys

    def finish(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """See `ExampleMaker`."""
        masked, positions, originals, weights = self._masking(tensors["token_ids"], tensors["keys*"])
        features = {
            "token_ids": masked,
            "segment_ids": tensors["segment_ids"],
            "padding_mask": tensors["padding_mask"],
            "mask_positions": positions,
        }
        return features, {"masked_ids": originals, "masked_weights": weights, "is_next": tensors["is_next*"]}


class LanguageModelExamples:
    """The next token, in windows of documents: see `Windows`."""

    arrays: Mapping[str, Any] = {
        "token_ids": tf.int32,
        "padding_mask": tf.int32,
        "targets": tf.int32,
        "characters*": tf.float32,
    }

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self.mean_tokens = windows.mean_tokens
        self.num_left_out = windows.num_left_out

    def __len__(self) -> int:
        return len(self._windows)

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """See `ExampleMaker`."""
        return self._windows.lengths(index)

    def make(self, index: np.ndarray, seed: int, epoch: int) -> Sequence[np.ndarray]:
        """See `ExampleMaker`."""
        batch = self._windows.batch(index)
        return batch.token_ids, batch.padding_mask, batch.targets, batch.characters

    def finish(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """See `ExampleMaker`."""
        features = {name: tensors[name] for name in ("token_ids", "padding_mask")}
        return features, _next_token_labels(tensors)


class SequenceToSequenceExamples:
    """A document's second part, given its first: see `Continuations`."""

    arrays: Mapping[str, Any] = {**LanguageModelExamples.arrays, "prompts": tf.int32, "prompt_mask": tf.int32}

    def __init__(self, continuations: Continuations) -> None:
        self._continuations = continuations
        self.mean_tokens = continuations.mean_tokens
        self.num_left_out = continuations.num_left_out

    def __len__(self) -> int:
        return len(self._continuations)

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """See `ExampleMaker`."""
        return self._continuations.lengths(index)

    def make(self, index: np.ndarray, seed: int, epoch: int) -> Sequence[np.ndarray]:
        """See `ExampleMaker`."""
        batch, prompts, prompt_mask = self._continuations.batch(index, seed, epoch)
        return batch.token_ids, batch.padding_mask, batch.targets, batch.characters, prompts, prompt_mask

    def finish(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """See `ExampleMaker`."""
        features = {
            "encoder_token_ids": tensors["prompts"],
            "encoder_padding_mask": tensors["prompt_mask"],
            "encoder_segment_ids": tf.zeros_like(tensors["prompts"]),
            "token_ids": tensors["token_ids"],
            "padding_mask": tensors["padding_mask"],
        }
        return features, _next_token_labels(tensors)


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
        UserError: there are fewer training examples than one batch needs.
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
        self._window = config.bucket_batches if config.shuffle else 0
        self._train_batch = _traced(self._make_train_batch)
        self._evaluations: dict[tuple[Split, _Shares], tf.data.Dataset] = {}

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
        shares = _Shares.of(self.batch_size, input_context)
        elements = shares.elements(epoch * self.steps_per_epoch + step, (epoch + epochs) * self.steps_per_epoch)
        context = tf.constant([self._seed, shares.first_replica, shares.local_replicas], tf.int64)
        batch = self._train_batch(shares.rows)
        return _finished(elements, lambda element: batch(element, context))

    def evaluation(self, split: Split, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """All examples of a split once, short ones first: `(features, labels, weight)`, every weight 1.0.

        Pairs, masks and cuts are the same every time, for every training seed. With an `input_context` the last batch
        is filled up with rows of weight 0.0, so that it can be divided among replicas.
        """
        key = (split, _Shares.of(self.batch_size, input_context))
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
                index = tf.slice(self._bucketed_batch(step, seed, epoch), [replica * rows], [rows])
            else:
                index = step * batch_size + replica * rows + tf.range(rows, dtype=tf.int64)
                index = _shuffled(index, seed, epoch, len(maker)) if self._shuffle else index
            return maker.finish(_made(maker, index, rows, seed, epoch))

        return make

    def _bucketed_batch(self, step: tf.Tensor, seed: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """The examples of a batch over all replicas, which are of similar length."""
        maker = self._examples["train"]
        window, step_in_window = step // self._window, step % self._window
        first = window * self._window
        last = tf.minimum(first + self._window, self.steps_per_epoch)
        index = _shuffled(tf.range(first * self.batch_size, last * self.batch_size), seed, epoch, len(maker))
        lengths = tf.numpy_function(lambda rows: maker.lengths(rows).astype(np.int64), [index], tf.int64, False)
        lengths.set_shape([None])
        window_seed = tf.random.experimental.stateless_fold_in(tf.stack([seed, epoch]), window)
        return bucketed(index, lengths, step_in_window, self.batch_size, window_seed)

    def _in_order(self, maker: ExampleMaker, shares: _Shares) -> tf.data.Dataset:
        num_examples, batch_size = len(maker), self.batch_size
        order = np.argsort(maker.lengths(np.arange(num_examples)), kind="stable")

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

        return _finished(shares.elements(0, -(-num_examples // batch_size)), make)


def _made(maker: ExampleMaker, index: tf.Tensor, rows: int | None, seed: tf.Tensor, epoch: tf.Tensor) -> Tensors:
    """The arrays of the examples of these indices, of which there are `rows` (None: not known in the graph)."""

    def make(index: np.ndarray, seed: np.int64, epoch: np.int64) -> list[np.ndarray]:
        return list(maker.make(index, int(seed), int(epoch)))

    names = list(maker.arrays)
    arrays = tf.numpy_function(make, [index, seed, epoch], list(maker.arrays.values()), stateful=False)
    for name, array in zip(names, arrays, strict=True):
        array.set_shape([rows] if name.endswith("*") else [rows, None])
    return dict(zip(names, arrays, strict=True))


def _next_token_labels(tensors: Tensors) -> Tensors:
    return {
        "token_ids": tensors["targets"],
        "weights": tf.cast(tensors["padding_mask"], tf.float32),
        "characters": tensors["characters*"],
    }
