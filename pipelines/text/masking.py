"""Masked language model: which tokens are to be guessed, and what the model sees in their place."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipelines.config import MaskingConfig
from pipelines.stateless import graph_uniform


class Masking(tf.Module):
    """Chooses tokens to guess, in graph operations; what is chosen depends on each example's key alone.

    Of each example `config.share` of the tokens are chosen, rounded, at least one, never a special one. Of the chosen,
    `config.masked` become the mask, `config.random` a random token that is not special, and the others stay.

    With whole words a word's pieces are chosen together: words are taken in random order, and the last one if the
    number of tokens is nearer to the share with it than without it.

    Args:
        config: the shares.
        vocabulary: the token of each id; what begins with `##` continues a word.
        special_ids: ids by name; `mask` is one of them.
        sequence_length: tokens of an example at most, special ones included.

    Attributes:
        num_predictions: places for tokens to guess in an example.
        continues: which ids continue a word, bool `(vocabulary_size,)`.

    Reference:
        Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019, section 3.1.
    """

    def __init__(
        self, config: MaskingConfig, vocabulary: Sequence[str], special_ids: Mapping[str, int], sequence_length: int
    ) -> None:
        super().__init__()
        self._config = config
        self._mask_id = special_ids["mask"]
        self.num_predictions = num_predictions_of(config, sequence_length)
        special = np.zeros(len(vocabulary), bool)
        special[list(special_ids.values())] = True
        self._special = special
        self._ordinary_ids = np.flatnonzero(~special).astype(np.int32)
        self.continues = np.array([token.startswith("##") for token in vocabulary]) & ~special

    def num_masked(self, num_tokens: np.ndarray) -> np.ndarray:
        """How many are chosen of so many tokens that are not special (whole words: about as many)."""
        wanted = np.round(self._config.share * num_tokens.astype(np.float32))
        return np.minimum(np.clip(wanted, 1, self.num_predictions), num_tokens).astype(np.int32)

    def __call__(self, token_ids: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Masks a batch.

        Args:
            token_ids: int32 `(rows, tokens)`, padded.
            keys: uint64 `(rows,)`, an example's own random bits.

        Returns:
            What the model sees, int32 `(rows, tokens)`; the places of the tokens to guess, int32
            `(rows, num_predictions)`, in order, then 0; those tokens, int32; and 1.0 where there is one, float32.
        """
        candidates = ~tf.gather(tf.constant(self._special), token_ids)
        # Two numbers for each place: which tokens are chosen, and what becomes of them. Numbered from the front, so
        # that padding changes nothing.
        length = tf.shape(token_ids)[1]
        draws = tf.reshape(graph_uniform(keys, 3 * length), [-1, length, 3])
        chosen = self._chosen(token_ids, candidates, draws[:, :, 0])
        # What becomes of a token is drawn by fate; which random token it becomes, by the third number.
        fate, which = draws[:, :, 1], draws[:, :, 2]
        number = tf.cast(which * tf.cast(len(self._ordinary_ids), tf.float32), tf.int32)
        number = tf.minimum(number, len(self._ordinary_ids) - 1)
        random_ids = tf.gather(tf.constant(self._ordinary_ids), number)
        masked = fate < self._config.masked
        replaced = tf.where(masked, tf.constant(self._mask_id, tf.int32), random_ids)
        changed = chosen & (masked | (fate < self._config.masked + self._config.random))
        positions, weights = self._positions(chosen)
        originals = tf.gather(token_ids, positions, batch_dims=1) * tf.cast(weights, tf.int32)
        return tf.where(changed, replaced, token_ids), positions, originals, weights

    def _chosen(self, token_ids: tf.Tensor, candidates: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
        """Which tokens are to be guessed: bool `(rows, tokens)`."""
        num_tokens = tf.reduce_sum(tf.cast(candidates, tf.int32), axis=1, keepdims=True)
        wanted = tf.cast(tf.round(self._config.share * tf.cast(num_tokens, tf.float32)), tf.int32)
        wanted = tf.minimum(tf.clip_by_value(wanted, 1, self.num_predictions), num_tokens)
        if not self._config.whole_words:
            order = tf.argsort(tf.where(candidates, scores, 2.0), axis=1, stable=True)
            return candidates & (_inverse(order) < wanted)
        # Each token gets the score and the size of its word; sorted by the scores, words stay together. A segment that
        # was cut may begin within a word: no word goes across a special token.
        special = tf.pad(~candidates[:, :-1], [[0, 0], [1, 0]], constant_values=True)
        begins = special | ~tf.gather(tf.constant(self.continues), token_ids)
        shape = tf.shape(token_ids)
        places = tf.broadcast_to(tf.range(shape[1]), shape)
        words = tf.math.cumsum(tf.cast(begins, tf.int32), axis=1) - 1 + shape[1] * tf.range(shape[0])[:, tf.newaxis]
        sizes = tf.gather(tf.math.unsorted_segment_sum(tf.ones_like(words), words, tf.size(words)), words)
        first = tf.gather(tf.math.unsorted_segment_min(places, words, tf.size(words)), words)
        word_scores = tf.gather(scores, first, batch_dims=1)
        # A word of more pieces than may be guessed comes last, and is cut if there is no other.
        word_scores = tf.where(sizes > self.num_predictions, word_scores + 1.0, word_scores)
        order = tf.argsort(tf.where(candidates, word_scores, 3.0), axis=1, stable=True)
        rank = _inverse(order)
        before = rank - (places - first)  # tokens of the words that come before this one's
        total = before + sizes
        nearer = (total - wanted <= wanted - before) & (total <= self.num_predictions)
        at_least = (before == 0) & (rank < self.num_predictions)
        return candidates & (nearer | at_least)

    def _positions(self, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.shape(chosen)[1]
        places = tf.where(chosen, tf.range(length), length)
        places = tf.pad(tf.sort(places, axis=1), [[0, 0], [0, self.num_predictions]], constant_values=0)
        places = places[:, : self.num_predictions]
        count = tf.reduce_sum(tf.cast(chosen, tf.int32), axis=1, keepdims=True)
        there = tf.range(self.num_predictions) < count
        return tf.where(there, places, 0), tf.cast(there, tf.float32)


def num_predictions_of(config: MaskingConfig, sequence_length: int) -> int:
    """The share of a full sequence, rounded up: places for tokens to guess in an example."""
    return math.ceil(round(config.share * sequence_length, 6))  # 0.15 * 20 is 3, not a little more


def _inverse(order: tf.Tensor) -> tf.Tensor:
    """The place of each token in an order: `order` is a permutation in each row."""
    return tf.argsort(order, axis=1)
