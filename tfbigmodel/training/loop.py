"""The training graph: many steps in one `tf.function`, through `strategy.run`, with no Python between them.

It is our own, and not `keras.Model.fit`, because `fit` fails under MultiWorkerMirroredStrategy (keras issues 20585,
20329), cannot resume inside an epoch, clips gradients before it reduces them and returns to Python after every
execution. What it runs is an ordinary Keras model with an ordinary Keras optimizer.

The order of an update, on every replica: gradients of the replica's share → sum over micro-batches → sum over replicas
→ clip → apply. So two replicas with half a batch each do what one replica does with the whole batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfbigmodel.tasks import Task
from tfbigmodel.training.optimizers import keep_reduced_gradients
from tfbigmodel.training.seeds import separate_random_seeds

# Gradients travel in packs as they become known, while the backward pass goes on; as TensorFlow does it unasked, they
# would wait for the last one (benchmarks/scaling_overlap.py). The size is that of PyTorch's buckets (Li et al.,
# "PyTorch Distributed", 2020).
_PACKS = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=25 * 2**20)


@dataclass(frozen=True)
class StepResults:
    """What each step of one execution came to, over all replicas and micro-batches.

    Attributes:
        loss: the mean loss of the step's examples, with class weights, without L1 and L2 penalties, `(num_steps,)`.
        gradient_norm: the global L2 norm of the reduced gradients before clipping, `(num_steps,)`.
        totals: metric name → weighted total, `(num_steps,)`.
        counts: metric name → total weight, `(num_steps,)`; total / count is the metric.
        votes: what the workers gave to `train_steps`, added up over all replicas.
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    totals: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    votes: tuple[float, ...] = ()


class TrainSteps(Protocol):
    """Trains for some steps; see `make_train_steps`."""

    def __call__(self, iterator: Iterator, num_steps: int, votes: Sequence[float] = ()) -> StepResults:
        """Takes the batches of `num_steps` updates and makes them."""
        ...


@dataclass(frozen=True)
class UpdateRule:
    """How a batch becomes an update.

    Attributes:
        batch_size: examples of a batch over all replicas.
        accumulation: batches whose gradients are averaged for one update.
        clip_norm: largest global L2 norm of the gradients, or None.
        clip_value: largest absolute gradient component, or None.
        class_weights: each class's weight in the loss, or None; an example of several classes has the mean of their
            weights by its shares.
        jit_compile: compile the step with XLA.
    """

    batch_size: int
    accumulation: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    class_weights: Sequence[float] | None = None
    jit_compile: bool = False


class Updates(NamedTuple):
    """The parts of the training graph, each called on every replica.

    Attributes:
        update: `(features, labels[, weights])` → (sums of loss and metrics, the gradients' norm): one update.
        accumulate: the same arguments → sums; the batch's gradients are added to the accumulators.
        apply_accumulated: `()` → the gradients' norm; an update with what was accumulated.
    """

    update: Callable[..., Any]
    accumulate: Callable[..., Any]
    apply_accumulated: Callable[..., Any]


