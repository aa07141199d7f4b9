"""Regression: one number, by mean squared error. Targets are normalised for training and given back in their units."""

import tensorflow as tf

from pipelines.data import DatasetInfo

HIGHER_IS_BETTER: frozenset[str] = frozenset()
METRICS = ("mae",)


def loss(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Squared error.

    Args:
        labels: normalised targets, float32, `(batch_size,)`.
        outputs: predictions, `(batch_size, 1)`.

    Returns:
        The squared error of each example, in normalised units, float32, `(batch_size,)`.
    """
    return tf.math.squared_difference(tf.cast(outputs[:, 0], tf.float32), labels)


def metrics(
    labels: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor, info: DatasetInfo
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Mean absolute error, in the target's own units, as (weighted total, total weight).

    Args:
        labels: normalised targets, float32, `(batch_size,)`.
        outputs: predictions, `(batch_size, 1)`.
        weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        info: the target's scale.
    """
    error = tf.abs(tf.cast(outputs[:, 0], tf.float32) - labels) * info.target_scale
    return {"mae": (tf.reduce_sum(error * weights), tf.reduce_sum(weights))}


def serving_outputs(outputs: tf.Tensor, info: DatasetInfo, threshold: float | None) -> dict[str, tf.Tensor]:
    """What a served model answers.

    Args:
        outputs: predictions in normalised units, `(batch_size, 1)`.
        info: the target's mean and scale.
        threshold: not used; thresholds are for two classes.

    Returns:
        `prediction` in the target's own units (float32, `(batch_size,)`).
    """
    return {"prediction": tf.cast(outputs[:, 0], tf.float32) * info.target_scale + info.target_mean}
