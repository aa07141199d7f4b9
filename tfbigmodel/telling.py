"""What `train` tells of a run: what it is about to do, what it left out, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pipelines.data import Data, ImageInfo
    from tfbigmodel.config import RunConfig
    from tfbigmodel.training.loop import UpdateRule
    from tfbigmodel.training.state import TrainState

# As far as a task has them.
_METRICS = (
    *("loss", "accuracy", "f1_macro", "roc_auc", "mae", "rmse", "r2"),
    *("perplexity", "character_perplexity", "mlm_accuracy", "nsp_accuracy"),
)


def headline(
    config: RunConfig, data: Data, model: keras.Model, strategy: tf.distribute.Strategy, rule: UpdateRule
) -> str:
    """What is about to be trained, on what, and how."""
    counts = ", ".join(f"{count:,} {split}" for split, count in data.info.counts.items())
    replicas = strategy.num_replicas_in_sync
    return (
        f"{config.model.chapter}: {model.count_params():,} parameters; examples: {counts}; "
        f"batch {rule.batch_size * rule.accumulation}, {config.training.precision}, "
        f"{'XLA' if rule.jit_compile else 'no XLA'}, {replicas} replica{'s' if replicas > 1 else ''}"
    )


def cleaned(counts: Mapping[str, int]) -> str:
    """What cleaning did, also where it found nothing to do."""
    left_out = ("empty", "duplicates", "kept_out", "too_short")
    said = [f"{count:,} {'left out' if step in left_out else 'changed'} ({step})" for step, count in counts.items()]
    return f"texts cleaned: {', '.join(said)}"


def skipped(images: ImageInfo) -> str:
    """What `data.broken: skip` left out."""
    more = f"; and {images.num_skipped - 3:,} more (info.json)" if images.num_skipped > 3 else ""
    return f"images left out: {images.num_skipped:,}: {'; '.join(images.skipped[:3])}{more}"


def results(metrics: dict[str, Any], state: TrainState) -> str:
    """The metrics of each split."""
    names = [name for name in _METRICS if name in metrics["train"]]
    widths = {name: max(12, len(name) + 2) for name in names}
    lines = [
        f"finished after {state.epoch} epochs, {state.updates} updates",
        f"{'':12}" + "".join(f"{name:>{widths[name]}}" for name in names),
    ]
    for split, values in metrics.items():
        cells = (f"{'-' if values[n] is None else f'{values[n]:.4f}':>{widths[n]}}" for n in names)
        lines.append(f"{split:12}" + "".join(cells))
    return "\n".join(lines)
