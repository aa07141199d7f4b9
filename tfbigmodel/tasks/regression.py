"""Regression: one number, by mean squared error. Targets are normalised for training and given back in their units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf


@dataclass(frozen=True)
class Regression:
    """Squared error of a normalised target.

    Attributes:
        mean: what was taken from targets for training.
        scale: what they were divided by then.
    """

    mean: float = 0.0
    scale: float = 1.0

    metric_names: ClassVar[tuple[str, ...]] = ("mae",)
    higher_is_better: ClassVar[frozenset[str]] = frozenset()

    def loss(self, labels: tf.Tensor, outputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Squared error.

        Args:
            labels: normalised targets, float32, `(batch_size,)`.
            outputs: predictions, `(batch_size, 1)`.
            training: makes no difference.

        Returns:
            The squared error of each example, in normalised units, float32, `(batch_size,)`.
        """
        return tf.math.squared_difference(tf.cast(outputs[:, 0], tf.float32), labels)

    def metrics(
        self, labels: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Mean absolute error, in the target's own units, as (weighted total, total weight).

        Args:
            labels: normalised targets, float32, `(batch_size,)`.
            outputs: predictions, `(batch_size, 1)`.
            weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        """
        error = tf.abs(tf.cast(outputs[:, 0], tf.float32) - labels) * self.scale
        return {"mae": (tf.reduce_sum(error * weights), tf.reduce_sum(weights))}

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """None."""
        return {}

    def serving_outputs(self, outputs: tf.Tensor, threshold: float | None) -> dict[str, tf.Tensor]:
        """What a served model answers.

        Args:
            outputs: predictions in normalised units, `(batch_size, 1)`.
            threshold: not used; thresholds are for two classes.

        Returns:
            `prediction` in the target's own units (float32, `(batch_size,)`).
        """
        return {"prediction": tf.cast(outputs[:, 0], tf.float32) * self.scale + self.mean}
