"""The rules by which the next token is chosen. Each text of a batch has its own."""

from typing import NamedTuple

import tensorflow as tf


class Sampling(NamedTuple):
    """How each text is written; one number for each, `(batch_size,)`.

    Attributes:
        max_new_tokens: tokens to write at most, int32.
        temperature: logits are divided by it, float32; 0 for the likeliest token (greedy).
        top_k: choose among so many of the likeliest tokens, int32; 0 for all.
        top_p: choose among the fewest likeliest tokens that have this probability together, float32.
        repetition_penalty: above 1 makes tokens that are in the text less likely, float32.
        num_beams: above 1: beam search, int32.
        seed: fixes what is drawn, int64.
    """

    max_new_tokens: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    repetition_penalty: tf.Tensor
    num_beams: tf.Tensor
    seed: tf.Tensor


def penalised(logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Logits with those of tokens that are in the text made smaller: divided by the penalty, or times it if negative.

    Args:
        logits: float32 `(batch_size, vocabulary_size)`.
        seen: which tokens are in the text, bool `(batch_size, vocabulary_size)`.
        penalty: float32 `(batch_size,)`; 1 changes nothing.

    Reference:
        Keskar et al., "CTRL", 2019, section 4.1.
    """
    penalty = penalty[:, tf.newaxis]
    return tf.where(seen, tf.where(logits < 0, logits * penalty, logits / penalty), logits)


def choose(logits: tf.Tensor, sampling: Sampling, uniform: tf.Tensor) -> tf.Tensor:
    """One token for each text.

    First the temperature, then the `top_k` likeliest are kept, then of those the likeliest that together have the share
    `top_p`. A token that is exactly as likely as the last one kept is kept too.

    Args:
        logits: float32 `(batch_size, vocabulary_size)`; minus infinity for what must not be chosen.
        sampling: the rules.
        uniform: a random number for each text, 0 ≤ number < 1, float32 `(batch_size,)`.

    Returns:
        Token ids, int32 `(batch_size,)`.
    """
    likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
    greedy = (sampling.temperature == 0.0) | (sampling.top_k == 1)

    def drawn() -> tf.Tensor:
        # Taken from their maximum, logits stay finite however small the temperature is.
        temperature = tf.where(greedy, 1.0, sampling.temperature)[:, tf.newaxis]
        scaled = (logits - tf.reduce_max(logits, axis=-1, keepdims=True)) / temperature
        kept = scaled >= least_kept(scaled, sampling.top_k, sampling.top_p)[:, tf.newaxis]
        cumulative = tf.cumsum(tf.nn.softmax(tf.where(kept, scaled, -float("inf"))), axis=-1)
        # The token in whose share of the interval the number falls: one number is enough for any vocabulary.
        point = uniform[:, tf.newaxis] * cumulative[:, -1:]
        token = tf.reduce_sum(tf.cast(cumulative <= point, tf.int32), axis=-1)
        return tf.where(greedy, likeliest, token)

    return tf.cond(tf.reduce_all(greedy), lambda: likeliest, drawn)


def least_kept(logits: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """The smallest logit that a text may choose; it depends on the text's own numbers only, not on its neighbours'.

    Args:
        logits: float32 `(batch_size, vocabulary_size)`, divided by the temperature.
        top_k: int32 `(batch_size,)`; 0 for all.
        top_p: float32 `(batch_size,)`; 1 for all.

    Returns:
        float32 `(batch_size,)`; minus infinity where all may be chosen.
    """
    vocabulary_size = tf.shape(logits)[1]
    limited_k = (top_k > 0) & (top_k < vocabulary_size)
    limited_p = top_p < 1.0

    def found() -> tf.Tensor:
        # All must be sorted for top_p only.
        longest = tf.reduce_max(tf.where(limited_k, top_k, 1))
        num_sorted = tf.where(tf.reduce_any(limited_p), vocabulary_size, longest)
        ordered = tf.math.top_k(logits, num_sorted).values
        count = tf.where(limited_k, top_k, vocabulary_size)
        among = tf.range(num_sorted) < count[:, tf.newaxis]
        shares = tf.nn.softmax(tf.where(among, ordered, -float("inf")))
        before = tf.cumsum(shares, axis=-1, exclusive=True)
        kept = among & ((before < top_p[:, tf.newaxis]) | ~limited_p[:, tf.newaxis])
        last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=-1) - 1
        least = tf.gather(ordered, last, batch_dims=1)
        return tf.where(limited_k | limited_p, least, -float("inf"))

    return tf.cond(
        tf.reduce_any(limited_k | limited_p), found, lambda: tf.fill(tf.shape(top_p), -float("inf"))
    )  # fmt: skip


def random_numbers(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Random numbers that depend on each text's seed only, float32 `(batch_size, count)`.

    Args:
        seed: int64 `(batch_size,)`.
        count: how many; always the same, since other counts may give other numbers.
    """

    def of_one(number: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([count], seed=tf.stack([number, tf.zeros_like(number)]))

    return tf.map_fn(of_one, seed, fn_output_signature=tf.TensorSpec([count], tf.float32))
