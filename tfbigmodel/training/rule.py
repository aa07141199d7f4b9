"""From a configuration to the rule by which batches become updates."""

import tensorflow as tf

from pipelines.data import Data, DatasetInfo
from pipelines.errors import UserError
from tfbigmodel.chapters import CHAPTERS
from tfbigmodel.config import RunConfig
from tfbigmodel.training.loop import UpdateRule


def make_rule(config: RunConfig, info: DatasetInfo, strategy: tf.distribute.Strategy) -> UpdateRule:
    """The rule that a configuration describes.

    Args:
        config: a run's configuration.
        info: the data's classes and their counts.
        strategy: XLA is not used under one that distributes.

    Raises:
        UserError: class weights that do not fit the data's classes.
    """
    training = config.training
    jit_compile = training.jit_compile
    if jit_compile == "auto":
        jit_compile = training.strategy == "default" and CHAPTERS[config.model.chapter].prefers_xla(config.model)
    return UpdateRule(
        batch_size=config.data.batch_size,
        accumulation=training.gradient_accumulation,
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        class_weights=_class_weights(config, info),
        jit_compile=jit_compile,
    )


def updates_per_epoch(config: RunConfig, data: Data) -> int:
    """Updates in one epoch.

    Raises:
        UserError: an epoch has fewer batches than one update accumulates.
    """
    accumulation = config.training.gradient_accumulation
    if data.steps_per_epoch < accumulation:
        raise UserError(
            f"training.gradient_accumulation: {accumulation} batches of {data.batch_size} for one update are more "
            f"than the {data.info.counts['train']} training examples; lower it, or data.batch_size"
        )
    return data.steps_per_epoch // accumulation


def _class_weights(config: RunConfig, info: DatasetInfo) -> list[float] | None:
    wanted = config.training.class_weights
    if wanted is None:
        return None
    if info.task != "classification":
        raise UserError("training.class_weights: a regression has no classes; leave it out")
    if wanted == "balanced":
        # The weights' mean over the training examples is 1, so that the learning rate keeps its meaning. A declared
        # class may have no training example.
        total, present = sum(info.class_counts), sum(count > 0 for count in info.class_counts)
        return [total / (present * count) if count else 0.0 for count in info.class_counts]
    for name in wanted:
        if name not in info.class_names:
            known = ", ".join(info.class_names[:10])
            raise UserError(f"training.class_weights: {name!r} is not a class of the data; its classes are {known}")
    return [wanted.get(name, 1.0) for name in info.class_names]
