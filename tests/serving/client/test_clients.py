"""Both clients against the shared server and against small ones: what is sent, and what comes back."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.client import AsyncClient, Client, ClientError
from serving.errors import Code

REPOSITORY = Path(__file__).resolve().parents[3]


def test_predict_arrays_and_lists(connect, server):
    client = connect(server.address)
    assert client.predict("linear", {"x": np.float32([[1], [2]])})["y"].tolist() == [[3.0], [5.0]]
    assert client.predict("linear", {"x": [[1], [2]]}, version=1)["y"].tolist() == [[3.0], [5.0]]
    assert client.predict("linear", {"x": [[1], [2]]}, label="stable")["y"].tolist() == [[3.0], [5.0]]
    answer = client.predict("text", {"text": np.array(["我喜欢", "b"])})
    assert answer["label"].tolist() == ["<我喜欢>".encode(), b"<b>"]
    assert answer["length"].tolist() == [3, 1]
    assert list(client.predict("text", {"text": ["a"]}, outputs=["length"])) == ["length"]
    assert client.predict("text", {"text": ["7.5"]}, signature="number")["number"].tolist() == [7.5]


def test_metadata_and_status(connect, server):
    client = connect(server.address)
    metadata = client.metadata("many")
    assert (metadata.model, metadata.version) == ("many", 1)
    signature = metadata.signatures["serving_default"]
    assert {name: (info.dtype, info.shape) for name, info in signature.inputs.items()} == {
        "age": ("float", (-1,)),
        "city": ("string", (-1,)),
        "pair": ("int32", (-1, 2)),
    }
    assert client.metadata("linear", label="stable").version == 1
    assert [(status.version, status.state, status.error_code) for status in client.status("linear")] == [
        (3, "AVAILABLE", "OK"),
        (1, "AVAILABLE", "OK"),
    ]
    assert [status.version for status in client.status("linear", 1)] == [1]


def test_errors(connect, server):
    client = connect(server.address)
    for call, code, text in (
        (lambda: client.predict("m", {"x": np.float32([[1]])}), Code.NOT_FOUND, "model not found on server"),
        (lambda: client.predict("linear", {"z": [1]}), Code.INVALID_ARGUMENT,
         "unknown input 'z'; the model's inputs are: x"),
        (lambda: client.predict("linear", {"x": ["a"]}), Code.INVALID_ARGUMENT, "input 'x' cannot be float: "),
        (lambda: client.predict("linear", {"x": np.array([object()])}), Code.INVALID_ARGUMENT, "input 'x': "),
        (lambda: client.predict("linear", {"x": [1]}, signature="s"), Code.INVALID_ARGUMENT,
         "model 'linear' has no signature 's'; it has: __saved_model_init_op, serving_default, slow"),
        (lambda: client.predict("linear", {"x": [1]}, version=1, label="stable"), Code.INVALID_ARGUMENT,
         "give a version or a label, not both: 1 and 'stable'"),
        (lambda: client.predict("linear", {"x": [1]}, label="none"), Code.INVALID_ARGUMENT,
         "INVALID_ARGUMENT: Unrecognized servable version label: none"),
        (lambda: client.predict("linear", {"x": [1]}, timeout=0), Code.INVALID_ARGUMENT,
         "timeout must be a number of seconds above 0, but 0 was given"),
        (lambda: client.predict("linear", {"x": [1]}, request_id="a\nb"), Code.INVALID_ARGUMENT,
         "request_id must be printable ASCII, but 'a\\nb' was given"),
        (lambda: client.predict("linear", {"microseconds": np.int64(10**6)}, "slow", timeout=0.3),
         Code.DEADLINE_EXCEEDED, "did not answer within 0.3 s"),
        (lambda: client.predict("linear", {"x": np.bool_([[1]])}), Code.INVALID_ARGUMENT,
         "INVALID_ARGUMENT: Expects arg[0] to be float but bool is provided"),
        (lambda: client.reload_config("model_config_list: 7"), Code.INVALID_ARGUMENT,
         "the configuration is no ModelServerConfig: 1:"),
    ):  # fmt: skip
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.code == code
        assert text in str(caught.value)
        assert caught.value.__cause__ is None  # a traceback shows nothing of gRPC's own
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_what_is_converted_follows_the_model(connect, small_server):
    """After an error the metadata is asked for again: a newer version may want other types."""
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2 as messages
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    dtypes = iter([types_pb2.DT_FLOAT, types_pb2.DT_INT32])

    def behave(number, path, request, context):
        import grpc

        if path.endswith("/Predict"):
            if number == 1:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
            return b""
        signatures, response = messages.SignatureDefMap(), messages.GetModelMetadataResponse()
        signatures.signature_def["serving_default"].inputs["x"].dtype = next(dtypes)
        response.metadata["signature_def"].Pack(signatures)
        return response.SerializeToString()

    server = small_server(behave)
    client = connect(server.target)
    with pytest.raises(ClientError, match="INVALID_ARGUMENT: no"):
        client.predict("m", {"x": [1]})
    client.predict("m", {"x": [1]})
    client.predict("m", {"x": [2]})
    sent = [PredictRequest.FromString(request) for path, request, *_ in server.calls if path.endswith("/Predict")]
    assert [proto.inputs["x"].dtype for proto in sent] == [types_pb2.DT_FLOAT, types_pb2.DT_INT32, types_pb2.DT_INT32]


def test_classify_and_regress(connect, small_server):
    import tensorflow as tf
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest, ClassificationResponse
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse

    def behave(number, path, request, context):
        if path == "/tensorflow.serving.PredictionService/Classify":
            response = ClassificationResponse()
            for score in (0.25, 0.75):
                response.result.classifications.add().classes.add(label="dog", score=score)
        else:
            response = RegressionResponse()
            response.result.regressions.add(value=1.5)
        return response.SerializeToString()

    server = small_server(behave)
    client = connect(server.target)
    features = {
        "text": "猫",
        "bytes": [b"\xff"],
        "whole": [1, 2],
        "half": np.float32([0.5]),
        "mixed": [1, 0.5],
        "no": [],
    }
    assert client.classify("m", [features, {"whole": True}]) == [[("dog", 0.25)], [("dog", 0.75)]]
    assert client.regress("m", [{"a": 1}], "s", context={"b": 2.0}, label="canary") == [1.5]
    first, second = ClassificationRequest.FromString(server.calls[0][1]).input.example_list.examples
    assert first == tf.train.Example.FromString(first.SerializeToString())
    kinds = {name: feature.WhichOneof("kind") for name, feature in first.features.feature.items()}
    assert kinds == {
        "text": "bytes_list", "bytes": "bytes_list", "whole": "int64_list", "half": "float_list",
        "mixed": "float_list", "no": None,
    }  # fmt: skip
    assert first.features.feature["text"].bytes_list.value[:] == ["猫".encode()]
    assert second.features.feature["whole"].int64_list.value[:] == [1]
    request = RegressionRequest.FromString(server.calls[1][1])
    assert (request.model_spec.signature_name, request.model_spec.version_label) == ("s", "canary")
    with_context = request.input.example_list_with_context
    assert with_context.context.features.feature["b"].float_list.value[:] == [2.0]
    assert with_context.examples[0].features.feature["a"].int64_list.value[:] == [1]
    with pytest.raises(ClientError, match=r"example 1, feature 'a': \['x', 1\] is neither text nor numbers"):
        client.classify("m", [{"a": ["x", 1]}])
    with pytest.raises(ClientError, match=f"example 1, feature 'a': {2**63} does not fit int64"):
        client.classify("m", [{"a": 2**63}])
    with pytest.raises(ClientError, match="the context, feature 'a': None is neither text nor numbers"):
        client.regress("m", [{}], context={"a": None})


def test_reload_config(connect, small_server):
    from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse

    response = ReloadConfigResponse()
    server = small_server(lambda number, path, request, context: response.SerializeToString())
    client = connect(server.target)
    client.reload_config("model_config_list { config { name: 'a' base_path: '/a' model_platform: 'tensorflow' } }")
    path, request, *_ = server.calls[0]
    assert path == "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    assert ReloadConfigRequest.FromString(request).config.model_config_list.config[0].base_path == "/a"
    response.status.error_code, response.status.error_message = 9, "no such label"
    with pytest.raises(ClientError, match="FAILED_PRECONDITION: no such label") as caught:
        client.reload_config("")
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_a_request_id_is_sent(connect, small_server):
    server = small_server()
    client = connect(server.target)
    client.predict("m", {}, request_id="order-17")
    client.predict("m", {})
    assert [metadata.get("x-request-id") for _, _, metadata, _ in server.calls] == ["order-17", None]


def test_many_threads_and_many_tasks(server):
    expected = [[[2.0 * number + 1]] for number in range(100)]
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: client.predict("linear", {"x": [[number]]})["y"].tolist(), range(100))
        assert list(answers) == expected

    async def ask():
        async with AsyncClient(server.address) as client:
            answers = await asyncio.gather(*(client.predict("linear", {"x": [[number]]}) for number in range(100)))
            return [answer["y"].tolist() for answer in answers]

    assert asyncio.run(ask()) == expected


def test_a_task_can_be_cancelled(server):
    async def ask():
        async with AsyncClient(server.address) as client:
            slow = {"microseconds": np.int64(500_000)}
            task = asyncio.create_task(client.predict("linear", slow, "slow"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await client.predict("linear", {"x": [[1]]}))["y"].item()

    assert asyncio.run(ask()) == 3


def test_the_library_does_not_import_tensorflow_and_does_not_spoil_it(server):
    script = f"""
import asyncio, sys
from serving.client import AsyncClient, Client
async def ask():
    async with AsyncClient({server.address!r}) as client:
        return (await client.predict("linear", {{"x": [[2]]}}))["y"].item()
print(Client({server.address!r}).predict("linear", {{"x": [[1]]}})["y"].item(), asyncio.run(ask()))
print("tensorflow" in sys.modules)
import tensorflow as tf
print(tf.constant(1.0).numpy() + Client({server.address!r}).predict("linear", {{"x": [[1]]}})["y"].item())
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert process.stdout.splitlines() == ["3.0 5.0", "False", "4.0"], process.stderr


def test_a_proxy_is_not_asked_for_this_machine(server):
    script = f"from serving.client import Client; print(Client({server.address!r}).status('many')[0].version)"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY,
        env={**os.environ, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""},
    )  # fmt: skip
    assert process.stdout == "1\n", process.stderr


def test_a_unix_socket_is_a_target(connect, server):
    socket = next(item for item in server.process.args if item.startswith("--grpc_socket_path=")).partition("=")[2]
    client = connect(f"unix:{socket}", token="secret")  # stays on this machine
    assert client.predict("linear", {"x": [[1]]})["y"].item() == 3
