"""`train --fast_dev_run`: every part of a run on few batches, and nothing left of it."""

import hashlib
import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from pipelines.data import SPLITS
from pipelines.errors import UserError
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.cost.fast_run import fast_dev_run
from tfbigmodel.cost.limited import LimitedData
from tfbigmodel.train import main


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def config(data, model, folder=None, **training):
    data = {**data, **({"data_dir": str(folder)} if folder else {})}
    sections = {"data": data, "model": model, "training": {"jit_compile": False, **training}}
    return resolve(validate_config(sections, "test"))


def flats(folder):
    random = np.random.default_rng(1)
    area, age = random.uniform(20, 120, 200), random.uniform(0, 50, 200)
    rows = [f"{a:.2f},{b:.2f},{3 * a - 2 * b:.2f}" for a, b in zip(area, age, strict=True)]
    (folder / "flats.csv").write_text("\n".join(["面积,楼龄,价格", *rows]) + "\n", encoding="utf-8")
    return {"source": "table", "path": "flats.csv", "label": "价格", "task": "regression", "batch_size": 8}


def test_all_of_a_run_is_gone_through_and_removed(temporary, tmp_path, capsys):
    workdir = tmp_path / "untouched"
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: {source: builtin, name: digits}\nmodel: {chapter: dense, hidden_units: [8]}\n"
        "training: {epochs: 60, jit_compile: false}\n"
    )
    assert main(["--config", str(path), "--workdir", str(workdir), "--fast_dev_run"]) == 0
    output = capsys.readouterr().out
    for line in (
        "stopped on purpose, to go on from the checkpoint",
        "at epoch 2, update 2",
        "done: training: 2 epochs of 2 updates, with validation and checkpoints",
        "done: stopping and going on from a checkpoint",
        "done: measuring on train, validation, test, and a report on test beside majority_class, logistic_regression",
        "done: an export of",
        "done: an answer of the export to one example (pixels): ",
        "the figures mean nothing, and nothing was kept",
    ):
        assert line in output
    assert not workdir.exists()
    assert not list(temporary.glob("tfbigmodel-*"))


def test_what_is_longer_than_the_run_does_not_fail(temporary, tmp_path):
    done = fast_dev_run(
        config(
            flats(tmp_path), {"chapter": "dense", "hidden_units": [4]}, tmp_path,
            epochs=50, gradient_accumulation=3, early_stopping={"patience": 1}, validate_every_steps=100,
            schedule={"name": "cosine", "warmup_steps": 1000}, monitor="mae",
        ),
        batches=1,
        quiet=True,
    )  # fmt: skip
    assert done[0] == "training: 2 epochs of 1 updates, with validation and checkpoints"
    assert done[-1].startswith("an answer of the export to one example (serving_default): prediction")
    assert not list(temporary.glob("tfbigmodel-*"))


@pytest.mark.slow
def test_a_language_model_and_its_own_path_are_gone_through(temporary, tmp_path):
    line = "今天天气很好，我们去公园散步吧。"
    (tmp_path / "texts.txt").write_text("\n".join(f"{line}{n}" for n in range(120)) + "\n", encoding="utf-8")
    data = {
        "source": "corpus", "task": "language_model", "parts": [{"path": "texts.txt", "documents": "line"}],
        "tokenizer": {"kind": "characters", "vocabulary_size": 50, "sequence_length": 16}, "batch_size": 4,
    }  # fmt: skip
    model = {
        "chapter": "text_generator", "hidden_dim": 8, "num_heads": 2, "num_layers": 1, "intermediate_dim": 8,
        "sampling": {"max_new_tokens": 3},
    }  # fmt: skip
    done = fast_dev_run(config(data, model, tmp_path), quiet=True)
    assert "a report on test beside interpolated" in done[2]
    assert done[-1] == "an answer of the export to one example (serving_default): text"


def test_a_failure_at_the_end_comes_at_once_and_leaves_nothing(temporary, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: {source: builtin, name: digits}\nmodel: {chapter: dense, hidden_units: [8]}\n"
        "training: {monitor: beauty}\n"
    )
    assert main(["--config", str(path), "--fast_dev_run", "1", "--quiet"]) == 2
    assert "training.monitor: expected one of" in capsys.readouterr().err
    assert not list(temporary.glob("tfbigmodel-*"))


def test_what_another_user_has_put_in_the_way_of_several_workers_is_not_used(temporary, monkeypatch):
    """Their folder's name follows from their addresses."""
    addresses = '{"cluster": {"worker": ["127.0.0.1:2222"]}, '
    monkeypatch.setenv("TF_CONFIG", addresses + '"task": {"type": "worker", "index": 0}}')
    name = hashlib.sha256(addresses.encode()).hexdigest()[:12]
    (temporary / f"tfbigmodel-{name}-{os.getuid()}").touch()
    with pytest.raises(UserError, match=r"is in the way, and is not ours to remove; remove it$"):
        fast_dev_run(config({"source": "builtin", "name": "digits"}, {"chapter": "dense"}), quiet=True)


@pytest.fixture(scope="module")
def digits():
    return tfbigmodel.load_data(config({"source": "builtin", "name": "digits", "batch_size": 64}, {"chapter": "dense"}))


def labels(dataset):
    return [batch[1].numpy().tolist() for batch in dataset]


def test_limited_data_has_the_first_batches_of_all(digits):
    limited = LimitedData(digits, batches=2, train_batches=3)
    assert limited.steps_per_epoch == 3
    assert limited.info.counts == {"train": 192, "validation": 128, "test": 128}
    assert limited.info.fingerprint != digits.info.fingerprint
    whole = [labels(digits.train(epoch)) for epoch in range(3)]
    assert labels(limited.train(epochs=3)) == [*whole[0][:3], *whole[1][:3], *whole[2][:3]]
    assert labels(limited.train(epoch=1, step=2, epochs=2)) == [whole[1][2], *whole[2][:3]]
    for split, batches in zip(SPLITS, (3, 2, 2), strict=True):
        assert labels(limited.evaluation(split)) == labels(digits.evaluation(split))[:batches]
        assert [label for batch in labels(limited.evaluation(split)) for label in batch] == limited.examples(
            split
        ).labels.tolist()


def test_limited_data_is_divided_as_all_of_it_is(digits):
    limited = LimitedData(digits, batches=1, train_batches=2)
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, num_replicas_in_sync=4)
        assert labels(limited.train(0, 0, context)) == labels(digits.train(0, 0, context))[: 2 * 2]
        assert labels(limited.validation(context)) == labels(digits.validation(context))[: 1 * 2]
        assert labels(limited.test(context)) == labels(digits.test(context))[: 1 * 2]


def test_data_that_is_smaller_than_the_limit_is_whole(digits):
    limited = LimitedData(digits, batches=100, train_batches=1000)
    assert limited.steps_per_epoch == digits.steps_per_epoch
    assert limited.info.counts == digits.info.counts
    assert labels(limited.test()) == labels(digits.test())
