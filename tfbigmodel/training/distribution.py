"""Where training runs: devices, strategies, and who of several workers writes."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.shards.changed import first_line, told
from tfbigmodel.training.cluster import cluster_of_environment
from tfbigmodel.training.config import TrainingConfig
from tfbigmodel.training.health import Peers, WorkerGone

# What TensorFlow tells as it tells memory that is short: event files and data caches that cannot be written.
_DISK_FULL = ("; No space left on device", "; Disk quota exceeded")
# Values that one collective operation adds up; longer arrays go in pieces.
_PIECE = 2**22
# How long the health check may take to say who is gone: a closed connection tells at once.
_NEWS_SECONDS = 10.0
# How much later than the health check TensorFlow finds out: within the grace time, so that a main thread which hangs in
# a collective operation is let go, and ends with its files in order.
_LATER_SECONDS = 4.0
# What TensorFlow raises over another worker's end, from the one that noticed first to those that it tells.
_OF_ANOTHER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


def make_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """Sets up the devices and makes the strategy that `training.strategy` names.

    For `multi_worker` this must be called before anything else uses TensorFlow.

    Raises:
        UserError: TF_CONFIG is missing or malformed, or does not fit the strategy; or TensorFlow has fixed its devices
            already.
    """
    cluster_of_environment(config.strategy)
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
        return _multi_worker(config.workers.silence_seconds)
    return tf.distribute.get_strategy()


@functools.cache
def _multi_worker(silence_seconds: float) -> tf.distribute.MultiWorkerMirroredStrategy:
    # Kept, too: TensorFlow's server, which it starts, stays until the process ends, and so does its port.
    _leave_silence_to_us(silence_seconds)
    return tf.distribute.MultiWorkerMirroredStrategy()


def _leave_silence_to_us(silence_seconds: float) -> None:
    """Makes TensorFlow more patient than the health check, which knows which worker it is and what to do.

    Its own limit of 10 seconds would end a run over a machine that was only busy. There is no public way to set it;
    where this one has gone, TensorFlow's limit holds, and nothing else changes.
    """
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    try:
        from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
        from tensorflow.python.eager import context

        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=f"/job:{'chief' if 'chief' in cluster.jobs else 'worker'}/replica:0/task:0",
            heartbeat_timeout_in_ms=int(1000 * (silence_seconds + _LATER_SECONDS)),
            coordinated_jobs=[CoordinatedJob(name=job, num_tasks=cluster.num_tasks(job)) for job in cluster.jobs],
        )
    except (ImportError, AttributeError, TypeError):
        return


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # Kept for the life of the process: two strategies on the same devices number their collective operations alike, and
    # the second one's are aborted with "Shape mismatch in the collective instance".
    return tf.distribute.MirroredStrategy(devices)


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
def resource_errors_told(multi_worker: bool, peers: Peers) -> Iterator[None]:
    """Turns what TensorFlow raises when memory or disk is short, a file is damaged, or a worker gone, into one line.

    Args:
        multi_worker: whether several processes train together.
        peers: what is known of the other workers.

    Raises:
        UserError: memory ran out, a disk is full, or a file of the data is damaged.
        WorkerGone: another worker ended while this one was waiting for it.
    """
    try:
        with told():
            yield
    except tf.errors.ResourceExhaustedError as error:
        what = first_line(error)
        if what.endswith(_DISK_FULL):
            path, _, why = what.rpartition("; ")
            raise UserError(f"cannot write {path}: {why}; make room and start again") from error
        raise UserError(f"out of memory: {what}; lower data.batch_size (see training.gradient_accumulation) or the "
                        "model's size") from error  # fmt: skip
    except tf.errors.DataLossError as error:
        raise UserError(f"a file of the data was changed or damaged after it was checked: {first_line(error)}; "
                        "restore it, and the same command goes on from the last checkpoint") from error  # fmt: skip
    except tf.errors.OpError as error:
        if not multi_worker:
            raise
        # TensorFlow notices a broken connection at once, and may be ahead of the health check, which knows the name.
        if isinstance(error, _OF_ANOTHER) or "ollective ops is aborted" in str(error):
            # Where that knows of nobody, it may be another connection, and TensorFlow's words are all there is.
            ended = f"another worker of this run has ended: {first_line(error)}"
            raise peers.lost(_NEWS_SECONDS) or WorkerGone(ended) from error
        raise


def agree(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """Waits for all workers and returns the value that each one gave; `[value]` for a single process."""
    if not is_multi_worker(strategy):
        return [value]
    index, count = worker_index(strategy)
    values = np.zeros(count)
    values[index] = value
    return [int(x) for x in summed(strategy, values)]


def worker_index(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """This process's place among the workers, the chief's being 0, and their number; `(0, 1)` for a single process."""
    if not is_multi_worker(strategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    chiefs, workers = len(jobs.get("chief", ())), len(jobs.get("worker", ()))
    index = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return index, max(1, chiefs + workers)


def summed(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """The sum over all workers of an array that each one has; the array itself for a single process.

    All workers call this together, with arrays of one shape and type. An array that is zero on all workers but one
    arrives unchanged at all of them.

    Args:
        strategy: where replicas run.
        values: of any shape; float32 or float64.
    """
    if not is_multi_worker(strategy):
        return values
    flat = values.reshape(-1)
    sums = np.empty_like(flat)
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE]
        # A function is traced for each length, and a few lengths serve all arrays.
        padded = np.zeros(1 << (len(piece) - 1).bit_length(), values.dtype)
        padded[: len(piece)] = piece
        sums[start : start + len(piece)] = _exchange(strategy, len(padded), values.dtype)(padded).numpy()[: len(piece)]
    return sums.reshape(values.shape)


@functools.cache
def _exchange(strategy: tf.distribute.Strategy, length: int, dtype: np.dtype) -> Callable[[np.ndarray], tf.Tensor]:
    local_replicas = strategy.num_replicas_in_sync // worker_index(strategy)[1]

    @tf.function(input_signature=[tf.TensorSpec([length], dtype)])
    def exchange(values: tf.Tensor) -> tf.Tensor:
        def of_this_worker(values: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return tf.where(tf.equal(replica % local_replicas, 0), values, tf.zeros_like(values))

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(of_this_worker, (values,)), axis=None)

    return exchange
