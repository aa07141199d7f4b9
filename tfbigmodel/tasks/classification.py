"""Classification: one of several classes, by softmax over logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf


@dataclass(frozen=True)
class Classification:
    """Softmax cross-entropy over class indices.

    Attributes:
        class_names: the classes in the order of their indices.
    """

    class_names: tuple[str, ...]

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def loss(self, labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """Cross-entropy.

        Args:
            labels: class indices, int32, `(batch_size,)`.
            outputs: logits, `(batch_size, num_classes)`.

        Returns:
            The natural-log loss of each example, float32, `(batch_size,)`.
        """
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(outputs, tf.float32))

    def metrics(
        self, labels: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Accuracy as (weight of the examples that are right, weight of all).

        Args:
            labels: class indices, int32, `(batch_size,)`.
            outputs: logits, `(batch_size, num_classes)`.
            weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        """
        right = tf.cast(tf.equal(tf.argmax(outputs, axis=-1, output_type=labels.dtype), labels), tf.float32)
        return {"accuracy": (tf.reduce_sum(right * weights), tf.reduce_sum(weights))}

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """None."""
        return {}

    def serving_outputs(self, outputs: tf.Tensor, threshold: float | None) -> dict[str, tf.Tensor]:
        """What a served model answers.

        Args:
            outputs: logits, `(batch_size, num_classes)`.
            threshold: for two classes, the probability of the second one from which on it is the answer; the likelier
                class where None.

        Returns:
            `label` (string, `(batch_size,)`), `probabilities` and `logits` (float32, `(batch_size, num_classes)`).
        """
        logits = tf.cast(outputs, tf.float32)
        probabilities = tf.nn.softmax(logits)
        if threshold is None:
            index = tf.argmax(logits, axis=-1, output_type=tf.int32)
        else:
            # Compared in double precision, as `evaluation.metrics.predicted_classes` does.
            index = tf.cast(tf.cast(probabilities[:, 1], tf.float64) >= threshold, tf.int32)
        names = tf.constant(list(self.class_names))
        return {"label": tf.gather(names, index), "probabilities": probabilities, "logits": logits}
