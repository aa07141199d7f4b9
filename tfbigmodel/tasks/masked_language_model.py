"""Masked language model and next-sentence prediction: the two tasks that BERT is pretrained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import ClassVar

import tensorflow as tf

# e to the power of what is above is no float; a model that is so bad has diverged.
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class MaskedLanguageModel:
    """Cross-entropy of the masked tokens, and of whether the second segment follows the first.

    Attributes:
        mean_tokens: mean number of masked tokens in a training example, by which the sum of their losses is divided:
            about the loss per token, on a scale that does not depend on the other examples of a batch.
        next_sentence_weight: weight of the next-sentence loss; the masked language model's is 1.

    Reference:
        Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019, section 3.1.
    """

    mean_tokens: float
    next_sentence_weight: float = 1.0

    metric_names: ClassVar[tuple[str, ...]] = ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"mlm_accuracy", "nsp_accuracy"})

    def loss(
        self, labels: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Both losses of each example.

        Args:
            labels: `masked_ids` (int32) and `masked_weights` (float32, 0.0 for padding), `(batch_size,
                num_predictions)`, and `is_next` (int32, 1 where the second segment follows the first, `(batch_size,)`).
            outputs: `masked_logits`, `(batch_size, num_predictions, vocabulary_size)`, and `next_logits`,
                `(batch_size, 2)`.
            training: makes no difference.

        Returns:
            float32, `(batch_size,)`.
        """
        masked = tf.reduce_sum(_masked_losses(labels, outputs) * labels["masked_weights"], axis=1)
        return masked / self.mean_tokens + self.next_sentence_weight * _next_losses(labels, outputs)

    def metrics(
        self, labels: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor], weights: tf.Tensor
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Loss (nats) and accuracy of each masked token, and of each pair of segments.

        Args:
            labels: as in `loss`.
            outputs: as in `loss`.
            weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        """
        token_weights = labels["masked_weights"] * weights[:, tf.newaxis]
        num_tokens, num_pairs = tf.reduce_sum(token_weights), tf.reduce_sum(weights)
        right_tokens = _right(outputs["masked_logits"], labels["masked_ids"])
        right_pairs = _right(outputs["next_logits"], labels["is_next"])
        return {
            "mlm_loss": (tf.reduce_sum(_masked_losses(labels, outputs) * token_weights), num_tokens),
            "mlm_accuracy": (tf.reduce_sum(right_tokens * token_weights), num_tokens),
            "nsp_loss": (tf.reduce_sum(_next_losses(labels, outputs) * weights), num_pairs),
            "nsp_accuracy": (tf.reduce_sum(right_pairs * weights), num_pairs),
        }

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """`perplexity`: among how many equally likely tokens a masked one is guessed."""
        return {"perplexity": exp(min(means["mlm_loss"], _LARGEST_EXPONENT))} if "mlm_loss" in means else {}

    def serving_outputs(self, outputs: Mapping[str, tf.Tensor], threshold: float | None) -> dict[str, tf.Tensor]:
        """What a served model answers to tokens; to texts it answers by the chapter's own functions.

        Args:
            outputs: as in `loss`.
            threshold: not used; thresholds are for two classes.

        Returns:
            `masked_ids`, the likeliest tokens (int32, `(batch_size, num_predictions)`), and `is_next`, a probability
            (float32, `(batch_size,)`).
        """
        return {
            "masked_ids": tf.argmax(outputs["masked_logits"], axis=-1, output_type=tf.int32),
            "is_next": tf.nn.softmax(tf.cast(outputs["next_logits"], tf.float32))[:, 1],
        }


def _masked_losses(labels: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    logits = tf.cast(outputs["masked_logits"], tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels["masked_ids"], logits)


def _next_losses(labels: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    logits = tf.cast(outputs["next_logits"], tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels["is_next"], logits)


def _right(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels), tf.float32)
