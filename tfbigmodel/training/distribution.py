"""Where training runs: devices, strategies, and who of several workers writes."""

import functools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel.training.config import TrainingConfig


def make_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """Sets up the devices and makes the strategy that `training.strategy` names.

    For `multi_worker` this must be called before anything else uses TensorFlow.

    Raises:
        UserError: TF_CONFIG is missing or malformed, or TensorFlow has fixed its devices already.
    """
    try:
        if config.virtual_cpus:
            cpu = tf.config.list_physical_devices("CPU")[0]
            if len(tf.config.get_logical_device_configuration(cpu) or ()) != config.virtual_cpus:
                devices = [tf.config.LogicalDeviceConfiguration()] * config.virtual_cpus
                tf.config.set_logical_device_configuration(cpu, devices)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"devices cannot be set up any more in this process ({error}); start a new one") from error
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    if config.strategy == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return _mirrored(tuple(device.name for device in devices))
    if config.strategy == "multi_worker":
        check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # Kept for the life of the process: two strategies on the same devices number their collective operations alike, and
    # the second one's are aborted with "Shape mismatch in the collective instance".
    return tf.distribute.MirroredStrategy(devices)


def check_tf_config() -> None:
    """Checks that the environment variable TF_CONFIG names this process's place among the workers.

    Raises:
        UserError: it is missing or not of the form that TensorFlow expects.
    """
    example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(f"training.strategy: multi_worker needs the environment variable TF_CONFIG, such as {example}")
    try:
        value = json.loads(text)
        kind, index = value["task"]["type"], int(value["task"]["index"])
        processes = value["cluster"][kind]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"TF_CONFIG is not of the form {example}; received {text}") from error
    if not 0 <= index < len(processes):
        raise UserError(f"TF_CONFIG: task index {index} is not below the cluster's number of {kind}s, {len(processes)}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, or worker 0 of several."""
    if not is_multi_worker(strategy):
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@contextmanager
def resource_errors_told(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns what TensorFlow raises when memory is short, or another worker has gone, into one line.

    Raises:
        UserError: memory ran out, or another worker ended while this one was waiting for it.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        what = re.sub(r"\{\{.*?\}\} ?", "", str(error).partition("[[{{")[0].partition("\n")[0]).strip()
        raise UserError(f"out of memory: {what}; lower data.batch_size (see training.gradient_accumulation) or the "
                        "model's size") from error  # fmt: skip
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if not is_multi_worker(strategy):
            raise
        raise UserError(
            "another worker of this run has ended, its own output says why; start all workers again to go on from the "
            "last checkpoint"
        ) from error


def agree(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """Waits for all workers and returns the value that each replica's worker gave; `[value]` for a single process."""
    if not is_multi_worker(strategy):
        return [value]

    @tf.function
    def exchange() -> tf.Tensor:
        def mine_in_its_place() -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return tf.one_hot(replica, strategy.num_replicas_in_sync, tf.cast(value, tf.float64), dtype=tf.float64)

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(mine_in_its_place), axis=None)

    return [int(x) for x in exchange().numpy()]
