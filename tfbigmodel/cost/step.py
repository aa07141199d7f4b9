"""The training step's graph for a batch of the run's own, and what it comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipelines.data import Data
from tfbigmodel.cost.figures import Memory, Operations
from tfbigmodel.cost.flops import Flops, count_flops
from tfbigmodel.cost.graph import Frame
from tfbigmodel.cost.memory import StepMemory, step_memory
from tfbigmodel.tasks import Task
from tfbigmodel.training.loop import UpdateRule, make_updates

# Where batches are padded to their longest text: so many are looked at for one of the usual size.
_LOOKED_AT = 20


@dataclasses.dataclass(frozen=True)
class Batches:
    """The first training batches of a replica.

    Attributes:
        typical: the one whose size is nearest to the mean.
        step: which step of the epoch it is of.
        differ: whether batches have different shapes, those of texts for instance.
        largest: the size of the largest one as a multiple of the typical one's.
    """

    typical: tuple[Any, ...]
    step: int
    differ: bool
    largest: float


def first_batches(data: Data, replicas: int) -> Batches:
    """Reads the training batches that figures are made for: one, or some where their shapes differ.

    Args:
        data: the splits.
        replicas: that a batch is divided among.
    """
    batches = data.train(input_context=tf.distribute.InputContext(num_replicas_in_sync=replicas))
    same = all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(batches.element_spec))
    found = list(batches.take(1 if same else _LOOKED_AT))
    sizes = [sum(int(tf.size(part)) for part in tf.nest.flatten(batch)) for batch in found]
    mean = sum(sizes) / len(sizes)
    typical = min(range(len(sizes)), key=lambda index: abs(sizes[index] - mean))
    return Batches(found[typical], typical // replicas, not same, max(sizes) / max(1, sizes[typical]))


def step_costs(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    task: Task,
    strategy: tf.distribute.Strategy,
    rule: UpdateRule,
    batch: Sequence[Any],
    workers: int,
) -> tuple[Operations, Memory]:
    """Traces an update as training does, without running it.

    What XLA would make of the graph is not looked at: it keeps less in memory, and computes the same.

    Args:
        model: made under the strategy's scope.
        optimizer: of the phase that is looked at.
        task: loss and metrics.
        strategy: where replicas run.
        rule: how a batch becomes an update.
        batch: a replica's share of one: `(features, labels)`.
        workers: processes that train together.
    """
    updates = make_updates(model, optimizer, task, strategy, dataclasses.replace(rule, jit_compile=False))
    if rule.accumulation == 1:
        forward, whole, memory = _traced(strategy, updates.update, batch)
    else:
        forward, whole, memory = _traced(strategy, updates.accumulate, batch)
        for flops in (forward, whole):
            flops.add(flops, rule.accumulation - 1)
        _, applied, applying = _traced(strategy, updates.apply_accumulated, ())
        whole.add(applied)
        memory.peak = max(memory.peak, applying.peak)
    replicas = strategy.num_replicas_in_sync // workers  # of this process, whose graph it is
    gradients = bytes_of(model.trainable_variables)
    kept = memory.kept // replicas
    operations = Operations(
        forward=forward.total * workers,
        training=whole.total * workers,
        products=whole.products * workers,
        not_counted=tuple(dict.fromkeys(whole.unknown + memory.unknown)),
    )
    return operations, Memory(
        weights=bytes_of(model.variables),
        optimizer=bytes_of(optimizer.variables) + (gradients if rule.accumulation > 1 else 0),
        gradients=gradients,
        activations=kept,
        # TensorFlow runs what is ready on several threads: gradients may pile up before anything that was kept for
        # them is let go. So the sum counts, where it is more than what is alive in the order of one thread.
        temporary=max(0, memory.peak // replicas - kept - gradients),
        batch=sum(_num_bytes(part) for part in tf.nest.flatten(batch)),
    )


def _traced(
    strategy: tf.distribute.Strategy, function: Callable[..., Any], batch: Sequence[Any]
) -> tuple[Flops, Flops, StepMemory]:
    """Operations forward and in all, and the memory, of what all replicas of this process do."""

    def step(*parts: Any) -> Any:
        return strategy.experimental_local_results(strategy.run(function, args=parts))

    specs = tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), tuple(batch))
    concrete = tf.function(step, autograph=False).get_concrete_function(*specs)
    frame = Frame(concrete.graph)
    # Sums of the loss and metrics come first in each replica's results; what they depend on is the forward pass.
    results = tf.nest.flatten(concrete.structured_outputs)
    results = [result for result in results if result.shape.rank == 1] if batch else []
    forward = frame.needed_by([result.op for result in results], order=False)
    return count_flops(frame, forward), count_flops(frame), step_memory(frame, forward)


def bytes_of(variables: Sequence[keras.Variable]) -> int:
    """What variables take, by their shapes and types."""
    return sum(_num_bytes(variable) for variable in variables)


def _num_bytes(value: Any) -> int:
    return int(tf.TensorShape(value.shape).num_elements() or 0) * tf.as_dtype(value.dtype).size
