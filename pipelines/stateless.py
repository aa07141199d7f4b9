"""Random numbers that are a function of their keys: the same in NumPy and in a graph, on every machine.

Which numbers an example gets must depend on (seed, epoch, index) alone, not on the batch that it is in: then training
resumes exactly, and workers' shares fit together. The function is SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014), applied to each word of the key in turn.
"""

from typing import Any

import numpy as np
import tensorflow as tf

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def random_keys(*words: Any) -> np.ndarray:
    """Mixes integers, or arrays of integers that broadcast, to 64 random bits.

    Args:
        *words: what the bits depend on, seed, epoch and index for instance; their order matters.

    Returns:
        uint64, of the words' common shape.
    """
    key = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            key = _mix(key + np.uint64(_GAMMA) + np.asarray(word).astype(np.uint64))
    return key


def random_uniform(keys: np.ndarray, num: int) -> np.ndarray:
    """Numbers from 0 (included) to 1 (excluded), `(…, num)`, for each of the keys, `(…)`."""
    bits = random_keys_of(keys, num)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_keys_of(keys: np.ndarray, num: int) -> np.ndarray:
    """`num` keys from each key: uint64 `(…, num)`."""
    with np.errstate(over="ignore"):
        return _mix(keys[..., np.newaxis] + np.uint64(_GAMMA) * np.arange(1, num + 1, dtype=np.uint64))


def graph_keys(*words: Any) -> tf.Tensor:
    """`random_keys` in graph operations: the words are integers, or integer tensors that broadcast."""
    key = tf.constant(0, tf.uint64)
    for word in words:
        word = tf.cast(tf.convert_to_tensor(word, None if tf.is_tensor(word) else tf.int64), tf.uint64)
        key = _graph_mix(key + tf.constant(_GAMMA, tf.uint64) + word)
    return key


def graph_uniform(keys: tf.Tensor, num: Any) -> tf.Tensor:
    """`random_uniform` in graph operations, to float32's 24 bits: keys uint64 `(rows,)` → `(rows, num)`."""
    steps = tf.cast(tf.range(1, num + 1, dtype=tf.int64), tf.uint64)
    bits = _graph_mix(keys[:, tf.newaxis] + tf.constant(_GAMMA, tf.uint64) * steps)
    return tf.cast(_shifted(bits, 40), tf.float32) * 2.0**-24


def _graph_mix(bits: tf.Tensor) -> tf.Tensor:
    bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, 30)) * tf.constant(_FIRST, tf.uint64)
    bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, 27)) * tf.constant(_SECOND, tf.uint64)
    return tf.bitwise.bitwise_xor(bits, _shifted(bits, 31))


def _shifted(bits: tf.Tensor, places: int) -> tf.Tensor:
    return tf.bitwise.right_shift(bits, tf.constant(places, tf.uint64))


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: np.ndarray = bits ^ (bits >> np.uint64(31))
    return mixed
