"""The launcher: real processes on this machine, light ones for its own sake and two that train."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import tfbigmodel
from tfbigmodel import launch
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.training.checkpoints import latest_checkpoint

# What the light workers do, by their first argument; each knows its number from TF_CONFIG.
WORKER = """
import json, os, signal, sys, time
cluster = json.loads(os.environ["TF_CONFIG"])
index, what = cluster["task"]["index"], sys.argv[1]
if what == "show":
    names = ("TF_CONFIG", "TF_NUM_INTRAOP_THREADS", "CUDA_VISIBLE_DEVICES")
    print(json.dumps({name: os.environ.get(name) for name in names} | {"arguments": sys.argv[1:]}))
    sys.exit(0)
if what == "end" and index == 1:
    print("cannot\\nat all", file=sys.stderr)
    sys.exit(int(sys.argv[2]))
if what == "late":
    time.sleep(index)
    sys.exit(int(sys.argv[2]) if index else 138)
if what == "once" and index == 1 and not os.path.exists(sys.argv[2]):
    open(sys.argv[2], "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
if what == "once":
    sys.exit(0)
if what == "polite":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(300)
"""


@pytest.fixture
def light(tmp_path):
    """Starts the launcher with light workers."""
    (tmp_path / "light.py").write_text(WORKER)
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    running = []

    def start(options, *arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "tfbigmodel.launch", *options, "--", "light", *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def process_numbers(launcher):
    """The workers', as the first two lines that they print say."""
    numbers = []
    while len(numbers) < 2:
        line = (launcher.stdout if not numbers else launcher.stderr).readline()
        numbers += [int(number) for number in re.findall(r"^(?:\[worker 1\] )?(\d+)$", line)]
        assert line, launcher.communicate()
        if line.startswith("2 workers"):
            continue
    return numbers


def is_alive(number):
    with contextlib.suppress(OSError):
        os.kill(number, 0)
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(numbers, seconds=10):
    limit = time.monotonic() + seconds
    while any(is_alive(number) for number in numbers):
        assert time.monotonic() < limit, "a worker outlives the launcher"
        time.sleep(0.05)


def test_each_worker_knows_its_place_and_its_share_of_the_machine(light):
    launcher = light(["--workers", "2"], "show", "--x", "1", CUDA_VISIBLE_DEVICES="3,5")
    output, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    first, chief = output.splitlines()
    chief, other = json.loads(chief), json.loads(errors.removeprefix("[worker 1] "))
    clusters = [json.loads(worker.pop("TF_CONFIG")) for worker in (chief, other)]
    addresses = clusters[0]["cluster"]["worker"]
    assert first == f"2 workers at {', '.join(addresses)}"
    assert clusters == [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)
    ]
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    expected = {"TF_NUM_INTRAOP_THREADS": threads, "arguments": ["show", "--x", "1"]}
    assert chief == {**expected, "CUDA_VISIBLE_DEVICES": "3"}
    assert other == {**expected, "CUDA_VISIBLE_DEVICES": "5"}


def test_one_worker_of_a_cluster_takes_the_launchers_place(light):
    process = light(["--hosts", "a:2222, b:2222", "--index", "1"], "show", TF_NUM_INTRAOP_THREADS="7")
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    worker = json.loads(output)
    task = {"type": "worker", "index": 1}
    assert json.loads(worker["TF_CONFIG"]) == {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": task}
    assert worker["TF_NUM_INTRAOP_THREADS"] == "7"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("1", "what it says above is why; the same command goes on from the last checkpoint"),
        ("2", "mend what it says above, and start again"),
        ("138", "the same command goes on from the last checkpoint"),
    ],
)
def test_a_worker_that_fails_ends_all(light, code, advice):
    # A user's mistake would be made again: it is not tried twice.
    launcher = light(["--workers", "2", "--restarts", "1" if code == "2" else "0"], "end", code)
    output, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == int(code)
    assert errors == f"[worker 1] cannot\n[worker 1] at all\nerror: worker 1 ended with exit code {code}; {advice}\n"
    chief = [int(line) for line in output.splitlines() if line.isdigit()]
    wait_until_gone(chief, 0.1)


