"""Phases of training: which part of the model is trained in which epochs, each with an optimizer of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel.chapters import hook
from tfbigmodel.config import RunConfig
from tfbigmodel.training.config import PhaseConfig, TrainingConfig
from tfbigmodel.training.optimizers import make_optimizer


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs.

    Attributes:
        index: its number, from 0.
        first_epoch: the epoch that it begins with.
        end_epoch: the epoch that the next one begins with, or the run's number of epochs.
        config: what is trained; None where the configuration has no phases.
        is_last: whether the run ends with it.
    """

    index: int
    first_epoch: int
    end_epoch: int
    config: PhaseConfig | None
    is_last: bool


def phases_of(training: TrainingConfig) -> list[Phase]:
    """The phases of a run: one for all of it where none are configured.

    Example:
        >>> training = TrainingConfig(epochs=10, phases=[{"from_epoch": 0, "train": "head"},
        ...                                              {"from_epoch": 3, "train": 2, "learning_rate": 1e-4}])
        >>> [(phase.first_epoch, phase.end_epoch) for phase in phases_of(training)]
        [(0, 3), (3, 10)]
    """
    if not training.phases:
        return [Phase(0, 0, training.epochs, None, True)]
    # A run may be too short for its last phases, when it is tried out for an epoch for instance.
    reached = [phase for phase in training.phases if phase.from_epoch < training.epochs]
    ends = [phase.from_epoch for phase in reached[1:]] + [training.epochs]
    last = len(ends) - 1
    return [
        Phase(index, config.from_epoch, end, config, index == last)
        for index, (config, end) in enumerate(zip(reached, ends, strict=True))
    ]


def phases_from(training: TrainingConfig, epoch: int) -> Iterator[Phase]:
    """The phase that an epoch is in, and those after it; after the run's end its last one."""
    phases = phases_of(training)
    for phase in phases:
        if phase.is_last or epoch < phase.end_epoch:
            yield phase


def begin_phase(
    phase: Phase, model: keras.Model, config: RunConfig, strategy: tf.distribute.Strategy, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Freezes what a phase does not train, and makes the optimizer of what it does.

    Args:
        phase: the phase that begins, or that is gone on with.
        model: made under the strategy's scope; its layers' `trainable` is set.
        config: the run's configuration.
        strategy: where replicas run.
        steps_per_epoch: updates in an epoch.

    Raises:
        UserError: the chapter has no parts, or the optimizer refuses its arguments.
    """
    training, optimizer = config.training, config.training.optimizer
    if phase.config is not None:
        set_trainable = hook(config.model.chapter, "set_trainable")
        if set_trainable is None:
            raise UserError(f"training.phases: {config.model.chapter} has no head and stages to train apart; remove it")
        set_trainable(model, phase.config.train)
        if phase.config.learning_rate is not None:
            optimizer = optimizer.model_copy(update={"learning_rate": phase.config.learning_rate})
    find_scales = hook(config.model.chapter, "learning_rate_scales")
    try:
        with strategy.scope():
            return make_optimizer(
                optimizer,
                training.schedule,
                model.trainable_variables,
                steps_per_epoch=steps_per_epoch,
                total_steps=steps_per_epoch * (phase.end_epoch - phase.first_epoch),
                scales=find_scales(model, config.model) if find_scales else None,
            )
    except UserError as error:
        if phase.config is None:
            raise
        raise UserError(f"training.phases, from epoch {phase.first_epoch} to {phase.end_epoch}: {error}") from error
