"""Requests that no client would send, to a real server on both ports: it lives, takes no blame and still answers right.

What hypothesis finds it prints, with the seed to repeat it; the raw bytes come from a seed that the failure shows too.
"""

import http.client
import json
import random
import re
import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.client import Client

FUZZ = settings(
    max_examples=600,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
CLIENT_S_FAULTS = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED,
}  # fmt: skip


def grpc_seeds():
    """A valid request of every call that changes nothing, by its path."""
    predict = predict_pb2.PredictRequest(output_filter=["y"])
    predict.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([[1], [2]])))
    classify = classification_pb2.ClassificationRequest()
    for number in range(2):
        classify.input.example_list.examples.add().features.feature["x"].float_list.value.append(number)
    regress = regression_pb2.RegressionRequest(input=classify.input)
    several = inference_pb2.MultiInferenceRequest(input=classify.input)
    several.tasks.add(method_name="tensorflow/serving/classify").model_spec.name = "linear"
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    status = get_model_status_pb2.GetModelStatusRequest()
    for request in (predict, classify, regress, metadata, status):
        request.model_spec.name = "linear"
    requests = {
        "Predict": predict, "Classify": classify, "Regress": regress, "MultiInference": several,
        "GetModelMetadata": metadata,
    }  # fmt: skip
    found = {PREDICTION + name: request for name, request in requests.items()} | {MODEL + "GetModelStatus": status}
    return {path: request.SerializeToString() for path, request in found.items()}


SEEDS = grpc_seeds()


@pytest.fixture(scope="module")
def fuzzed(run_server, exported, put_version, tmp_path_factory):
    """A server of its own; afterwards it must be well."""
    base = tmp_path_factory.mktemp("fuzz") / "linear"
    put_version(exported / "linear", base, 1)
    server = run_server(
        "--port=0", "--rest_api_port=-1", "--model_name=linear", f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=0.2", "--max_num_load_retries=0", "--rest_api_timeout_in_ms=3000",
    ).wait_ready()  # fmt: skip
    server.rest = server.process.stdout.readline().removeprefix("Exporting HTTP/REST API at:").split()[0]
    yield server
    with Client(server.address) as client:
        assert client.predict("linear", {"x": np.float32([[2]])})["y"].item() == 5.0
    status, body = ask(server.rest, "POST", "/v1/models/linear:predict", b'{"instances": [[2.0]]}')
    assert (status, json.loads(body)) == (200, {"predictions": [[5.0]]})
    assert "Traceback" not in server.log.read_text()
    assert server.stop() == 0


def ask(address, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def changed(source, data):
    """The data with a few bytes changed, removed, repeated or added."""
    data = bytearray(data)
    for _ in range(source.randrange(5)):
        start = source.randrange(len(data) + 1)
        end = start + source.choice((1, 2, 4, 30))
        choices = (b"", source.randbytes(3), bytes(data[start:end]) * 20, b"\xff" * 9 + b"\x01", b"\r\n", b"\0", b"[[{")
        data[start:end] = source.choice(choices)
    return bytes(data)


@pytest.fixture(scope="module")
def calls(fuzzed):
    with grpc.insecure_channel(fuzzed.address) as channel:
        yield {path: channel.unary_unary(path) for path in (*SEEDS, MODEL + "HandleReloadConfigRequest")}


def code_of(call, message):
    try:
        call(message, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("path", SEEDS)
@FUZZ
@given(number=st.integers(0, 2**32))
def test_damaged_grpc_requests(calls, path, number):
    message = changed(random.Random(number), SEEDS[path])
    assert code_of(calls[path], message) in CLIENT_S_FAULTS


@FUZZ
@given(message=st.binary(max_size=200), name=st.sampled_from([*SEEDS, MODEL + "HandleReloadConfigRequest"]))
def test_noise_to_every_grpc_call(calls, message, name):
    if name.endswith("HandleReloadConfigRequest"):
        message = b"\x0a\x7f" + message[:100]  # cut short: a valid configuration would unload the model
    if message:
        assert code_of(calls[name], message) in CLIENT_S_FAULTS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just({"b64": "YQ=="}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
PREDICT = st.fixed_dictionaries({}, optional={
    "instances": JSON | st.lists(st.lists(st.floats(width=32), min_size=1, max_size=1), max_size=3),
    "inputs": JSON, "signature_name": st.sampled_from(["serving_default", "", "nix"]) | JSON, "examples": JSON,
})  # fmt: skip


@FUZZ
@given(
    body=PREDICT.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=50),
    verb=st.sampled_from(["predict", "classify", "regress"]),
    number=st.integers(0, 2**32),
    damaged=st.booleans(),
)
def test_json_of_any_kind(fuzzed, body, verb, number, damaged):
    data = body.encode("utf-8", "surrogatepass")
    data = changed(random.Random(number), data) if damaged else data
    status, answer = ask(fuzzed.rest, "POST", f"/v1/models/linear:{verb}", data)
    assert status in (200, 400), answer
    assert status == 200 or "error" in json.loads(answer)


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
    path=st.lists(
        st.sampled_from(["/", "v1", "models", "linear", "versions", "1", "labels", ":", "predict", "metadata", "%"])
        | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=8),
        max_size=9,
    ).map(lambda parts: "/" + "".join(parts)),
    headers=st.dictionaries(
        st.sampled_from(["Accept-Encoding", "Content-Encoding", "Origin", "X-Request-Id", "Authorization", "X"]),
        st.sampled_from(["gzip", "*", "", "gzip;q=0"]) | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
        max_size=3,
    ),
)  # fmt: skip
def test_paths_and_headers_of_any_kind(fuzzed, method, path, headers):
    status, answer = ask(fuzzed.rest, method, path, b"{}" if method == "POST" else b"", **headers)
    assert 200 <= status < 500, answer


def exchange(address, data):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionError:
            return b""


@FUZZ
@given(number=st.integers(0, 2**32))
def test_any_bytes_on_the_rest_port(fuzzed, number):
    source = random.Random(number)
    plain = b'POST /v1/models/linear:predict HTTP/1.1\r\nContent-Length: 22\r\n\r\n{"instances": [[1.0]]}'
    chunks = b"POST /v1/models/linear:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks += b'10\r\n{"instances": [[\r\n6;x=y\r\n1.0]]}\r\n0\r\nA: b\r\n\r\n'
    data = source.choice((plain, chunks, plain + chunks))
    answer = exchange(fuzzed.rest, changed(source, data) if number else data)
    assert not answer or re.match(rb"HTTP/1\.1 [24]\d\d ", answer), answer
    assert b"HTTP/1.1 5" not in answer


@FUZZ
@given(number=st.integers(0, 2**32))
def test_any_bytes_on_the_grpc_port(fuzzed, number):
    source = random.Random(number)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
    headers = bytes.fromhex("00000401040000000182868441") + bytes.fromhex("000005000100000001") + b"\0\0\0\0\0"
    exchange(fuzzed.address, changed(source, preface + headers))
