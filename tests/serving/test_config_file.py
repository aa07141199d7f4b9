"""A real server with a config file that changes, and operations around its requests: logs, samples, labels."""

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client, ClientError

REPOSITORY = Path(__file__).resolve().parents[2]


def model(name, base, more=""):
    return f"config {{ name: '{name}' base_path: '{base}' model_platform: 'tensorflow' {more} }}"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def running(run_server, exported, put_version, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config_file")
    for name, source, version in (("a", "linear", 1), ("a", "linear3", 2), ("b", "linear3", 1)):
        put_version(exported / source, folder / name, version)
    config = folder / "models.config"
    config.write_text(f"model_config_list {{ {model('a', folder / 'a', 'model_version_policy { all {} }')} }}")
    rest = free_port()
    server = run_server(
        "--port=0", f"--rest_api_port={rest}", f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=0.2", "--file_system_poll_wait_seconds=0.1",
        f"--access_log_file={folder / 'access.jsonl'}", f"--request_log_prefix={folder / 'samples'}",
        "--request_log_sampling_rate=1",
    ).wait_ready()  # fmt: skip
    with Client(server.address, retries=0) as client:
        yield server, client, folder, config, f"http://127.0.0.1:{rest}"


def answer(client, name, **choice):
    return client.predict(name, {"x": np.float32([[2]])}, **choice)["y"].item()


def test_the_file_is_followed(running, eventually):
    server, client, folder, config, _ = running
    assert answer(client, "a") == 6.0
    labels = "version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"
    both = model("a", folder / "a", f"model_version_policy {{ all {{}} }} {labels}") + model("b", folder / "b")
    config.write_text(f"model_config_list {{ {both} }}")

    def served(name, **choice):
        try:
            return answer(client, name, **choice)
        except ClientError:
            return None

    eventually(lambda: served("b") == 6.0)
    assert (answer(client, "a", label="stable"), answer(client, "a", label="canary")) == (5.0, 6.0)
    config.write_text("model_config_list { konfig {} }")
    eventually(lambda: "Failed to read ModelServerConfig file" in server.log.read_text())
    assert answer(client, "b") == 6.0
    config.write_text(f"model_config_list {{ {model('b', folder / 'b')} }}")
    eventually(lambda: served("a") is None)
    with pytest.raises(ClientError, match=r"Servable not found for request: Latest\(a\)"):
        answer(client, "a")


def test_a_reload_by_rpc_changes_it_too(running, eventually):
    _, client, folder, config, _ = running
    text = f"model_config_list {{ {model('b', folder / 'b')} {model('c', folder / 'a')} }}"
    config.write_text(text)  # so that the file's next reading agrees
    client.reload_config(text)
    assert answer(client, "c") == 6.0
    with pytest.raises(ClientError, match="Could not find base path"):
        client.reload_config(f"model_config_list {{ {model('d', folder / 'nowhere')} }}")
    assert answer(client, "c") == 6.0


def test_what_is_logged_and_sampled_can_be_used(running, eventually):
    server, client, folder, _, rest = running
    client.predict("b", {"x": np.float32([[7]])}, request_id="order-17")
    request = urllib.request.Request(
        f"{rest}/v1/models/b:predict", b'{"instances": [[8]]}', {"X-Request-Id": "order-18"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["X-Request-Id"] == "order-18"
        assert json.load(response) == {"predictions": [[24.0]]}

    def entries():
        lines = (folder / "access.jsonl").read_text().splitlines()
        return {entry["request_id"]: entry for entry in map(json.loads, lines)}

    eventually(lambda: {"order-17", "order-18"} <= entries().keys())
    grpc_entry, rest_entry = entries()["order-17"], entries()["order-18"]
    assert (grpc_entry["entrypoint"], grpc_entry["method"]) == ("GRPC", "tensorflow.serving.PredictionService/Predict")
    assert (rest_entry["entrypoint"], rest_entry["path"], rest_entry["http_status"]) == (
        "REST", "/v1/models/b:predict", 200,
    )  # fmt: skip
    for entry in (grpc_entry, rest_entry):
        assert (entry["model"], entry["version"], entry["code"], entry["batch_rows"]) == ("b", 1, "OK", 1)
        assert entry["latency_ms"] >= entry["queued_ms"] >= 0

    assert server.stop() == 0
    files = sorted(map(str, folder.glob("samples*.tfrecord")))
    assert files
    command = [sys.executable, "-m", "serving.operations.request_log", "read", *files]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=True)
    inputs = [json.loads(line)["inputs"] for line in process.stdout.splitlines()]
    assert {"x": [7.0]} in inputs
    assert {"x": [8.0]} in inputs
