"""Classification: one of several classes, by softmax over logits."""

import tensorflow as tf

from pipelines.data import DatasetInfo

# Metrics of which more is better; all others are losses.
HIGHER_IS_BETTER = frozenset({"accuracy"})
METRICS = ("accuracy",)


def loss(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Cross-entropy.

    Args:
        labels: class indices, int32, `(batch_size,)`.
        outputs: logits, `(batch_size, num_classes)`.

    Returns:
        The natural-log loss of each example, float32, `(batch_size,)`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(outputs, tf.float32))


def metrics(
    labels: tf.Tensor, outputs: tf.Tensor, weights: tf.Tensor, info: DatasetInfo
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Accuracy as (weight of the examples that are right, weight of all).

    Args:
        labels: class indices, int32, `(batch_size,)`.
        outputs: logits, `(batch_size, num_classes)`.
        weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        info: the data's classes.
    """
    right = tf.cast(tf.equal(tf.argmax(outputs, axis=-1, output_type=labels.dtype), labels), tf.float32)
    return {"accuracy": (tf.reduce_sum(right * weights), tf.reduce_sum(weights))}


def serving_outputs(outputs: tf.Tensor, info: DatasetInfo, threshold: float | None) -> dict[str, tf.Tensor]:
    """What a served model answers.

    Args:
        outputs: logits, `(batch_size, num_classes)`.
        info: the data's classes.
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
    names = tf.constant(list(info.class_names))
    return {"label": tf.gather(names, index), "probabilities": probabilities, "logits": logits}
