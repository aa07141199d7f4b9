"""Whole runs: the same numbers twice, after a kill, on two replicas and on two workers; early stopping; divergence."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import tfbigmodel
from pipelines.errors import UserError
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.training.checkpoints import best_checkpoint, latest_checkpoint
from tfbigmodel.training.signals import Interrupted
from tfbigmodel.training.state import TrainState

COMMAND = [sys.executable, "-m", "tfbigmodel.train"]


def config(**training):
    values = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 64},
        "model": {"chapter": "dense", "hidden_units": [32], "dropout": training.pop("dropout", 0.0)},
        "checkpoints": training.pop("checkpoints", {}),
        "training": {"epochs": 3, "optimizer": {"learning_rate": 0.01}, **training},
    }
    return resolve(validate_config(values, "test"))


def final_state(workdir):
    checkpoint, problems = latest_checkpoint(workdir / "checkpoints")
    assert not problems
    return checkpoint.state, {**checkpoint.model_arrays(), **checkpoint.optimizer_arrays()}


def assert_same_run(first, second, tolerance=0.0):
    (first_state, first_arrays), (second_state, second_arrays) = final_state(first), final_state(second)
    assert first_arrays.keys() == second_arrays.keys()
    for name in first_arrays:
        np.testing.assert_allclose(first_arrays[name], second_arrays[name], atol=tolerance, rtol=0, err_msg=name)
    for a, b in zip(first_state["history"], second_state["history"], strict=True):
        assert a == (b if not tolerance else pytest.approx(b, abs=10 * tolerance))


class StopAt(keras.callbacks.Callback):
    """Dies at a batch, as a crash would: nothing is saved by it."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) >= self.at:
            raise RuntimeError("crash")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    metrics = tfbigmodel.train(config(dropout=0.3), workdir)
    return workdir, metrics


def test_the_same_seed_and_config_give_the_same_numbers(uninterrupted, tmp_path):
    tfbigmodel.train(config(dropout=0.3), tmp_path / "again")
    assert_same_run(uninterrupted[0], tmp_path / "again")


def test_another_seed_gives_other_numbers(uninterrupted, tmp_path):
    metrics = tfbigmodel.train(config(dropout=0.3, seed=7), tmp_path / "other")
    assert metrics["test"]["loss"] != uninterrupted[1]["test"]["loss"]


@pytest.mark.parametrize(("epoch", "batch"), [(0, 3), (1, 12)])
def test_a_run_that_crashed_goes_on_bit_equal(uninterrupted, tmp_path, epoch, batch):
    settings = config(dropout=0.3, checkpoints={"every_steps": 5}, steps_per_execution=2)
    with pytest.raises(RuntimeError, match="crash"):
        tfbigmodel.train(settings, tmp_path / "run", callbacks=[StopAt(epoch, batch)])
    assert not (tmp_path / "run" / "metrics.json").exists()
    state, _ = final_state(tmp_path / "run") if (epoch, batch) > (0, 4) else ({"updates": 0}, None)
    assert state["updates"] <= epoch * 19 + batch + 1
    metrics = tfbigmodel.train(settings, tmp_path / "run")
    assert_same_run(uninterrupted[0], tmp_path / "run")
    assert metrics == uninterrupted[1]


def write_config(path, settings):
    path.write_text(json.dumps(settings.model_dump(mode="json")))  # JSON is YAML
    return path


def wait_for_checkpoint(workdir, process, updates):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        found = [int(folder.name[5:]) for folder in (workdir / "checkpoints").glob("step-*")]
        if max(found, default=0) >= updates:
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint after {updates} updates")


