"""Examples of a corpus by task: arrays that are read or drawn in NumPy, finished in the graph."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from pipelines.stateless import random_keys
from pipelines.text.masking import Masking
from pipelines.text.pairs import Pairs
from pipelines.text.windows import Continuations, Windows

Tensors: TypeAlias = dict[str, tf.Tensor]


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


def _next_token_labels(tensors: Tensors) -> Tensors:
    return {
        "token_ids": tensors["targets"],
        "weights": tf.cast(tensors["padding_mask"], tf.float32),
        "characters": tensors["characters*"],
    }
