"""Records per second, time to start, and memory of files of examples (`data.source: shards`), by format.

    python benchmarks/shards.py [--records 400000] [--payload 800] [--batch_size 256]

Writes a table of sixteen numbers, a category and a text of `--payload` bytes to files of each format, and reads its
numbers and category as training does. Each format is read in a process of its own, twice: first the survey of new
files, then epochs. `start` is the time from `Data.train` to its first batch, when everything is traced; `memory` how
much the process grew from before `pipelines.load` to the end of the epochs, of which what TensorFlow itself takes for
graphs and threads shows in the row of four batches.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMATS = ("tfrecord", "parquet", "arrayrecord")
NUMBERS = 16


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--payload", type=int, default=800, help="bytes of a text in each record, which is not used")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--window", type=int, default=16_384, help="data.shuffle_window")
    parser.add_argument("--read", nargs=2, metavar=("PATTERN", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(measure(*arguments.read, arguments.batch_size, arguments.window)))
        return
    columns = ("survey/s", "records/s", "start 0", "start mid", "memory", "files")
    print(f"{'':24}" + "".join(f"{name:>12}" for name in columns))
    with tempfile.TemporaryDirectory() as folder:
        for format_name in FORMATS:
            for records in (4 * arguments.batch_size, arguments.records):
                files = Path(folder, f"{format_name}-{records}")
                write(files, format_name, records, arguments.payload)
                size = sum(path.stat().st_size for path in files.iterdir())
                options = ["--batch_size", str(arguments.batch_size), "--window", str(arguments.window)]
                command = [sys.executable, __file__, "--read", f"{files}/*", f"{folder}/cache", *options]
                printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found = json.loads(printed.splitlines()[-1])
                print(
                    f"{format_name + f', {records:,}':24}{records / found['survey']:12,.0f}{found['rate']:12,.0f}"
                    f"{found['start']:10.2f} s{found['middle']:10.2f} s{found['memory'] / 2**20:8,.0f} MiB"
                    f"{size / 2**20:8,.0f} MiB"
                )


def write(folder: Path, format_name: str, records: int, payload: int) -> None:
    """Writes eight files."""
    import numpy as np

    from pipelines.shards.records import write_shards
    from pipelines.shards.values import Kind

    def examples() -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(0)
        for _ in range(records):
            numbers = random.normal(size=NUMBERS).tolist()
            values = {f"x{index}": number for index, number in enumerate(numbers)}
            text = random.integers(97, 123, payload, dtype=np.uint8).tobytes().decode()
            yield values | {"colour": "red" if numbers[0] > 0 else "blue", "text": text, "label": int(numbers[1] > 0)}

    kinds: dict[str, Kind] = {f"x{index}": "float" for index in range(NUMBERS)}
    write_shards(
        {"train": examples()}, kinds | {"colour": "bytes", "text": "bytes", "label": "int"}, folder, format_name, 8
    )


def measure(pattern: str, cache: str, batch_size: int, window: int) -> dict[str, float]:
    """Reads the files as training does."""
    import resource

    import tensorflow as tf

    import pipelines
    from pipelines.config import ShardsConfig

    tf.data.Dataset.range(1).map(lambda number: number).get_single_element()  # its threads are there already
    before = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = {
        "source": "shards",
        "path": pattern,
        "label": "label",
        "numeric": [f"x{index}" for index in range(NUMBERS)],
        "categorical": ["colour"],
        "cache_dir": cache,
        "batch_size": batch_size,
        "shuffle_window": window,
        "split": {"validation": 0.0, "test": 0.0},
    }
    started = time.perf_counter()
    data = pipelines.load(ShardsConfig.model_validate(config))
    survey = time.perf_counter() - started
    next(iter(data.train()))
    first = start(data, 0)
    middle = start(data, data.steps_per_epoch // 2)
    iterator = iter(data.train(epochs=2))
    for _ in range(data.steps_per_epoch):
        next(iterator)
    started = time.perf_counter()
    for _ in range(data.steps_per_epoch):
        next(iterator)
    rate = data.steps_per_epoch * batch_size / (time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"survey": survey, "rate": rate, "start": first, "middle": middle, "memory": 1024.0 * (peak - before)}


def start(data: Any, step: int) -> float:
    """Seconds to the first batch."""
    started = time.perf_counter()
    next(iter(data.train(1, step)))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