@pytest.mark.parametrize(("code", "again"), [("1", True), ("2", False)])
def test_who_ended_because_of_another_is_not_the_one_to_name(light, code, again):
    # The one with the reason takes longer to end, as a process that uses TensorFlow does.
    launcher = light(["--workers", "2", "--restarts", "1"], "late", code)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == int(code)
    lines = errors.splitlines()
    assert len(lines) == 1 + again, "a user's mistake would be made again"
    assert all(line.startswith(f"error: worker 1 ended with exit code {code}; ") for line in lines)


def test_a_killed_worker_is_started_again_with_all_others(light, tmp_path):
    launcher = light(["--workers", "2", "--restarts", "2"], "once", str(tmp_path / "been"))
    output, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 0
    killed = "error: worker 1 was killed by SIGKILL, as the system does when memory runs out; "
    assert errors == f"{killed}all are started again\n"
    assert len(re.findall("^2 workers at ", output, re.MULTILINE)) == 2


def test_one_that_does_not_end_is_killed_after_the_grace_time(light):
    launcher = light(["--workers", "2", "--grace", "0.5"], "stubborn")
    chief, other = process_numbers(launcher)
    os.kill(other, signal.SIGKILL)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 137
    assert errors.startswith("error: worker 1 was killed by SIGKILL")
    assert not is_alive(chief)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_once(light, number, code):
    launcher = light(["--workers", "2"], "polite")
    numbers = process_numbers(launcher)
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=30)
    assert (launcher.returncode, errors) == (code, "")
    wait_until_gone(numbers, 0.1)


def test_a_worker_that_was_asked_to_stop_is_not_started_again(light):
    launcher = light(["--workers", "2", "--restarts", "1", "--grace", "1"], "polite")
    _, other = process_numbers(launcher)
    os.kill(other, signal.SIGTERM)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 143
    assert errors == "error: worker 1 ended with exit code 143; the same command goes on from the last checkpoint\n"


def test_asked_twice_it_kills_those_that_do_not_end(light):
    launcher = light(["--workers", "2", "--grace", "0.3"], "stubborn")
    numbers = process_numbers(launcher)
    launcher.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert all(is_alive(number) for number in numbers), "a checkpoint may take long"
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 143
    wait_until_gone(numbers, 0.1)


def test_no_worker_outlives_a_launcher_that_is_killed(light):
    launcher = light(["--workers", "2"], "stubborn")
    numbers = process_numbers(launcher)
    os.kill(numbers[1], signal.SIGSTOP)
    launcher.kill()
    wait_until_gone(numbers)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--", "json.tool"], "one of the arguments --workers --hosts is required"),
        (["--workers", "2", "--hosts", "a:1", "--", "json.tool"], "not allowed with argument"),
        (["--workers", "0", "--", "json.tool"], "--workers: expected 1 or more, received 0"),
        (["--workers", "2", "--restarts", "-1", "--", "json.tool"], "--restarts: expected 0 or more, received -1"),
        (["--workers", "2", "--grace", "-1", "--", "json.tool"], "--grace: expected 0 or more, received -1.0"),
        (["--workers", "2", "--index", "0", "--", "json.tool"], "--index goes with --hosts"),
        (["--hosts", "a:1,b:1", "--", "json.tool"], "--index: expected one from 0 to 1, received nothing"),
        (["--hosts", "a:1,b:1", "--index", "2", "--", "json.tool"], "--index: expected one from 0 to 1, received 2"),
        (["--hosts", "a,b:1", "--index", "0", "--", "json.tool"], "--hosts: expected an address such as host1:2222"),
        (["--hosts", "a:1,a:1", "--index", "0", "--", "json.tool"], "--hosts: a:1 is there twice"),
        (["--hosts", "a:1", "--index", "0", "--restarts", "1", "--", "json.tool"], "--restarts goes with --workers"),
        (["--workers", "2"], "expected a module after --, such as -- tfbigmodel.train --config"),
        (["--workers", "2", "--", "--config", "x"], "expected a module after --, such as"),
        (["--workers", "2", "tfbigmodel.train", "--config", "x"], "expected -- before tfbigmodel.train"),
        (["--workers", "2", "--re-starts", "1", "--", "json.tool"], "--re-starts 1; did you mean --restarts?"),
        (["--workers", "2", "--", "no.such.module"], "there is no module no.such.module; expected one such as"),
        (
            ["--workers", "2", "--", "tfbigmodel.train", "--set=training.strategy=mirrored"],
            "--set training.strategy=mirrored: the workers of one run need training.strategy=multi_worker",
        ),
    ],
)
def test_mistakes_in_the_arguments_are_told_in_one_line(arguments, told, capsys):
    try:
        code = launch.main(arguments)
    except SystemExit as end:  # which the parser raises
        code = end.code
    assert code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert told in errors
    assert errors.count("\n") == 1


