"""One of two workers is asked to stop, as a cluster does before it takes a machine away: both stop at one update."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import tfbigmodel
from tfbigmodel.config import load_config
from tfbigmodel.training.checkpoints import latest_checkpoint

CONFIG = {
    "data": {"source": "builtin", "name": "digits", "batch_size": 64},
    "model": {"chapter": "dense", "hidden_units": [16]},
    "training": {"epochs": 12, "strategy": "multi_worker", "steps_per_execution": 2},
}


def launched(config, workdir):
    command = [sys.executable, "-m", "tfbigmodel.launch", "--workers", "2", "--"]
    return subprocess.Popen(
        [*command, "tfbigmodel.train", "--config", str(config), "--workdir", str(workdir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def second_worker(launcher):
    """The process whose place among the workers is 1."""
    for line in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        environment = Path(f"/proc/{line}/environ").read_bytes().split(b"\0")
        text = next(value for value in environment if value.startswith(b"TF_CONFIG="))
        if json.loads(text.partition(b"=")[2])["task"]["index"] == 1:
            return int(line)
    raise AssertionError("there is no second worker")


def test_both_stop_at_one_update_and_go_on_from_there(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    launcher = launched(config, tmp_path / "run")
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert launcher.poll() is None, launcher.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(second_worker(launcher), signal.SIGTERM)
        output, _ = launcher.communicate(timeout=90)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    checkpoint, problems = latest_checkpoint(tmp_path / "run" / "checkpoints")
    updates = checkpoint.state["updates"]
    assert not problems
    assert updates < 12 * 19, "it was to be stopped before its end"
    assert re.findall(r"stopped after update (\d+)", output) == [str(updates)] * 2, output
    assert launcher.returncode == 128 + signal.SIGTERM
    # Started again, they end with what one process, which nothing stopped, makes of the same global batches.
    tfbigmodel.train(load_config(config, ["training.strategy=default"]), tmp_path / "one")
    second = launched(config, tmp_path / "run")
    output, _ = second.communicate(timeout=180)
    assert second.returncode == 0, output
    assert f"update {updates}" in output
    one, two = (latest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("one", "run"))
    assert one.state["updates"] == two.state["updates"] == 12 * 19
    expected = one.model_arrays()
    for name, array in two.model_arrays().items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4, err_msg=name)