def start(settings, tmp_path, environment=None, name="config.yaml"):
    command = [*COMMAND, "--config", str(write_config(tmp_path / name, settings)), "--workdir"]
    return subprocess.Popen(
        [*command, str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip


def test_killed_at_any_moment_it_finishes_and_no_file_is_broken(tmp_path):
    settings = config(dropout=0.3, epochs=12, checkpoints={"every_steps": 3}, steps_per_execution=1)
    for updates in (20, 90):
        with start(settings, tmp_path) as process:
            wait_for_checkpoint(tmp_path / "run", process, updates)
            process.send_signal(signal.SIGKILL)
            process.communicate()
    with start(settings, tmp_path) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "resuming" in output
    for path in (tmp_path / "run").rglob("*"):
        assert ".tmp-" not in path.name, path
        if path.suffix == ".json":
            json.loads(path.read_text())
    tfbigmodel.train(config(dropout=0.3, epochs=12), tmp_path / "uninterrupted")
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_where_it_is(tmp_path, number, code):
    settings = config(epochs=500, steps_per_execution=1)
    with start(settings, tmp_path) as process:
        wait_for_checkpoint(tmp_path / "run", process, 19)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    state, _ = final_state(tmp_path / "run")
    assert errors.strip() == f"stopped after update {state['updates']}; the same command goes on from there"


def test_asked_to_stop_when_training_ends_it_leaves_measuring_to_the_next_start(uninterrupted, tmp_path):
    class AskAtTheEnd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after update 57"):
        tfbigmodel.train(config(dropout=0.3), tmp_path / "run", [AskAtTheEnd()])
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert tfbigmodel.train(config(dropout=0.3), tmp_path / "run") == uninterrupted[1]
    assert_same_run(uninterrupted[0], tmp_path / "run")


def test_two_replicas_give_the_numbers_of_one(tmp_path):
    tfbigmodel.train(config(), tmp_path / "one")
    tfbigmodel.train(config(strategy="mirrored", virtual_cpus=2), tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two", tolerance=2e-5)


def test_a_run_goes_on_with_other_devices(tmp_path):
    tfbigmodel.train(config(), tmp_path / "one")
    tfbigmodel.train(config(epochs=2, checkpoints={"keep": 2}), tmp_path / "run")
    tfbigmodel.train(config(strategy="mirrored", virtual_cpus=2, checkpoints={"keep": 3}), tmp_path / "run")
    assert_same_run(tmp_path / "one", tmp_path / "run", tolerance=2e-5)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def run_two_workers(settings, tmp_path):
    """Runs a chief and a worker to their ends; returns both processes and what they printed."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(start(settings[index], tmp_path, {"TF_CONFIG": json.dumps(task)}, f"config{index}.yaml"))
    try:
        return processes, [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_workers_with_different_configurations_do_not_train_together(tmp_path):
    settings = [config(strategy="multi_worker", optimizer={"learning_rate": rate}) for rate in (0.01, 0.02)]
    processes, outputs = run_two_workers(settings, tmp_path)
    assert [process.returncode for process in processes] == [2, 2], outputs
    expected = "error: the workers have different configurations or data (in training); give all of them the same"
    gone = "error: another worker of this run has ended"
    last = [errors.splitlines()[-1] for _, errors in outputs]
    assert expected in last
    assert all(line == expected or line.startswith(gone) for line in last)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_early_stopping_restores_the_best_weights(tmp_path):
    stopping = {"patience": 2, "min_delta": 0.5}  # more than any later epoch gains
    metrics = tfbigmodel.train(config(epochs=30, early_stopping=stopping), tmp_path / "run")
    state, _ = final_state(tmp_path / "run")
    assert state["stopped"] == "early stopping"
    assert 3 <= state["epoch"] < 30
    losses = [logs["val_loss"] for logs in state["history"]]
    best, _ = best_checkpoint(tmp_path / "run" / "checkpoints")
    assert best.state["monitor"] == min(losses)
    assert metrics["validation"]["loss"] == pytest.approx(min(losses), abs=1e-5)
    again = tfbigmodel.train(config(epochs=40, early_stopping=stopping), tmp_path / "run")
    assert again == metrics


def test_accuracy_is_monitored_upwards(tmp_path):
    metrics = tfbigmodel.train(config(epochs=4, monitor="accuracy"), tmp_path / "run")
    state, _ = final_state(tmp_path / "run")
    best = max(logs["val_accuracy"] for logs in state["history"])
    assert metrics["validation"]["accuracy"] == pytest.approx(best)


def test_last_weights_where_they_are_asked_for(tmp_path):
    metrics = tfbigmodel.train(config(epochs=4, final_weights="last"), tmp_path / "run")
    state, _ = final_state(tmp_path / "run")
    assert metrics["validation"]["loss"] == pytest.approx(state["history"][-1]["val_loss"], abs=1e-5)


def test_gains_too_small_to_count_do_not_move_the_mark():
    state = TrainState()
    for monitor in (1.0, 0.995, 0.99, 0.985):
        state.end_epoch({}, monitor, min_delta=0.008)
    assert state.epochs_without_improvement == 1  # 0.99 counted, against 1.0, as in keras.callbacks.EarlyStopping
    assert state.best == 0.99


class StopAfter(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch >= self.batch:
            self.model.stop_training = True


def test_a_callback_stops_at_once_and_raised_epochs_go_on(tmp_path):
    settings = config(epochs=3, steps_per_execution=1)
    tfbigmodel.train(settings, tmp_path / "run", callbacks=[StopAfter(4)])
    state, _ = final_state(tmp_path / "run")
    assert (state["updates"], state["epoch"], state["stopped"]) == (5, 1, "a callback")
    before = tfbigmodel.train(settings, tmp_path / "run")
    assert final_state(tmp_path / "run")[0]["updates"] == 5, "the same command has nothing to do"
    after = tfbigmodel.train(config(epochs=4, steps_per_execution=1), tmp_path / "run")
    assert final_state(tmp_path / "run")[0]["updates"] == 5 + 3 * 19
    assert after["test"]["loss"] < before["test"]["loss"]


def test_divergence_stops_with_the_update_and_writes_no_checkpoint(tmp_path):
    with pytest.raises(
        UserError, match=r"training diverged: the (loss|gradient's norm) became (nan|inf) at update \d+"
    ):
        tfbigmodel.train(
            config(epochs=5, optimizer={"name": "sgd", "learning_rate": 1e30}, steps_per_execution=1), tmp_path / "run"
        )
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_weights_of_another_run_are_the_initial_ones(tmp_path):
    tfbigmodel.train(config(epochs=4), tmp_path / "source")
    _, source = final_state(tmp_path / "source")
    settings = config(
        epochs=1, initialise_from=str(tmp_path / "source"), optimizer={"name": "sgd", "learning_rate": 1e-12}
    )
    tfbigmodel.train(settings, tmp_path / "run")
    _, arrays = final_state(tmp_path / "run")
    for name in ("dense_1/kernel", "logits/bias"):
        np.testing.assert_allclose(arrays[name], source[name], atol=1e-6)


def test_bfloat16_trains_with_float32_weights(tmp_path):
    metrics = tfbigmodel.train(config(precision="mixed_bfloat16"), tmp_path / "half")
    exact = tfbigmodel.train(config(), tmp_path / "full")
    _, arrays = final_state(tmp_path / "half")
    assert arrays["dense_1/kernel"].dtype == np.float32
    assert metrics["test"]["loss"] != exact["test"]["loss"]
    assert metrics["test"]["loss"] == pytest.approx(exact["test"]["loss"], rel=0.1)


def test_accumulation_drops_what_does_not_make_an_update(tmp_path):
    # 19 batches of 64 make 9 updates of two batches; every epoch must still be shuffled as it would be.
    tfbigmodel.train(config(gradient_accumulation=2), tmp_path / "run")
    state, _ = final_state(tmp_path / "run")
    assert state["updates"] == 27
