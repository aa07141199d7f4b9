"""What to think about before a run is started: told early, while it costs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from tfbigmodel.config import RunConfig
from tfbigmodel.cost.figures import Cost
from tfbigmodel.cost.units import bytes_text, duration

_DAY = 24 * 60 * 60
_CHECKPOINT_SHARE = 0.05
# Less than this of the time is training: validate less. Of a short run nobody cares.
_TRAINING_SHARE = 0.5
_SHORT_SECONDS = 600


def warnings_of(cost: Cost, config: RunConfig) -> Iterator[str]:
    """The remarks that a run's figures give rise to, each with a remedy.

    Args:
        cost: the figures.
        config: the run's configuration.
    """
    if not cost.fits:
        yield (
            f"{bytes_text(cost.memory_needed)} of memory are needed, and there are {bytes_text(cost.device_memory)}"
            f"{' on a GPU' if cost.device == 'GPU' else ''}: no update was measured; {_memory_remedy(cost)}"
        )
    if cost.seconds is not None and cost.seconds > _DAY:
        remedy = "" if config.checkpoints.every_steps else "; set checkpoints.every_steps, so that a stop costs little"
        yield f"the run takes {duration(cost.seconds)}{remedy}"
    left_over = cost.examples["train"] - cost.updates_per_epoch * cost.accumulation * cost.batch_size
    if left_over > cost.examples["train"] / 10:
        yield (
            f"{left_over:,} of {cost.examples['train']:,} training examples make no whole update and are left out of "
            "each epoch; lower data.batch_size or training.gradient_accumulation"
        )
    for phase in cost.phases:
        if phase.timing is None or not phase.epoch_seconds:
            continue
        if config.checkpoints.every_steps and phase.checkpoint_share and phase.checkpoint_share > _CHECKPOINT_SHARE:
            yield (
                f"checkpoints take {phase.checkpoint_share:.0%} of the time; raise checkpoints.every_steps "
                f"({config.checkpoints.every_steps})"
            )
        training = cost.updates_per_epoch * phase.timing.update
        long = cost.seconds is not None and cost.seconds > _SHORT_SECONDS
        if long and training < _TRAINING_SHARE * phase.epoch_seconds:
            yield (
                f"only {training / phase.epoch_seconds:.0%} of an epoch is training, the rest validation and saving; "
                "lower data.split.validation or raise training.validate_every_steps"
            )
        break
    for what in dict.fromkeys(what for phase in cost.phases for what in phase.operations.not_counted):
        yield f"not counted: {what}"


def _memory_remedy(cost: Cost) -> str:
    half = cost.batch_size // 2
    remedies = []
    if half >= cost.replicas:
        accumulated = f"training.gradient_accumulation: {2 * cost.accumulation}"
        remedies.append(f"set data.batch_size: {half} and {accumulated}, which trains alike")
    if cost.precision == "float32":
        remedies.append("training.precision: mixed_bfloat16 halves the activations")
    remedies.append("or make the model smaller")
    return "; ".join(remedies)
