"""Batches of examples of similar length, so that little of a batch is padding; as a function of step and epoch."""

import tensorflow as tf


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
