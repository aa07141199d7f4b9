"""Two workers of the real training loop on this machine: bytes on the wire per update, and α and B of an all-reduce.

`python benchmarks/scaling.py --measure` starts them. The workers read the counters of their network namespace's
loopback device before and after the updates, so other traffic there would be counted too. Where it may, the
measurement gets a namespace of its own:

    unshare --net --user --map-root-user sh -c 'ip link set lo up && python benchmarks/scaling.py --measure'
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scaling_model import bytes_sent

WORKERS = 2
SIZES = (4, 2**16, 2**18, 2**20, 2**22, 2**24)  # bytes that are all-reduced


def show_measured() -> None:
    """Measures, and prints what was measured beside the formula."""
    found = measure()
    size, updates = found["gradients"], found["updates"]
    expected = WORKERS * bytes_sent(size, WORKERS)
    print(f"{WORKERS} workers on loopback, {size / 1e6:.1f} MB of gradients, {updates} updates of the training loop")
    print(f"bytes per update, both workers: {found['bytes'] / 1e6:.2f} MB; formula {expected / 1e6:.2f} MB; "
          f"{found['bytes'] / expected - 1:+.1%}")  # fmt: skip
    print(f"{'all-reduce of':>14}{'ms':>10}")
    for count, seconds in found["seconds"]:
        print(f"{count:14,}{1e3 * seconds:10.2f}")
    latency, rate = fit(found["seconds"])
    print(f"fitted: α = {1e3 * latency:.2f} ms a message, B = {rate / 1e9:.2f} GB/s (2 cores do the computing as well)")


def measure(units: int = 1024, updates: int = 20) -> dict:
    """Starts the workers, and returns what the first one says.

    Args:
        units: width of the model's two dense layers: about `units²` weights each.
        updates: of the training loop, while bytes are counted.

    Returns:
        `gradients` (bytes), `updates`, `bytes` (on the wire, per update, of both workers), and `seconds`, pairs of
        bytes and the time of an all-reduce.

    Raises:
        RuntimeError: a worker failed.
    """
    return run_workers([str(Path(__file__)), str(units), str(updates)])


def run_workers(command: Sequence[str]) -> dict:
    """Starts two workers, and returns what the first one prints last.

    Raises:
        RuntimeError: a worker failed.
    """
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(WORKERS)]
    processes = []
    for index in range(WORKERS):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(place), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes.append(
            subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, error) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(error[-2000:])
    return json.loads(outputs[0][0].splitlines()[-1])


def fit(seconds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """α and B of `scaling_model.ring_seconds`, by least squares of the relative errors.

    Args:
        seconds: pairs of bytes and time.

    Returns:
        Seconds of a message without content, and bytes per second.
    """
    # seconds = a + b · bytes; each line divided by its seconds, so that small messages count as much as large ones.
    rows = [(1 / t, count / t) for count, t in seconds]
    a11, a12, a22 = (sum(x * y for x, y in pairs) for pairs in (
        [(r[0], r[0]) for r in rows], [(r[0], r[1]) for r in rows], [(r[1], r[1]) for r in rows]
    ))  # fmt: skip
    b1, b2 = sum(r[0] for r in rows), sum(r[1] for r in rows)
    determinant = a11 * a22 - a12 * a12
    constant, slope = (b1 * a22 - b2 * a12) / determinant, (a11 * b2 - a12 * b1) / determinant
    return constant / (2 * (WORKERS - 1)), bytes_sent(1, WORKERS) / slope


def work(units: int, updates: int) -> dict:
    """What each worker does."""
    from tfbigmodel.training.config import TrainingConfig
    from tfbigmodel.training.distribution import make_strategy

    strategy = make_strategy(TrainingConfig(strategy="multi_worker"))  # before anything else uses TensorFlow

    train_steps, iterator, gradients = training(strategy, units, num_layers=2, share=2)
    train_steps(iterator, 2)
    reduce = _reducer(strategy)
    reduce(1, 1)
    before = loopback_bytes()
    train_steps(iterator, updates)
    reduce(1, 1)  # both have sent everything
    per_update = (loopback_bytes() - before) / updates
    seconds = []
    for size in SIZES:
        repeats = 30 if size < 2**22 else 8
        reduce(size // 4, 2)
        started = time.perf_counter()
        reduce(size // 4, repeats)
        seconds.append((size, (time.perf_counter() - started) / repeats))
    return {"gradients": gradients, "updates": updates, "bytes": per_update, "seconds": seconds}


def training(strategy: Any, units: int, num_layers: int, share: int) -> tuple[Callable, Any, int]:
    """The training loop with a model of equal dense layers, on one batch over and over.

    Args:
        strategy: of several workers.
        units: width of the layers and of the examples.
        num_layers: besides the last one.
        share: examples of a worker in a batch.

    Returns:
        `train_steps`, its iterator, and the bytes of the gradients.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    from tfbigmodel.tasks.classification import Classification
    from tfbigmodel.training.loop import UpdateRule, make_train_steps

    with strategy.scope():
        x = inputs = keras.Input((units,), name="x")
        for index in range(num_layers):
            x = keras.layers.Dense(units, activation="relu", name=f"dense_{index}")(x)
        model = keras.Model({"x": inputs}, keras.layers.Dense(10, name="logits")(x))
        optimizer = keras.optimizers.SGD(1e-3)
    rule = UpdateRule(batch_size=share * strategy.num_replicas_in_sync)
    train_steps = make_train_steps(model, optimizer, Classification(tuple("0123456789")), strategy, rule)
    rng = np.random.default_rng(0)
    batch = ({"x": rng.normal(size=(share, units)).astype(np.float32)}, np.zeros(share, np.int32))
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: batches))
    return train_steps, iterator, 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def _reducer(strategy: Any) -> Callable[[int, int], float]:
    """A function that all-reduces a tensor of `count` float32 values `repeats` times, one after the other."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def reduce(count: Any, repeats: Any) -> Any:
        def once(start: Any) -> Any:
            value = tf.fill([count], start)
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)[0]

        last = 1.0
        for _ in tf.range(repeats):
            last = strategy.run(once, args=(last,))
        return last

    return lambda count, repeats: float(reduce(tf.constant(count), tf.constant(repeats)))


def loopback_bytes() -> int:
    """Bytes sent over the loopback device since it came up, headers and acknowledgements included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise RuntimeError("/proc/net/dev names no device lo")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]), int(sys.argv[2]))))
