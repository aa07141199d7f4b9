"""A real server's page of metrics, access log and samples, after requests on both ports."""

import json
import re
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.tensors import to_proto


@pytest.fixture(scope="module")
def serve(run_server):
    """Starts a server with REST on a free port; gives it and the port's address."""

    def start(*arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = run_server("--port=0", f"--rest_api_port={port}", "--model_name=linear", *arguments).wait_ready()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        return server, f"127.0.0.1:{port}"

    return start


def post(address, path, body, **headers):
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def samples(address):
    with urllib.request.urlopen(f"http://{address}/monitoring/prometheus/metrics", timeout=20) as response:
        assert response.headers["content-type"].startswith("text/plain")
        page = response.read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def after_requests(exported, put_version, serve, tmp_path_factory):
    """The folder of a server that has answered and stopped, and its metrics just before."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    folder = tmp_path_factory.mktemp("operations")
    put_version(exported / "linear", folder / "models", 3)
    (folder / "samples").mkdir()
    server, rest = serve(
        f"--model_base_path={folder}/models", f"--access_log_file={folder}/access.log",
        f"--request_log_prefix={folder}/samples/linear", "--request_log_sampling_rate=1",
    )  # fmt: skip
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "linear"
    request.inputs["x"].CopyFrom(to_proto(np.float32([[1], [2]])))
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        secret = (("authorization", "Bearer very-secret"), ("x-request-id", "order-17"))
        stub.Predict(request, timeout=20, metadata=secret)
        request.model_spec.signature_name = "none"
        with pytest.raises(grpc.RpcError):
            stub.Predict(request, timeout=20)
    path = "/v1/models/linear:predict"
    headers = {"Authorization": "Bearer very-secret", "X-Request-Id": "bad id"}
    assert post(rest, path, {"instances": [[3.0]]}, **headers)[0] == 200
    assert post(rest, "/v1/models/linear:predict", {"instances": []})[0] == 400
    page = samples(rest)
    assert server.stop(signal.SIGTERM) == 0
    return folder, page


def test_metrics_count_both_ports(after_requests):
    _, page = after_requests
    count = ":tensorflow:serving:request_count_total"
    latency = ":tensorflow:serving:request_latency_count"
    model = ("model_name", "linear")
    assert page[count, model, ("status", "OK")] == 2
    assert page[count, model, ("status", "FAILED_PRECONDITION")] == 1
    assert page[count, model, ("status", "INVALID_ARGUMENT")] == 1
    # TensorFlow Serving writes it small for REST, and its users' dashboards ask for it so.
    for api, entrypoint in (("Predict", "GRPC"), ("predict", "REST")):
        assert page[latency, ("API", api), ("entrypoint", entrypoint), model] == 1
    assert page[":tensorflow:serving:runtime_latency_count", ("API", "Predict"), model, ("runtime", "TF1")] == 2
    queue = ":tensorflow:serving:batching_session:queuing_latency_count"
    assert page[queue, model, ("thread_pool_name", "linear")] == 2
    assert page["tfbigmodel_serving_batch_size_sum", model] == 3
    assert page["tfbigmodel_serving_resident_memory_bytes",] > 100e6
    state = ("tfbigmodel_serving_model_version_state", model, ("state", "AVAILABLE"), ("version", "3"))
    assert page[state] == 1


def test_the_access_log_has_a_line_for_each_request(after_requests):
    folder, _ = after_requests
    text = (folder / "access.log").read_text()
    assert "very-secret" not in text
    entries = [json.loads(line) for line in text.splitlines()]
    inferences = [entry for entry in entries if "monitoring" not in entry.get("path", "")]
    assert [(entry["entrypoint"], entry["code"]) for entry in inferences] == [
        ("GRPC", "OK"), ("GRPC", "FAILED_PRECONDITION"), ("REST", "OK"), ("REST", "INVALID_ARGUMENT"),
    ]  # fmt: skip
    first, _, third, _ = inferences
    assert first["request_id"] == "order-17"
    assert re.fullmatch("[0-9a-f]{16}-[0-9a-f]+", third["request_id"])
    for entry, rows in ((first, 2), (third, 1)):
        assert (entry["model"], entry["version"], entry["signature"]) == ("linear", 3, "serving_default")
        assert entry["batch_rows"] == rows
        assert 0 <= entry["queued_ms"] <= entry["latency_ms"] < 20_000
        assert entry["request_bytes"] > 10
        assert entry["response_bytes"] > 10
        assert entry["peer"]
    assert third["path"] == "/v1/models/linear:predict"
    assert third["http_status"] == 200


def test_the_samples_warm_the_next_server_up_and_can_be_learnt_from(after_requests, serve, put_version, exported):
    from serving.operations.request_records import records

    folder, _ = after_requests
    (path,) = (folder / "samples").glob("linear-*.tfrecord")
    assert b"very-secret" not in path.read_bytes()
    rows = [(record["inputs"], record["outputs"], record["version"]) for record in records(path)]
    assert rows == [({"x": [float(x)]}, {"y": [2.0 * x + 1]}, 3) for x in (1, 2, 3)]

    def add_warm_up(version):
        (version / "assets.extra").mkdir(exist_ok=True)
        shutil.copy(path, version / "assets.extra" / "tf_serving_warmup_requests")

    put_version(exported / "linear", folder / "warm", 3, change=add_warm_up)
    server, rest = serve(f"--model_base_path={folder}/warm")
    page = samples(rest)
    (warm,) = [value for key, value in page.items() if key[0] == ":tensorflow:serving:model_warmup_latency_count"]
    assert warm == 1
    assert server.stop() == 0
