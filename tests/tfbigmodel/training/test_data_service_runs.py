"""Runs whose batches a tf.data service makes: the same metrics, whatever happens to the service."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tfbigmodel import train
from tfbigmodel.config import RunConfig

Start = Callable[..., subprocess.Popen]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen] = []

    def start(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_without_workers_ends_with_one_line_and_goes_on(tmp_path: Path, start: Start) -> None:
    config = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 8},
        "model": {"chapter": "dense", "hidden_units": [16]},
        "training": {"epochs": 15, "deterministic": True, "steps_per_execution": 20},
        "checkpoints": {"every_steps": 100},
    }
    alone = train(RunConfig.model_validate(config), tmp_path / "alone")

    dispatcher_port, worker_port = free_port(), free_port()
    state = tmp_path / "state"
    dispatcher_command = ("pipelines.data_service", "dispatcher", "--port", dispatcher_port, "--work_dir", state)
    worker_command = (
        "pipelines.data_service", "worker", "--dispatcher", f"localhost:{dispatcher_port}", "--port", worker_port
    )  # fmt: skip
    dispatcher, worker = start(*dispatcher_command), start(*worker_command)
    config["data"]["service"] = {"address": f"grpc://localhost:{dispatcher_port}", "timeout_seconds": 6.0}
    (tmp_path / "run.json").write_text(json.dumps(config))  # JSON is YAML
    workdir = tmp_path / "served"
    run = ("tfbigmodel.train", "--config", tmp_path / "run.json", "--workdir", workdir)
    assert worker.stdout.readline().startswith("worker: ready")

    training = start(*run)
    wait_for(lambda: any(workdir.glob("checkpoints/step-*")), training)
    worker.kill()
    _, error = training.communicate(timeout=60)
    assert training.returncode == 138, "which clusters start again"
    expected = "error: data.service: the tf.data workers have not answered for 6 s; start the training again"
    assert error.startswith(expected), error
    assert len(error.splitlines()) == 1

    # A dispatcher that is killed in between, and started again with its state, is not noticed.
    assert start(*worker_command).stdout.readline().startswith("worker: ready")
    before = {path.name for path in workdir.glob("checkpoints/step-*")}
    training = start(*run, "--set", "data.service.timeout_seconds=60.0")
    wait_for(lambda: {path.name for path in workdir.glob("checkpoints/step-*")} != before, training)
    dispatcher.kill()
    dispatcher.wait()
    assert start(*dispatcher_command).stdout.readline().startswith("dispatcher: ready")
    output, error = training.communicate(timeout=120)
    assert training.returncode == 0, error
    assert "resuming" in output
    assert json.loads((workdir / "metrics.json").read_text()) == alone
