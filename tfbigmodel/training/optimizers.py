"""Optimizers and learning-rate schedules, as Keras objects."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel.training.config import OptimizerConfig, ScheduleConfig

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "momentum": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "adagrad": keras.optimizers.Adagrad,
    "adadelta": keras.optimizers.Adadelta,
    "adamax": keras.optimizers.Adamax,
    "nadam": keras.optimizers.Nadam,
    "lion": keras.optimizers.Lion,
    "lamb": keras.optimizers.Lamb,
    "adafactor": keras.optimizers.Adafactor,
    "ftrl": keras.optimizers.Ftrl,
}

# The loop reduces, clips and accumulates gradients itself, in that order; Keras would clip before it reduces.
_DONE_BY_THE_LOOP = {"clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps", "loss_scale_factor"}
# What a weight is called that has no decay, besides those of one dimension: a bias of an attention layer has two.
_NOT_DECAYED = ("bias", "gamma", "beta")
# Averaged weights would have to be swapped in for validation and checkpoints, which nothing does.
_NOT_SUPPORTED = {"use_ema", "ema_momentum", "ema_overwrite_frequency"}


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from 0 to the peak, then constant, linear, cosine or exponential decay.

    Args:
        peak: the highest learning rate.
        warmup_steps: updates of the rise: update number `s`, from 0, has `peak * (s + 1) / warmup_steps`.
        decay: `constant`, `linear`, `cosine` or `exponential`.
        total_steps: updates of the whole run; linear and cosine decay end there.
        final_share: the last learning rate as a share of the peak (linear, cosine).
        decay_rate: factor per `steps_per_epoch` updates (exponential).
        steps_per_epoch: updates in an epoch.

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017 (cosine);
        Devlin et al., "BERT", 2019, appendix A.2 (warm-up, then linear decay).
    """

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        decay: str,
        total_steps: int,
        final_share: float = 0.0,
        decay_rate: float = 1.0,
        steps_per_epoch: int = 1,
    ) -> None:
        super().__init__()
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.total_steps = total_steps
        self.final_share = final_share
        self.decay_rate = decay_rate
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of update number `step`, from 0."""
        step = tf.cast(step, tf.float32)
        warmup = float(self.warmup_steps)
        after = tf.maximum(step - warmup, 0.0)
        progress = tf.minimum(after / max(self.total_steps - 1 - warmup, 1.0), 1.0)
        if self.decay == "linear":
            share = 1.0 - (1.0 - self.final_share) * progress
        elif self.decay == "cosine":
            share = self.final_share + (1.0 - self.final_share) * 0.5 * (1.0 + tf.cos(math.pi * progress))
        elif self.decay == "exponential":
            share = tf.pow(self.decay_rate, after / float(self.steps_per_epoch))
        else:
            share = tf.ones_like(step)
        rise = (step + 1.0) / max(warmup, 1.0)
        return self.peak * tf.where(step < warmup, rise, share)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
            "total_steps": self.total_steps,
            "final_share": self.final_share,
            "decay_rate": self.decay_rate,
            "steps_per_epoch": self.steps_per_epoch,
        }


def make_optimizer(
    config: OptimizerConfig,
    schedule: ScheduleConfig,
    variables: Sequence[keras.Variable],
    *,
    steps_per_epoch: int,
    total_steps: int,
    scales: Mapping[str, float] | None = None,
) -> keras.optimizers.Optimizer:
    """Makes the Keras optimizer that a configuration describes, with its variables.

    Biases, normalisations' weights and all others of one dimension have no weight decay.

    Args:
        config: algorithm and arguments.
        schedule: how the learning rate changes.
        variables: the weights that it is to train; under a strategy, call this in its scope.
        steps_per_epoch: updates in an epoch.
        total_steps: updates in the whole run.
        scales: weight path → share of the learning rate, in the update and in the weight decay; 1 for all others.

    Returns:
        An optimizer whose `learning_rate` is a variable for a constant rate (callbacks may set it), a schedule
        otherwise; a weight's share of it is not in it.

    Raises:
        UserError: `options` has an argument that the optimizer does not take, or a value it refuses.

    Example:
        >>> optimizer = make_optimizer(
        ...     OptimizerConfig(name="adamw"), ScheduleConfig(), model.trainable_variables,
        ...     steps_per_epoch=100, total_steps=300, scales={"token_embedding/embeddings": 0.1},
        ... )
    """
    cls = OPTIMIZERS[config.name]
    accepted = set(inspect.signature(cls.__init__).parameters) - _DONE_BY_THE_LOOP - _NOT_SUPPORTED
    accepted -= {"self", "kwargs", "name", "learning_rate"}
    for name in config.options:
        if name in _DONE_BY_THE_LOOP:
            raise UserError(
                f"training.optimizer.options.{name}: gradients are clipped and accumulated by training.clip_norm, "
                "training.clip_value and training.gradient_accumulation"
            )
        if name not in accepted:
            raise UserError(f"training.optimizer.options.{name}: {config.name} takes {', '.join(sorted(accepted))}")
    # Keras would number optimizers through the life of a process (`adam_1`), and with them the names in a checkpoint.
    arguments: dict[str, Any] = {**config.options, "name": config.name}
    if config.name == "momentum":
        arguments["momentum"] = 0.9
    if config.momentum is not None:
        if "momentum" not in accepted:
            raise UserError(f"training.optimizer.momentum: {config.name} has no momentum; use sgd, momentum or rmsprop")
        arguments["momentum"] = config.momentum
    if config.weight_decay is not None:
        arguments["weight_decay"] = config.weight_decay
    arguments["learning_rate"] = _learning_rate(config.learning_rate, schedule, steps_per_epoch, total_steps)
    try:
        optimizer = cls(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"training.optimizer: {config.name} refuses its arguments: {error}") from error
    optimizer.exclude_from_weight_decay(var_list=[variable for variable in variables if not _is_decayed(variable)])
    optimizer.build(list(variables))
    if scales:
        # Keras' own keys, which are the same for a variable and for a replica's part of it.
        _scale_learning_rates(optimizer, {optimizer._var_key(v): scales.get(v.path, 1.0) for v in variables})
    return optimizer


def _is_decayed(variable: keras.Variable) -> bool:
    return len(variable.shape) > 1 and variable.path.rpartition("/")[2] not in _NOT_DECAYED


def _scale_learning_rates(optimizer: keras.optimizers.Optimizer, shares: Mapping[str, float]) -> None:
    """Gives weights shares of an optimizer's learning rate, which Keras has one of for all weights.

    A share counts in the weight decay as well, which is per unit of the learning rate. Gradients are left alone: Adam
    would take a factor in them out again.
    """
    update_step, strategy = optimizer.update_step, optimizer._distribution_strategy

    def scaled_update(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        update_step(gradient, variable, learning_rate * shares[optimizer._var_key(variable)])

    def scaled_decay(variables: Sequence[keras.Variable]) -> None:
        if optimizer.weight_decay is None:
            return

        def decay(variable: tf.Variable) -> None:
            if optimizer._use_weight_decay(variable):
                share = optimizer.weight_decay * shares[optimizer._var_key(variable)]
                variable.assign_sub(variable * tf.cast(share * optimizer.learning_rate, variable.dtype))

        def decay_all(distribution: tf.distribute.Strategy) -> None:
            for variable in variables:
                distribution.extended.update(variable.value, decay, group=False)

        # As Keras does it: across replicas where the strategy needs that.
        tf.__internal__.distribute.interim.maybe_merge_call(decay_all, strategy)

    optimizer.update_step = scaled_update
    optimizer._apply_weight_decay = scaled_decay


def _learning_rate(
    peak: float, schedule: ScheduleConfig, steps_per_epoch: int, total_steps: int
) -> float | WarmupSchedule:
    warmup_steps = max(schedule.warmup_steps, round(schedule.warmup_share * total_steps))
    if schedule.name == "constant" and not warmup_steps:
        return peak
    if warmup_steps >= total_steps:
        raise UserError(
            f"training.schedule: {warmup_steps} warm-up steps leave nothing of the run's {total_steps} updates; "
            "lower warmup_steps, use warmup_share, or train for more epochs"
        )
    return WarmupSchedule(
        peak=peak,
        warmup_steps=warmup_steps,
        decay=schedule.name,
        total_steps=total_steps,
        final_share=schedule.final_share,
        decay_rate=schedule.decay_rate,
        steps_per_epoch=steps_per_epoch,
    )


def keep_reduced_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Tells an optimizer that the gradients it gets have been summed over all replicas.

    Keras' TensorFlow optimizers sum gradients over replicas inside `apply`, after they clipped them. The loop sums
    first, since clipping by the norm of one replica's share is another thing, and a second sum would multiply.
    """
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
