"""Classification: one of several classes, by softmax over logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf


@dataclass(frozen=True)
class Classification:
    """Softmax cross-entropy over classes.

    Labels are class indices, int32 `(batch_size,)`, or, where examples are mixed, shares of the classes, float32
    `(batch_size, num_classes)`.

    Attributes:
        class_names: the classes in the order of their indices.
        label_smoothing: the share of each training label that is spread evenly over all classes, from 0 to below 1.
        top_k: how many of the likeliest classes a served model names besides its answer; 0 for none.

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7 (label smoothing).

    Example:
        >>> task = Classification(("cat", "dog"), label_smoothing=0.1, top_k=2)
        >>> task.loss(tf.constant([0]), tf.constant([[2.0, 0.0]]), training=True).numpy()
        array([0.22692806], dtype=float32)
    """

    class_names: tuple[str, ...]
    label_smoothing: float = 0.0
    top_k: int = 0

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def loss(self, labels: tf.Tensor, outputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Cross-entropy.

        Args:
            labels: class indices, int32, `(batch_size,)`, or shares, float32, `(batch_size, num_classes)`.
            outputs: logits, `(batch_size, num_classes)`.
            training: smooth the labels. What is measured is the loss of the labels as they are, so that runs with and
                without smoothing can be compared.

        Returns:
            The natural-log loss of each example, float32, `(batch_size,)`.
        """
        logits = tf.cast(outputs, tf.float32)
        smoothing = self.label_smoothing if training else 0.0
        if labels.shape.rank == 1 and not smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        num_classes = len(self.class_names)
        shares = tf.one_hot(labels, num_classes) if labels.shape.rank == 1 else labels
        return tf.nn.softmax_cross_entropy_with_logits(shares * (1.0 - smoothing) + smoothing / num_classes, logits)

    def metrics(
        self, labels: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Accuracy as (weight of the examples that are right, weight of all).

        Args:
            labels: class indices, int32, `(batch_size,)`, or shares, float32, `(batch_size, num_classes)`, of which
                the class with the largest share counts as the label, the first of equals.
            outputs: logits, `(batch_size, num_classes)`.
            weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        """
        if labels.shape.rank == 2:
            labels = tf.argmax(labels, axis=-1, output_type=tf.int32)
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
            `label` (string, `(batch_size,)`), `probabilities` and `logits` (float32, `(batch_size, num_classes)`); with
            `top_k`, also `top_labels` (string) and `top_probabilities` (float32), `(batch_size, k)`, the likeliest
            class first whatever the threshold is; k is `top_k`, or the number of classes where that is less.
        """
        logits = tf.cast(outputs, tf.float32)
        probabilities = tf.nn.softmax(logits)
        if threshold is None:
            index = tf.argmax(logits, axis=-1, output_type=tf.int32)
        else:
            # Compared in double precision, as `evaluation.metrics.predicted_classes` does.
            index = tf.cast(tf.cast(probabilities[:, 1], tf.float64) >= threshold, tf.int32)
        names = tf.constant(list(self.class_names))
        answers = {"label": tf.gather(names, index), "probabilities": probabilities, "logits": logits}
        if self.top_k:
            # By logits, as the label is chosen: probabilities may round to equals.
            top = tf.math.top_k(logits, min(self.top_k, len(self.class_names))).indices
            answers["top_labels"] = tf.gather(names, top)
            answers["top_probabilities"] = tf.gather(probabilities, top, batch_dims=1)
        return answers
