"""Files of the three formats with the same examples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipelines
from pipelines.config import ShardsConfig
from pipelines.shards.data import StreamedData
from pipelines.shards.records import SUFFIXES, write_shards
from pipelines.shards.values import Kind

FORMATS = ("tfrecord", "parquet", "arrayrecord")
KINDS: dict[str, Kind] = {"number": "int", "score": "float", "colour": "bytes", "label": "bytes"}
NUM = 1_201

Rows = Sequence[Mapping[str, Any]]


def table(num: int = NUM, seed: int = 0) -> list[dict[str, Any]]:
    """Rows that say which they are; the label follows from the number."""
    random = np.random.default_rng(seed)
    scores, colours = random.normal(3.0, 2.0, num), random.choice(["red", "蓝", "green"], num)
    return [
        {"number": i, "score": float(scores[i]), "colour": str(colours[i]), "label": "no" if i % 3 else "yes"}
        for i in range(num)
    ]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Format → a pattern for three files of the usual rows; example i is in file i % 3."""
    folder = tmp_path_factory.mktemp("shards")
    patterns = {}
    for name in FORMATS:
        write_shards({"train": table()}, KINDS, folder / name, name, 3)
        patterns[name] = str(folder / name / f"*{SUFFIXES[name]}")
    return patterns


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def load(cache: Path) -> Callable[..., StreamedData]:
    """Loads files under these options."""

    def load_files(path: str | Path, **options: Any) -> StreamedData:
        known = {"source": "shards", "path": str(path), "label": "label", "cache_dir": cache, "batch_size": 32}
        data = pipelines.load(ShardsConfig.model_validate(known | {"shuffle_window": 512} | options))
        assert isinstance(data, StreamedData)
        return data

    return load_files


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes one file of these rows; returns its path."""

    def write_file(rows: Rows, kinds: Mapping[str, Kind] = KINDS, name: str = "tfrecord", called: str = "a") -> str:
        write_shards({called: rows}, kinds, tmp_path / called, name, 1)
        return str(tmp_path / called / f"{called}-00000-of-00001{SUFFIXES[name]}")

    return write_file
