"""What all kinds of `Data` share: a seeded order, workers' and replicas' shares of a batch, and datasets of them."""

import dataclasses
from typing import Any

import tensorflow as tf

from pipelines.config import ServiceConfig
from pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shares:
    """How a global batch is divided: `rows` for each replica, in the order of the replicas.

    Attributes:
        rows: of a batch, for each replica.
        first_replica: the worker's first one.
        local_replicas: how many the worker has.
        filled_up: whether every batch must have one size, so that it can be divided.
    """

    rows: int
    first_replica: int
    local_replicas: int
    filled_up: bool

    @classmethod
    def of(cls, batch_size: int, context: tf.distribute.InputContext | None) -> "Shares":
        """The shares of the worker that `context` is about; without one, the whole batch.

        Raises:
            UserError: the batch cannot be divided equally among the replicas.
        """
        if context is None:
            return cls(batch_size, 0, 1, False)
        replicas, workers = context.num_replicas_in_sync, context.num_input_pipelines
        if batch_size % replicas:
            raise UserError(
                f"data.batch_size {batch_size} cannot be divided equally among {replicas} replicas; "
                f"choose a multiple of {replicas}, such as {-(-batch_size // replicas) * replicas}"
            )
        if replicas % workers:
            raise UserError(f"{replicas} replicas cannot be divided equally among {workers} workers")
        local = replicas // workers
        return cls(batch_size // replicas, context.input_pipeline_id * local, local, True)

    def elements(self, first_step: int, last_step: int) -> tf.data.Dataset:
        """One number for each (step, local replica), in this order."""
        return tf.data.Dataset.range(first_step * self.local_replicas, last_step * self.local_replicas)


def shuffled(index: tf.Tensor, seed: tf.Tensor, epoch: tf.Tensor, num_examples: int | tf.Tensor) -> tf.Tensor:
    """Where a seeded permutation of all examples sends `index`, `(rows,)`, without making the permutation."""
    # The operation takes each word of its key modulo 256: `index_shuffle` with (seed, epoch) as its key has 256 orders
    # for all epochs, and neighbouring ones resemble each other. So the key is drawn from them at random instead.
    key = tf.random.stateless_uniform([3], tf.stack([seed, epoch]), minval=None, maxval=None, dtype=tf.uint32)
    last = tf.cast(num_examples - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=key, max_index=last, rounds=4)


def finished(elements: tf.data.Dataset, make: Any) -> tf.data.Dataset:
    """The batches that `make` makes of numbers, in their order, prefetched, and not sharded once more."""
    batch = elements.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    # Each worker's share is made above; sharding it once more would lose examples.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    return batch.prefetch(tf.data.AUTOTUNE).with_options(options)


def training_batches(
    shares: Shares, first_step: int, last_step: int, make: Any, service: ServiceConfig | None
) -> tf.data.Dataset:
    """The batches that `make` makes of a range of elements; by the workers of a tf.data service where there is one."""
    if service is None:
        return finished(shares.elements(first_step, last_step), make)
    from pipelines.data_service.client import distributed

    return distributed(first_step * shares.local_replicas, last_step * shares.local_replicas, make, service)


def traced(build: Any) -> Any:
    """Keeps one traced function for each number of rows, so that the next epoch's dataset is made without tracing."""
    functions: dict[int, Any] = {}

    def of(rows: int) -> Any:
        if rows not in functions:
            function = tf.function(build(rows), autograph=False)
            functions[rows] = function.get_concrete_function(tf.TensorSpec([], tf.int64), tf.TensorSpec([3], tf.int64))
        return functions[rows]

    return of
