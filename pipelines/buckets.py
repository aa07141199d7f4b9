"""Batches of examples of similar length, so that little of a batch is padding; as a function of step and epoch."""

from collections.abc import Callable

import tensorflow as tf

from pipelines.shares import shuffled


def bucketed_batch(
    step: tf.Tensor,
    seed: tf.Tensor,
    epoch: tf.Tensor,
    num_examples: int,
    batch_size: int,
    window: int,
    lengths: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """The examples of a training batch over all replicas, which are of similar length.

    Args:
        step: which batch of the epoch.
        seed: fixes the order of all epochs.
        epoch: which order.
        num_examples: in the training split.
        batch_size: examples in a batch.
        window: so many batches are sorted by length together.
        lengths: from examples, int64 `(num,)`, to their lengths.

    Returns:
        int64 `(batch_size,)`.
    """
    number, step_in_window = step // window, step % window
    first = number * window
    last = tf.minimum(first + window, num_examples // batch_size)
    index = shuffled(tf.range(first * batch_size, last * batch_size), seed, epoch, num_examples)
    window_seed = tf.random.experimental.stateless_fold_in(tf.stack([seed, epoch]), number)
    return bucketed(index, lengths(index), step_in_window, batch_size, window_seed)


def bucketed(
    index: tf.Tensor,
    lengths: tf.Tensor,
    step_in_window: tf.Tensor,
    batch_size: int,
    seed: tf.Tensor,
) -> tf.Tensor:
    """The examples of one batch out of a window of several.

    The window's examples are sorted by length and cut into batches, and the batches come in a random order. This needs
    nothing but the window, so that an epoch can be started anywhere.

    Args:
        index: the window's examples, in random order, int64 `(num_batches * batch_size,)`.
        lengths: the length of each of them.
        step_in_window: which of its batches is wanted, from 0.
        batch_size: examples in a batch.
        seed: int64 `(2,)`, another one for each window.

    Returns:
        The batch's examples, shorter ones first, int64 `(batch_size,)`.
    """
    order = tf.argsort(lengths, stable=True)
    num_batches = tf.size(index) // batch_size
    batches = tf.argsort(tf.random.stateless_uniform([num_batches], seed))
    rows = tf.slice(order, [tf.gather(batches, step_in_window) * batch_size], [batch_size])
    return tf.gather(index, rows)
