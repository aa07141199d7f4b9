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

PAYLOAD = 4_000

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


def written(folder: Path, num: int) -> int:
    """Writes so many records of 4 kB each; returns the bytes of all files."""
    rows = ({"x": float(i), "payload": os.urandom(PAYLOAD), "label": i % 2} for i in range(num))
    write_shards({"train": rows}, {"x": "float", "payload": "bytes", "label": "int"}, folder, "tfrecord", 4)
    return sum(path.stat().st_size for path in folder.iterdir())


OPTIONS = {"numeric": ["x"], "batch_size": 128, "split": {"validation": 0.0, "test": 0.0}, "label": "label"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    num, window = 16_384, 1_024
    total = written(tmp_path / "files", num)
    options = {"source": "shards", "path": f"{tmp_path}/files/*", "cache_dir": f"{tmp_path}/cache", **OPTIONS}
    command = [sys.executable, "-c", _READ, json.dumps({**options, "shuffle_window": window})]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    early, most, batches = json.loads(result.stdout.splitlines()[-1])
    assert batches == 2 * num // 128
    # The first eighth of the batches has filled all windows; twice the whole files pass through afterwards.
    assert most - early < 6 * window * PAYLOAD < total / 2


def read_bytes(make: Callable[[], object]) -> int:
    """Bytes that this process has asked the system for meanwhile."""

    def counted() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = counted()
    make()
    return counted() - before


def test_groups_of_array_records_are_unpacked_once(tmp_path: Path, load: Callable) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    from pipelines.shards.records import serialised

    kinds: dict = {"x": "float", "payload": "bytes", "label": "int"}
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:4096")
    for i in range(16_384):
        writer.write(serialised({"x": float(i), "payload": os.urandom(100), "label": i % 2}, kinds))
    writer.close()
    size = (tmp_path / "a.array_record").stat().st_size
    assert read_bytes(lambda: load(tmp_path / "a.array_record", **OPTIONS)) < 8 * size
    data: StreamedData = load(tmp_path / "a.array_record", **OPTIONS, streams=1, shuffle_window=4_096)
    shown: list[float] = []
    batches = data.train()
    assert read_bytes(lambda: shown.extend(x for each, _ in batches for x in each["features"][:, 0].numpy())) < 2 * size
    assert len(set(shown)) == 16_384


def test_starting_late_reads_a_window_and_a_worker_its_share(tmp_path: Path, load: Callable) -> None:
    total = written(tmp_path / "files", 4_096)
    # Two streams of eight blocks, of which a window has half a block each.
    data: StreamedData = load(tmp_path / "files" / "*", **OPTIONS, streams=2, shuffle_window=256)
    late = read_bytes(lambda: next(iter(data.train(0, data.steps_per_epoch * 7 // 8))))
    # The first window and what is read ahead of the first batch, with whole blocks at both ends of each stream's part.
    assert late < total / 2
    last = read_bytes(lambda: list(data.train(0, data.steps_per_epoch - 1)))
    assert last < total / 4
    half = data.steps_per_epoch // 2
    whole = read_bytes(lambda: list(data.train(0, half)))
    shares = [
        read_bytes(lambda worker=worker: list(data.train(0, half, tf.distribute.InputContext(2, worker, 2))))  # type: ignore[misc]
        for worker in range(2)
    ]
    assert max(shares) < 0.6 * whole