def make_updates(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    task: Task,
    strategy: tf.distribute.Strategy,
    rule: UpdateRule,
) -> Updates:
    """Builds what a replica does with its share of a batch.

    Args:
        model: made under the strategy's scope; takes a dict of features.
        optimizer: made under the strategy's scope; from now on it takes gradients that are summed over replicas.
        task: loss and metrics.
        strategy: where replicas run.
        rule: how a batch becomes an update.
    """
    replicas = strategy.num_replicas_in_sync
    variables = model.trainable_variables
    metric_names = task.metric_names
    with strategy.scope():
        optimizer.build(variables)
        accumulators = [_accumulator(v) for v in variables] if rule.accumulation > 1 else []
    keep_reduced_gradients(optimizer)
    if replicas > 1:
        separate_random_seeds(model)

    def gradients_of(
        features: dict[str, tf.Tensor], labels: Any, weights: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            outputs = model(features, training=True)
            losses = task.loss(labels, outputs, training=True)
            weights = tf.ones_like(losses) if weights is None else weights
            importance = weights
            if rule.class_weights is not None:
                importance = weights * _class_weights(rule.class_weights, labels)
            # Each replica has its share of the global batch, so shares of the mean add up to the mean.
            loss = tf.reduce_sum(losses * importance) / (rule.batch_size * rule.accumulation)
            penalty = tf.add_n(model.losses) / (replicas * rule.accumulation) if model.losses else 0.0
            objective = loss + penalty
        # A weight that the loss does not depend on, such as a pooler's that nothing reads, has a gradient of zero.
        gradients = [
            tf.zeros(variable.shape, variable.dtype) if gradient is None else tf.convert_to_tensor(gradient)
            for gradient, variable in zip(tape.gradient(objective, variables), variables, strict=True)
        ]
        metrics = task.metrics(labels, outputs, weights)
        return tf.stack([loss, *(part for name in metric_names for part in metrics[name])]), gradients

    def apply(gradients: list[tf.Tensor]) -> tf.Tensor:
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients, _PACKS)
        norm = tf.linalg.global_norm(gradients)
        if rule.clip_value is not None:
            gradients = [tf.clip_by_value(g, -rule.clip_value, rule.clip_value) for g in gradients]
        if rule.clip_norm is not None:
            reference = tf.linalg.global_norm(gradients) if rule.clip_value is not None else norm
            gradients, _ = tf.clip_by_global_norm(gradients, rule.clip_norm, use_norm=reference)
        optimizer.apply(gradients, variables)
        return norm

    def update(features: dict[str, tf.Tensor], labels: Any, weights: tf.Tensor | None = None) -> tuple:
        sums, gradients = gradients_of(features, labels, weights)
        return sums, apply(gradients)

    def accumulate(features: dict[str, tf.Tensor], labels: Any, weights: tf.Tensor | None = None) -> tf.Tensor:
        sums, gradients = gradients_of(features, labels, weights)
        for accumulator, gradient in zip(accumulators, gradients, strict=True):
            accumulator.assign_add(gradient)
        return sums

    def apply_accumulated() -> tf.Tensor:
        norm = apply([accumulator.read_value() for accumulator in accumulators])
        for accumulator in accumulators:
            accumulator.assign(tf.zeros_like(accumulator))
        return norm

    def compiled(function: Callable) -> Callable:
        return tf.function(function, jit_compile=True, autograph=False) if rule.jit_compile else function

    return Updates(compiled(update), compiled(accumulate), compiled(apply_accumulated))


