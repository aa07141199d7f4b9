"""Language model: the next token, by softmax over the vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import ClassVar

import tensorflow as tf


@dataclass(frozen=True)
class LanguageModel:
    """Cross-entropy of each token, given those before it.

    Attributes:
        mean_tokens: mean number of predicted tokens in a training example, by which its loss is divided: about the loss
            per token, on a scale that does not depend on the other examples of a batch.
    """

    mean_tokens: float

    metric_names: ClassVar[tuple[str, ...]] = ("token_loss", "accuracy", "character_loss")
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def loss(self, labels: Mapping[str, tf.Tensor], outputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The sum of the tokens' cross-entropies over `mean_tokens`.

        Args:
            labels: `token_ids` (int32) and `weights` (float32, 0.0 for padding), `(batch_size, length)`.
            outputs: logits, `(batch_size, length, vocabulary_size)`.
            training: makes no difference.

        Returns:
            float32, `(batch_size,)`.
        """
        return _text_losses(labels, outputs) / self.mean_tokens

    def metrics(
        self, labels: Mapping[str, tf.Tensor], outputs: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """`token_loss` (nats per token), `accuracy` (share of tokens) and `character_loss` (nats per character).

        The end of a text is a token like others: its loss counts in both losses. It is no character, though.

        Args:
            labels: as in `loss`, and `characters`, that the predicted tokens stand for (float32, `(batch_size,)`).
            outputs: as in `loss`.
            weights: 1.0 for an example that counts, 0.0 for padding, `(batch_size,)`.
        """
        loss = tf.reduce_sum(_text_losses(labels, outputs) * weights)
        token_weights = labels["weights"] * weights[:, tf.newaxis]
        num_tokens = tf.reduce_sum(token_weights)
        right = tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), labels["token_ids"])
        return {
            "token_loss": (loss, num_tokens),
            "accuracy": (tf.reduce_sum(tf.cast(right, tf.float32) * token_weights), num_tokens),
            "character_loss": (loss, tf.reduce_sum(labels["characters"] * weights)),
        }

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """`perplexity`, per token, and `character_perplexity`: how many equally likely choices there are on average."""
        return {
            "perplexity": _perplexity(means["token_loss"]),
            "character_perplexity": _perplexity(means["character_loss"]),
        }

    def serving_outputs(self, outputs: tf.Tensor, threshold: float | None) -> dict[str, tf.Tensor]:
        """The logits of each next token; texts are written by `tfbigmodel.generation`.

        Args:
            outputs: logits, `(batch_size, length, vocabulary_size)`.
            threshold: not used; thresholds are for two classes.
        """
        return {"logits": tf.cast(outputs, tf.float32)}


def _text_losses(labels: Mapping[str, tf.Tensor], outputs: tf.Tensor) -> tf.Tensor:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels["token_ids"], tf.cast(outputs, tf.float32))
    return tf.reduce_sum(losses * labels["weights"], axis=-1)


def _perplexity(loss: float) -> float:
    # e^709 is the largest that a double holds; a model that has diverged may be beyond.
    return exp(min(loss, 709.0)) if loss == loss else loss
