"""What several test files of this folder share."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines.config import TableConfig
from pipelines.data import Data, Preprocessor

# 60 rows: 30 of each class, two numeric columns and a categorical one.
ROWS = [(20 + i, "red" if i % 3 else "blue", i * 0.5 - 3, "yes" if i % 2 else "no") for i in range(60)]
HEADER = "age,colour,score,label"


def csv_text(rows: list[tuple] = ROWS, header: str = HEADER) -> str:
    return "\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n"


@pytest.fixture(scope="session")
def rows() -> list[tuple]:
    return list(ROWS)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file into the test's folder; without text, the usual table."""

    def write_file(name: str = "data.csv", text: str | bytes | None = None) -> Path:
        content = csv_text() if text is None else text
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write_file


@pytest.fixture
def as_csv() -> Callable[..., str]:
    return csv_text


@pytest.fixture
def table_config(tmp_path: Path) -> Callable[..., TableConfig]:
    def make(**values: object) -> TableConfig:
        known = {"source": "table", "data_dir": tmp_path, "path": "data.csv", "label": "label", "batch_size": 8}
        return TableConfig.model_validate(known | values)

    return make


@pytest.fixture
def load_table(write: Callable[..., Path], table_config: Callable[..., TableConfig]) -> Callable[..., Data]:
    """Loads a table of this text (the usual one where it is None) under these options."""

    def load(text: str | bytes | None = None, **values: object) -> Data:
        write(str(values.get("path", "data.csv")), text)
        return pipelines.load(table_config(**values))

    return load


@pytest.fixture
def served(tmp_path: Path) -> Callable[[Preprocessor], dict[str, Callable[..., dict[str, tf.Tensor]]]]:
    """Puts a preprocessor into a SavedModel and reads that back: signature name → function."""

    def reload(preprocess: Preprocessor) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        module = tf.Module()
        module.preprocess = preprocess
        functions = {
            name: tf.function(lambda **raw: preprocess(raw)).get_concrete_function(**specs)
            for name, specs in preprocess.signatures.items()
        }
        tf.saved_model.save(module, str(tmp_path / "exported"), signatures=functions)
        return dict(tf.saved_model.load(str(tmp_path / "exported")).signatures)

    return reload


def collect(dataset: tf.data.Dataset, part: int = 1) -> np.ndarray:
    return np.concatenate([np.asarray(element[part]) for element in dataset])


@pytest.fixture
def labels_of() -> Callable[..., np.ndarray]:
    """One part of every element of a dataset, joined: labels, unless told otherwise."""
    return collect