def make_train_steps(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    task: Task,
    strategy: tf.distribute.Strategy,
    rule: UpdateRule,
) -> TrainSteps:
    """Builds the function that trains.

    Args:
        model: made under the strategy's scope; takes a dict of features.
        optimizer: made under the strategy's scope; from now on it takes gradients that are summed over replicas.
        task: loss and metrics.
        strategy: where replicas run.
        rule: how a batch becomes an update.

    Returns:
        `train_steps(iterator, num_steps, votes=())`, which takes `num_steps * rule.accumulation` batches `(features,
        labels)` or `(features, labels, weights)` from a (distributed) iterator, and makes `num_steps` updates. `votes`
        are numbers that are added up over all replicas: what workers must know of each other, without another meeting.

    Example:
        >>> train_steps = make_train_steps(model, optimizer, task, strategy, UpdateRule(64))
        >>> results = train_steps(iter(data.train()), 100)
        >>> results.loss.shape
        (100,)
    """
    metric_names = task.metric_names
    update, accumulate, apply_accumulated = make_updates(model, optimizer, task, strategy, rule)

    def total(value: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)

    num_columns = 1 + 2 * len(metric_names)

    @tf.function(reduce_retracing=True)
    def run(iterator: Iterator, num_steps: tf.Tensor, votes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sums = tf.TensorArray(tf.float32, num_steps, element_shape=[num_columns])
        norms = tf.TensorArray(tf.float32, num_steps, element_shape=[])
        for step in tf.range(num_steps):
            if rule.accumulation == 1:
                step_sums, norm = strategy.run(update, args=next(iterator))
                step_sums = total(step_sums)
            else:
                step_sums = tf.zeros([num_columns])
                for _ in tf.range(rule.accumulation):
                    step_sums += total(strategy.run(accumulate, args=next(iterator)))
                norm = strategy.run(apply_accumulated)
            sums = sums.write(step, step_sums)
            # Every replica has the same norm, since it is that of the reduced gradients.
            norms = norms.write(step, strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None))
        if votes.shape[0]:
            votes = total(strategy.run(tf.identity, args=(votes,)))
        return sums.stack(), norms.stack(), votes

    def train_steps(iterator: Iterator, num_steps: int, votes: Sequence[float] = ()) -> StepResults:
        sums, norms, all_votes = run(iterator, tf.constant(num_steps), tf.constant(votes, tf.float32))
        columns = sums.numpy().T
        return StepResults(
            loss=columns[0],
            gradient_norm=norms.numpy(),
            totals=dict(zip(metric_names, columns[1::2], strict=True)),
            counts=dict(zip(metric_names, columns[2::2], strict=True)),
            votes=tuple(all_votes.numpy().tolist()),
        )

    return train_steps


def make_evaluate(
    model: keras.Model, task: Task, strategy: tf.distribute.Strategy
) -> Callable[[Iterator, int], dict[str, float]]:
    """Builds the function that measures loss and metrics.

    Returns:
        `evaluate(iterator, num_batches)`, which takes batches `(features, labels, weights)` and returns `loss` and the
        task's metrics, each the weighted mean over all examples, and what the task derives from them.
    """
    names = ("loss", *task.metric_names)

    def measure(features: dict[str, tf.Tensor], labels: Any, weights: tf.Tensor) -> tf.Tensor:
        outputs = model(features, training=False)
        loss = tf.reduce_sum(task.loss(labels, outputs) * weights)
        metrics = task.metrics(labels, outputs, weights)
        return tf.stack([loss, tf.reduce_sum(weights), *(part for name in task.metric_names for part in metrics[name])])

    @tf.function(reduce_retracing=True)
    def run(iterator: Iterator, num_batches: tf.Tensor) -> tf.Tensor:
        sums = tf.TensorArray(tf.float32, num_batches, element_shape=[2 * len(names)])
        for batch in tf.range(num_batches):
            share = strategy.run(measure, args=next(iterator))
            sums = sums.write(batch, strategy.reduce(tf.distribute.ReduceOp.SUM, share, axis=None))
        return sums.stack()

    def evaluate(iterator: Iterator, num_batches: int) -> dict[str, float]:
        # Added up in double precision: a float32 sum over many batches would lose the last digits.
        totals = run(iterator, tf.constant(num_batches)).numpy().astype(np.float64).sum(axis=0)
        means = {name: float(totals[2 * i] / totals[2 * i + 1]) for i, name in enumerate(names)}
        return means | task.derived(means)

    return evaluate


def _class_weights(class_weights: Sequence[float], labels: tf.Tensor) -> tf.Tensor:
    """The weight of each example: labels are class indices or shares, as `Classification` takes them."""
    of_classes = tf.constant(class_weights, tf.float32)
    return tf.gather(of_classes, labels) if labels.shape.rank == 1 else tf.linalg.matvec(labels, of_classes)


def _accumulator(variable: keras.Variable) -> tf.Variable:
    # Each replica adds up its own gradients; they are reduced once per update, not once per micro-batch.
    return tf.Variable(
        tf.zeros(variable.shape, variable.dtype),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
