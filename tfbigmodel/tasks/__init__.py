"""What is learned, and what is answered: one class for each task, made by a chapter for its data.

A task does not know the model; it sees labels and outputs. Labels and outputs are tensors, or dicts of them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import tensorflow as tf


class Task(Protocol):
    """Loss, metrics and answers.

    Attributes:
        metric_names: what `metrics` returns, in a fixed order.
        higher_is_better: the metrics, also derived ones, of which more is better; all others are losses.
    """

    metric_names: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[frozenset[str]]

    def loss(self, labels: Any, outputs: Any, training: bool = False) -> tf.Tensor:
        """The loss of each example, float32, `(batch_size,)`; what is minimised is its mean over examples.

        Its scale must not depend on the other examples of the batch, or replicas would not add up to one.

        Args:
            labels: what is right.
            outputs: what the model says.
            training: the loss that is minimised; it may differ from the one that is measured, as by label smoothing.
        """
        ...

    def metrics(self, labels: Any, outputs: Any, weights: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Each metric as (weighted total, total weight), which add up over batches and replicas.

        Args:
            labels: as in `loss`.
            outputs: as in `loss`.
            weights: 1.0 for an example that counts, 0.0 for padding, float32, `(batch_size,)`.
        """
        ...

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Metrics that follow from the means of others, such as a perplexity; added wherever metrics are shown."""
        ...

    def serving_outputs(self, outputs: Any, threshold: float | None) -> dict[str, tf.Tensor]:
        """What a served model answers: name → tensor `(batch_size, …)`."""
        ...