def test_gpus_that_cannot_be_divided_are_told(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert launch.main(["--workers", "2", "--", "json.tool"]) == 2
    assert "--workers 2: 3 GPUs (0,1,2) cannot be divided equally" in capsys.readouterr().err


def settings(**training):
    values = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 64},
        "model": {"chapter": "dense", "hidden_units": [32]},
        "checkpoints": {"every_steps": 5},
        "training": {"epochs": 4, "optimizer": {"learning_rate": 0.01}, **training},
    }
    return resolve(validate_config(values, "test"))


def test_two_workers_one_of_which_is_killed_give_the_numbers_of_one_process(tmp_path):
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(settings().model_dump(mode="json")))  # JSON is YAML
    workdir = tmp_path / "run"
    command = ["tfbigmodel.train", "--config", str(config_file), "--workdir", str(workdir)]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tfbigmodel.launch", "--workers", "2", "--restarts", "1", "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        limit = time.monotonic() + 120
        while not list((workdir / "checkpoints").glob("step-*")):
            assert time.monotonic() < limit
            assert launcher.poll() is None, launcher.communicate()
            time.sleep(0.02)
        os.kill(_child(launcher.pid, 1), signal.SIGKILL)
        started = time.monotonic()
        assert "was killed by SIGKILL" in _line_with("error: ", launcher.stderr)
        assert time.monotonic() - started < 60
        output, errors = launcher.communicate(timeout=200)
    finally:
        launcher.terminate()
    assert launcher.returncode == 0, errors
    resumed = re.search(r"resuming .* at epoch \d+, update (\d+)", output)
    assert resumed, output
    assert int(resumed[1]) >= 5
    assert "2 replicas" in output
    expected = tfbigmodel.train(settings(), tmp_path / "one")
    written = json.loads((workdir / "metrics.json").read_text())
    assert written.keys() == expected.keys()
    for split, metrics in expected.items():
        assert written[split]["loss"] == pytest.approx(metrics["loss"], abs=1e-4), split
        assert written[split]["accuracy"] == pytest.approx(metrics["accuracy"], abs=0.006), split
    states = [latest_checkpoint(folder / "checkpoints")[0].state for folder in (workdir, tmp_path / "one")]
    assert states[0]["updates"] == states[1]["updates"] == 4 * 19
    for ours, theirs in zip(*(state["history"] for state in states), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)


def _child(parent, place):
    with open(f"/proc/{parent}/task/{parent}/children") as file:
        return int(file.read().split()[place])


def _line_with(text, stream):
    for line in stream:
        if line.startswith(text):
            return line
    raise AssertionError(f"no line with {text}")
