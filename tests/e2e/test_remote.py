"""The whole way in an object store: configuration, data, workdir, export and server at s3://."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tfbigmodel
from pipelines.object_store import listing, read_bytes, remove, write_bytes
from serving.client import Client
from tfbigmodel.mirror import readable
from tfbigmodel.remote_writer import WRITER
from tfbigmodel.training.checkpoints import latest_checkpoint

_EPOCHS, _UPDATES_PER_EPOCH = 12, 8


@pytest.fixture
def bucket(new_bucket):
    """A table of 200 rows, and a configuration that reads it."""
    url = new_bucket("s3")
    draw = random.Random(7)
    rows = [(draw.gauss(0, 1), draw.gauss(0, 1), draw.choice("rg")) for _ in range(200)]
    table = [f"{a:.3f},{b:.3f},{colour},{'yes' if a + b > 0 else 'no'}" for a, b, colour in rows]
    write_bytes(f"{url}/data/table.csv", "\n".join(["a,b,colour,y", *table]).encode())
    config = f"""
        data: {{source: table, data_dir: "{url}/data", path: table.csv, label: y, batch_size: 16}}
        model: {{chapter: dense, hidden_units: [8], dropout: 0.2}}
        training: {{epochs: {_EPOCHS}, steps_per_execution: 1, jit_compile: false}}
        checkpoints: {{every_steps: 2}}
    """
    write_bytes(f"{url}/run.yaml", config.encode())
    return url


def started(url):
    command = [sys.executable, "-m", "tfbigmodel.train", "--config", f"{url}/run.yaml", "--workdir", f"{url}/run"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole_steps(url):
    return {int(name.split("-")[1].split("/")[0]) for name in listing(f"{url}/run") if name.endswith("/manifest.json")}


def wait_for(condition, process=None, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def weights(folder):
    checkpoint = latest_checkpoint(folder / "checkpoints")[0]
    return checkpoint.state["updates"], checkpoint.model_arrays()


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_resumed_measured_exported_and_served(bucket, tmp_path, served):
    with started(bucket) as process:
        wait_for(lambda: len(whole_steps(bucket)) > 1, process)
        process.send_signal(signal.SIGKILL)
    killed_at = max(whole_steps(bucket))
    assert killed_at < _EPOCHS * _UPDATES_PER_EPOCH
    # Another machine: nothing of the first one's is left. The mark of who wrote would be waited for.
    shutil.rmtree(tmp_path / "cache")
    remove(f"{bucket}/run", [WRITER])

    with started(bucket) as process:
        wait_for(lambda: max(whole_steps(bucket), default=0) > killed_at, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert f"resuming {bucket}/run at epoch " in out
    stopped_at = int(err.split("stopped after update ")[1].split(";")[0])
    assert max(whole_steps(bucket)) == stopped_at, "what a signal saves is sent, too"
    assert not list((tmp_path / "cache" / "tfbigmodel" / "runs").glob("*/run")), "the local copy is gone"

    config = tfbigmodel.load_config(f"{bucket}/run.yaml")
    metrics = tfbigmodel.train(config, f"{bucket}/run")
    assert metrics == json.loads(read_bytes(f"{bucket}/run/metrics.json"))
    tfbigmodel.train(config, tmp_path / "uninterrupted")
    updates, arrays = weights(tmp_path / "uninterrupted")
    remote_updates, remote_arrays = weights(readable(f"{bucket}/run"))
    assert remote_updates == updates == _EPOCHS * _UPDATES_PER_EPOCH
    for name, array in arrays.items():
        np.testing.assert_array_equal(remote_arrays[name], array, err_msg=name)

    results = tfbigmodel.evaluate(f"{bucket}/run")
    assert results["metrics"]["accuracy"] == metrics["test"]["accuracy"]
    assert json.loads(read_bytes(f"{bucket}/run/evaluation/test.json"))["metrics"] == results["metrics"]
    answers = tfbigmodel.predict(f"{bucket}/run", f"{bucket}/data/table.csv")
    assert tfbigmodel.export(f"{bucket}/run", f"{bucket}/models/m") == f"{bucket}/models/m/1"
    with served(f"{bucket}/models/m") as client:
        check_served(client, answers, 1)
        assert tfbigmodel.export(f"{bucket}/run", f"{bucket}/models/m") == f"{bucket}/models/m/2"
        wait_for(lambda: (client.status("m")[0].version, client.status("m")[0].state) == (2, "AVAILABLE"))
        check_served(client, answers, 2)


def check_served(client: Client, answers, version):
    inputs = {name: answers[name].to_numpy(np.float32) for name in ("a", "b")}
    outputs = client.predict("m", {**inputs, "colour": answers["colour"].to_numpy(object)}, version=version)
    assert [label.decode() for label in outputs["label"]] == answers["prediction"].tolist()
