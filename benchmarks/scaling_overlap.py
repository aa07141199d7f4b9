"""Whether gradients are reduced while the backward pass goes on: two workers over a network that is made slow.

    unshare --net --user --map-root-user sh -c 'ip link set lo up &&
        tc qdisc add dev lo root tbf rate 800mbit burst 256kb latency 400ms &&
        python benchmarks/scaling_overlap.py'

Both workers run the real training loop (eight dense layers of 1,024 units, 33.6 MB of gradients) in turns: with all
gradients as one pack, which is TensorFlow's way unless it is told otherwise, and in packs of 4 MB (the loop's own have
25 MB), which `all_reduce` takes as `CommunicationOptions(bytes_per_pack=…)`. On a slow network the processors are idle
while gradients travel, as with GPUs, so overlap shows even on two cores. Measured so, with other work on the machine:
1.05 s an update in one pack, 0.82 s in several (medians of six rounds; 0.97 … 1.15 and 0.80 … 0.84). 67 MB at 0.1 GB/s
take 0.67 s.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from scaling_measured import run_workers, training

PACKS = {"one pack": 0, "packs of 4 MB": 4_000_000}
ROUNDS, UPDATES = 6, 3


def main() -> None:
    """Starts the workers, and prints seconds per update."""
    if sys.argv[1:] == ["worker"]:
        print(json.dumps(work()))
        return
    for name, seconds in run_workers([str(Path(__file__)), "worker"]).items():
        print(f"{name:16}{statistics.median(seconds):7.3f} s an update ({min(seconds):.3f} … {max(seconds):.3f})")


def work() -> dict[str, list[float]]:
    """What each worker does: seconds per update of each round."""
    from tfbigmodel.training.config import TrainingConfig
    from tfbigmodel.training.distribution import make_strategy

    strategy = make_strategy(TrainingConfig(strategy="multi_worker"))  # before anything else uses TensorFlow
    import tensorflow as tf

    runs = {}
    plain = tf.distribute.ReplicaContext.all_reduce
    for name, size in PACKS.items():
        options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=size)

        def with_packs(self: Any, operation: Any, value: Any, _: Any = None, options: Any = options) -> Any:
            return plain(self, operation, value, options)

        tf.distribute.ReplicaContext.all_reduce = with_packs
        train_steps, iterator, _ = training(strategy, units=1024, num_layers=8, share=256)
        train_steps(iterator, 1)  # traced here, with these options
        runs[name] = (train_steps, iterator)
    seconds: dict[str, list[float]] = {name: [] for name in PACKS}
    for _ in range(ROUNDS):
        for name, (train_steps, iterator) in runs.items():
            started = time.perf_counter()
            train_steps(iterator, UPDATES)
            seconds[name].append((time.perf_counter() - started) / UPDATES)
    return seconds


if __name__ == "__main__":
    main()
