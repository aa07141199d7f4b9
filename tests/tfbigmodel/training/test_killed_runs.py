"""Runs that are killed at random updates have, update by update, the losses of the run that nothing stopped."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.training.checkpoints import latest_checkpoint

HERE = Path(__file__).parent
CONFIG = {
    "data": {"source": "builtin", "name": "digits", "batch_size": 32},
    "model": {"chapter": "dense", "hidden_units": [16], "dropout": 0.3},
    "checkpoints": {"every_steps": 2},
    "tensorboard": {"every_steps": 1},
    "training": {
        "epochs": 7,
        "gradient_accumulation": 2,
        "clip_norm": 1.0,
        "early_stopping": {"patience": 5},
        "optimizer": {"learning_rate": 0.01},
        "deterministic": True,
        "jit_compile": False,
        "steps_per_execution": 1,
    },
}


def run(tmp_path, name, kills):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    command = [sys.executable, str(HERE / "killed_runs.py"), str(config), str(tmp_path / name), str(kills), "3"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    starts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [start["ended"] for start in starts] == [-9] * kills + [0], done.stderr
    return tmp_path / name


def curves(workdir):
    """Every value that is in the training curves: (tag, update) → the bit patterns, in the order of the files."""
    values = {}
    for file in sorted((workdir / "tensorboard" / "train").iterdir()):
        for record in tf.data.TFRecordDataset(str(file)).ignore_errors():
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag in ("loss", "gradient_norm", "accuracy", "learning_rate"):
                    number = float(tf.make_ndarray(value.tensor))
                    values.setdefault((value.tag, event.step), []).append(struct.pack("<f", number))
    return values


def test_killed_at_twenty_random_updates_its_losses_are_bit_equal(tmp_path):
    undisturbed = run(tmp_path, "undisturbed", 0)
    killed = run(tmp_path, "killed", 20)
    expected, found = curves(undisturbed), curves(killed)
    updates = {step for tag, step in expected if tag == "loss"}
    assert updates == set(range(1, 7 * 19 + 1))
    assert all(len(patterns) == 1 for patterns in expected.values())
    # Updates that were made twice, before and after a kill, must be there once.
    assert found == expected
    (one, _), (two, _) = (latest_checkpoint(folder / "checkpoints") for folder in (undisturbed, killed))
    for state in (one.state, two.state):
        assert state.pop("event_files")  # each start has its own
    assert one.state == two.state
    assert one.state["callbacks"][2]["state"]["dict"].keys() >= {"best", "wait"}, "the test must exercise callbacks"
    for first, second in (
        (one.model_arrays(), two.model_arrays()),
        (one.optimizer_arrays(), two.optimizer_arrays()),
        (one.host_arrays(), two.host_arrays()),
    ):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (undisturbed, killed)]
    assert metrics[0] == metrics[1]
    assert metrics[0]["test"]["loss"] != pytest.approx(0.0)
