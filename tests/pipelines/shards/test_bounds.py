"""What reading files of examples costs: memory that does not grow with them, and no bytes but those that are needed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from pipelines.shards.data import StreamedData
from pipelines.shards.records import write_shards

NUM, PAYLOAD, WINDOW = 16_384, 4_000, 1_024

_READ = """
import json, sys
import pipelines
from pipelines.config import ShardsConfig

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

config = json.loads(sys.argv[1])
data = pipelines.load(ShardsConfig.model_validate(config))
sizes = []
for batch in data.train(epochs=2):
    sizes.append(resident())
early = max(sizes[: len(sizes) // 8])
print(json.dumps([early, max(sizes), len(sizes)]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB of records."""
    folder = tmp_path_factory.mktemp("large") / "files"
    rows = ({"x": float(i), "payload": os.urandom(PAYLOAD), "label": i % 2} for i in range(NUM))
    write_shards({"train": rows}, {"x": "float", "payload": "bytes", "label": "int"}, folder, "tfrecord", 4)
    return folder


@pytest.fixture(scope="module")
def options(large: Path, cache: Path) -> dict:
    split = {"validation": 0.0, "test": 0.0}
    options = {"numeric": ["x"], "shuffle_window": WINDOW, "batch_size": 128, "split": split, "label": "label"}
    return {"source": "shards", "path": f"{large}/*", "cache_dir": str(cache), **options}


def test_memory_does_not_grow_with_the_files(options: dict, large: Path) -> None:
    command = [sys.executable, "-c", _READ, json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    early, most, batches = json.loads(result.stdout.splitlines()[-1])
    assert batches == 2 * NUM // 128
    total = sum(path.stat().st_size for path in large.iterdir())
    # The first eighth of the batches has filled all windows; twice the whole files pass through afterwards.
    assert most - early < 6 * WINDOW * PAYLOAD < total / 2


def read_bytes(make: Callable[[], object]) -> int:
    """Bytes that this process has asked the system for meanwhile."""

    def counted() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = counted()
    make()
    return counted() - before


def test_starting_late_reads_a_window_and_a_worker_its_share(options: dict, large: Path, load: Callable) -> None:
    data: StreamedData = load(options["path"], **{name: options[name] for name in options if name != "path"})
    total = sum(path.stat().st_size for path in large.iterdir())
    late = read_bytes(lambda: next(iter(data.train(0, data.steps_per_epoch * 3 // 4))))
    # The first window and what is read ahead of the first batch, with whole blocks at both ends of each stream's part.
    assert late < total / 2
    last = read_bytes(lambda: list(data.train(0, data.steps_per_epoch - 1)))
    assert last < total / 4
    whole = read_bytes(lambda: list(data.train(0)))
    shares = [
        read_bytes(lambda worker=worker: list(data.train(0, 0, tf.distribute.InputContext(2, worker, 2))))  # type: ignore[misc]
        for worker in range(2)
    ]
    assert max(shares) < 0.6 * whole
