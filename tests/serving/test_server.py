"""The server's command line as real processes: start, refusals, signals."""

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client, ClientError


def run(*arguments, seconds=60):
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "serving.server", *map(str, arguments)],
        capture_output=True, text=True, timeout=seconds, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    return process, time.monotonic() - start


def test_help_is_fast_and_names_the_flags():
    process, seconds = min((run("--help") for _ in range(3)), key=lambda result: result[1])
    assert process.returncode == 0
    assert seconds < 0.5
    for flag in ("--port", "--rest_api_port", "--model_base_path", "--model_config_file", "--host"):
        assert flag in process.stdout


def test_version():
    process, _ = run("--version")
    assert process.returncode == 0
    assert "TensorFlow Library: 2." in process.stdout


@pytest.fixture(scope="module")
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


MISTAKES = {
    "nothing to serve": (
        [],
        "give --model_base_path=/abs/path (and --model_name), or --model_config_file=… (see --help)",
    ),
    "unknown flag": (["--modell_name=m"], "unknown flag --modell_name; did you mean --model_name? (see --help)"),
    "a word": (["serve"], "unexpected argument 'serve': flags are written --name=value (see --help)"),
    "bad number": (["--port=abc"], "--port must be a whole number from 0 to 65535, but 'abc' was given"),
    "relative path": (
        ["--model_base_path=models"],
        "Expected model default to have an absolute path or URI; got base_path()=models",
    ),
    "missing path": (
        ["--model_base_path={tmp}/nowhere", "--model_name=m"],
        "base path {tmp}/nowhere of model m does not exist",
    ),
    "a file as path": (
        ["--model_base_path={tmp}/bad.config"],
        "base path {tmp}/bad.config of model default is not a directory",
    ),
    "missing config": (
        ["--model_config_file={tmp}/none"],
        "--model_config_file: cannot read {tmp}/none: [Errno 2] No such file or directory: '{tmp}/none'",
    ),
    "bad config": (
        ["--model_config_file={tmp}/bad.config"],
        'Error parsing text-format tensorflow.serving.ModelServerConfig: 1:21 : Message type '
        '"tensorflow.serving.ModelConfigList" has no field named "konfig".',
    ),
    "port in use": (
        ["--model_base_path={tmp}", "--port={port}"],
        "cannot listen on 127.0.0.1:{port}: the port is in use",
    ),
    "beyond this machine": (
        ["--port=0", "--model_base_path={tmp}", "--host=0.0.0.0"],
        "--host=0.0.0.0 can be reached from other machines, without TLS and tokens: give --ssl_config_file and",
    ),
    "one port for both": (
        ["--model_base_path={tmp}", "--port=8600", "--rest_api_port=8600"],
        "--rest_api_port and --port are both 8600: give REST another port",
    ),
    "REST port in use": (
        ["--model_base_path={tmp}", "--port=0", "--rest_api_port={port}"],
        "cannot listen on 127.0.0.1:{port}: the port is in use",
    ),
    "batching without being asked": (
        ["--model_base_path={tmp}", "--batching_parameters_file={tmp}/b"],
        "--batching_parameters_file has an effect only with --enable_batching; give both or neither",
    ),
    "no log folder": (
        ["--port=0", "--model_base_path={tmp}", "--access_log_file={tmp}/none/log"],
        "--access_log_file: cannot write {tmp}/none/log: No such file or directory; expected",
    ),
    "no such host": (
        ["--model_base_path={tmp}", "--host=no.such.host.invalid"],
        "--host: 'no.such.host.invalid' is no address of this machine, and no name of one:",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(case, tmp_path, taken_port):
    (tmp_path / "bad.config").write_text("model_config_list { konfig {} }")
    arguments, text = MISTAKES[case]
    process, _ = run(*(argument.format(tmp=tmp_path, port=taken_port) for argument in arguments))
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: " + text.format(tmp=tmp_path, port=taken_port))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_broken_model_at_the_start_ends_the_server(exported, put_version, tmp_path):
    def spoil(folder):
        (folder / "saved_model.pb").unlink()

    put_version(exported / "linear", tmp_path / "m", 1, manifest=True, change=spoil)
    process, _ = run("--port=0", f"--model_base_path={tmp_path / 'm'}", "--load_retry_interval_micros=100000")
    assert process.returncode == 2
    expected = (
        "error: Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: default "
        "version: 1} due to error: DATA_LOSS: Manifest check failed: file saved_model.pb is missing}, }"
    )
    assert process.stderr.splitlines()[-1] == expected
    assert "Traceback" not in process.stderr


def test_it_waits_for_the_first_version_warns_and_drains_on_sigterm(
    run_server, exported, put_version, tmp_path, eventually
):
    """One process for several steps of a server's life, because each start takes seconds."""
    base, path = tmp_path / "m", tmp_path / "grpc.socket"
    base.mkdir()
    rest_port = free_port()
    server = run_server(
        "--port=0", f"--rest_api_port={rest_port}", "--prefer_tflite_model", "--model_name=m",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=0.1", f"--grpc_socket_path={path}",
    )  # fmt: skip
    eventually(lambda: f"No versions of servable m found under base path {base}." in server.log.read_text(), 60)
    assert server.process.poll() is None
    put_version(exported / "linear", base, 1)
    server.wait_ready()
    log = server.log.read_text()
    assert "--prefer_tflite_model is a flag of TensorFlow Serving that has no effect here; it is ignored" in log
    assert server.process.stdout.readline() == f"Exporting HTTP/REST API at:127.0.0.1:{rest_port} ...\n"
    rest = f"http://127.0.0.1:{rest_port}"
    with urllib.request.urlopen(f"{rest}/health/ready", timeout=10) as answer:
        assert answer.status == 200
    with Client(f"unix:{path}") as client:
        assert client.predict("m", {"x": [[1]]})["y"].item() == 3.0

    answers = []
    with Client(server.address) as client:
        client.status("m")

        def slow():
            answers.append(client.predict("m", {"microseconds": np.int64(2_000_000)}, signature="slow")["one"].item())

        thread = threading.Thread(target=slow)
        thread.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "waiting for those under way" in server.log.read_text())
        with Client(server.address, retries=0) as late, pytest.raises(ClientError, match="cannot be reached"):
            late.predict("m", {"x": np.float32([[1]])})
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"{rest}/health/live", timeout=10)
        thread.join()
    assert answers == [1.0]
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()


def test_a_second_signal_does_not_wait(run_server, models):
    server = run_server("--port=0", "--model_name=m", f"--model_base_path={models['linear']}").wait_ready()
    errors = []

    def slow():
        with Client(server.address) as client:
            try:
                client.predict("m", {"microseconds": np.int64(60_000_000)}, signature="slow", timeout=50)
            except ClientError as error:
                errors.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    time.sleep(0.7)
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert server.process.poll() is None
    assert server.stop(signal.SIGINT) == 0
    thread.join()
    assert len(errors) == 1


def test_sigterm_while_loading_ends_it(run_server, tmp_path):
    server = run_server("--port=0", f"--model_base_path={tmp_path}")
    time.sleep(1.0)
    assert server.stop() == 0
