"""Time, measured on real updates of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from pipelines.data import Data
from tfbigmodel.cost.figures import Timing
from tfbigmodel.cost.machine import PeakMemory
from tfbigmodel.cost.step import Batches
from tfbigmodel.tasks import Task
from tfbigmodel.training.checkpoints import read_variables
from tfbigmodel.training.distribution import agree, is_multi_worker
from tfbigmodel.training.loop import UpdateRule, make_evaluate, make_train_steps

_MEASURED = 2
# Where two updates take less, as many more are measured as this time has room for: alone they would be the time of a
# visit to Python, which training makes once a second.
_ENOUGH_SECONDS = 0.5
_MOST_UPDATES = 500


def measure(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    data: Data,
    task: Task,
    strategy: tf.distribute.Strategy,
    rule: UpdateRule,
    batches: Batches,
) -> tuple[Timing, int]:
    """Trains for an update that traces and compiles, and for two more that are measured; then does the rest once.

    Args:
        model: its weights are changed.
        optimizer: of the phase that is measured.
        data: the splits.
        task: loss and metrics.
        strategy: where replicas run.
        rule: how a batch becomes an update.
        batches: the first ones.

    Returns:
        The times, and the most memory that the measured updates took.
    """
    train_steps = make_train_steps(model, optimizer, task, strategy, rule)

    def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
        if not batches.differ:
            return data.train(input_context=context)
        # The typical one again and again: TensorFlow prepares for each shape once, which a long run does not notice.
        start = max(0, min(batches.step, data.steps_per_epoch - rule.accumulation))
        elements = rule.accumulation * context.num_replicas_in_sync // context.num_input_pipelines
        return data.train(step=start, input_context=context).take(elements)

    iterator = _endless(strategy, share)
    first = _seconds(lambda: train_steps(iterator, 1))
    peak = PeakMemory()
    update = sum(_seconds(lambda: train_steps(iterator, 1)) for _ in range(_MEASURED)) / _MEASURED
    number = _more(strategy, update * _MEASURED)
    if number:
        update = _seconds(lambda: train_steps(iterator, number)) / number
    taken = peak.read()
    copy = _seconds(lambda: (read_variables(model.variables), read_variables(optimizer.variables)))
    timing = Timing(first, update, number or _MEASURED, _validation_batch(model, data, task, strategy), copy)
    return timing, taken


def _validation_batch(model: keras.Model, data: Data, task: Task, strategy: tf.distribute.Strategy) -> float:
    """Seconds for a batch that is measured on, not trained with."""
    split = next(split for split in ("validation", "test", "train") if data.info.counts[split])
    evaluate = make_evaluate(model, task, strategy)
    iterator = _endless(strategy, lambda context: data.evaluation(split, context))  # type: ignore[arg-type]
    evaluate(iterator, 1)
    seconds = _seconds(lambda: evaluate(iterator, 1))
    number = _more(strategy, seconds)
    return _seconds(lambda: evaluate(iterator, number)) / number if number else seconds


def _endless(strategy: tf.distribute.Strategy, make: Callable[[Any], tf.data.Dataset]) -> Iterator:
    return iter(strategy.distribute_datasets_from_function(lambda context: make(context).repeat()))


def _seconds(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _more(strategy: tf.distribute.Strategy, seconds: float) -> int:
    """How many more to measure after some that took so long; the same on all workers, which take part in each."""
    number = 0 if seconds >= _ENOUGH_SECONDS else min(_MOST_UPDATES, int(_ENOUGH_SECONDS / max(seconds, 1e-4)) * 2)
    return max(agree(strategy, number)) if is_multi_worker(strategy) else number
