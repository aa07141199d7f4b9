"""Trained runs that several files of this folder look at; a test that changes one works on a copy (`copy_of`)."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfbigmodel.train import main as train

REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        workdir: its folder.
        arguments: of the command that trained it, without `--workdir`.
        table: the file it was trained on; None for digits.
    """

    workdir: Path
    arguments: list[str]
    table: Path | None = None

    def train_arguments(self, workdir: Path | None = None) -> list[str]:
        return [*self.arguments, "--workdir", str(workdir or self.workdir)]


@pytest.fixture(autouse=True, scope="session")
def _many_runs_in_one_process():
    """TensorFlow counts traces of functions by their names, and warns of those of many runs, as if they were one's."""
    tf.get_logger().setLevel("ERROR")


def _trained(run: Run) -> Run:
    assert train([*run.train_arguments(), "--quiet"]) == 0
    return run


def _config(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The shipped configuration, for two epochs of 19 updates."""
    config = REPOSITORY / "configs" / "dense.yaml"
    arguments = ["--config", str(config), "--set", "training.epochs=2"]
    return _trained(Run(tmp_path_factory.mktemp("digits") / "run", arguments))


@pytest.fixture(scope="session")
def binary_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """是 or 否, from two numbers and a category; 160 rows, nearly separable. `编号` is no feature."""
    folder = tmp_path_factory.mktemp("binary")
    random = np.random.default_rng(1)
    rows = ["编号,age,city,score,答案"]
    for number in range(160):
        age, city, score = random.integers(18, 80), random.choice(["北京", "上海", "广州"]), random.normal()
        answer = "是" if age / 20 + score + (city == "北京") + 0.3 * random.normal() > 2.6 else "否"
        rows.append(f"{number:05d},{age},{city},{score:.6f},{answer}")
    table = folder / "客户.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = """
data:
  source: table
  path: 客户.csv
  label: 答案
  ignore: [编号]
  batch_size: 16
model: {chapter: dense, hidden_units: [8]}
training: {epochs: 4, optimizer: {learning_rate: 0.02}, jit_compile: false}
"""
    arguments = ["--config", str(_config(folder, text)), "--set", f"data.data_dir={folder}"]
    return _trained(Run(folder / "run", arguments, table))


@pytest.fixture(scope="session")
def regression_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """price = 3 area - 2 age + 500, with a little noise."""
    folder = tmp_path_factory.mktemp("regression")
    random = np.random.default_rng(2)
    area, age = random.uniform(20, 120, 120), random.uniform(0, 50, 120)
    price = 3 * area - 2 * age + 500 + random.normal(size=120)
    rows = ["area,age,price", *(f"{a:.3f},{b:.3f},{c:.2f}" for a, b, c in zip(area, age, price, strict=True))]
    table = folder / "flats.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = """
data: {source: table, path: flats.csv, label: price, task: regression, batch_size: 16}
model: {chapter: dense, hidden_units: [16]}
training: {epochs: 40, monitor: mae, optimizer: {learning_rate: 0.02}, jit_compile: false}
"""
    arguments = ["--config", str(_config(folder, text)), "--set", f"data.data_dir={folder}"]
    return _trained(Run(folder / "run", arguments, table))


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of each of the digits, 8 × 8, as files: what is learned is little, and soon."""
    digits = load_digits()
    root = tmp_path_factory.mktemp("digits_folder")
    for name in range(10):
        (root / str(name)).mkdir()
        for number, pixels in enumerate(digits.images[digits.target == name][:8]):
            content = tf.io.encode_png((pixels[..., None] * 15.9375).astype(np.uint8))
            (root / str(name) / f"{number}.png").write_bytes(content.numpy())
    return root


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Run], Run]:
    """A copy of a run that the test may change."""

    def copied(run: Run) -> Run:
        shutil.copytree(run.workdir, tmp_path / "copied_run")
        return dataclasses.replace(run, workdir=tmp_path / "copied_run")

    return copied
