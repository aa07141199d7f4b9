"""Predict against a real server, with TensorFlow Serving's own generated client: every row of the contract's table."""

import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2


def make_request(model=None, inputs=None, signature="", version=None, label=None, outputs=()):
    request = predict_pb2.PredictRequest()
    if model is not None:
        request.model_spec.name = model
    if signature:
        request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, proto in (inputs or {}).items():
        request.inputs[name].CopyFrom(proto)
    request.output_filter.extend(outputs)
    return request


def floats(*values):
    return tf.make_tensor_proto(np.float32([[value] for value in values]))


def strings(*values):
    return tf.make_tensor_proto(list(values), tf.string)


X = {"x": floats(1.0, 2.5)}
MANY = {
    "age": tf.make_tensor_proto([17.5, 40.0], tf.float32),
    "city": strings("Paris", "北京"),
    "pair": tf.make_tensor_proto([[1, 2], [3, -40]], tf.int32),
}


def test_answers_and_names_what_answered(stub):
    response = stub.Predict(make_request("linear", X))
    assert list(response.outputs["y"].float_val) == [3.0, 6.0]
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [2, 1]
    assert not response.outputs["y"].tensor_content
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("linear", 3, "serving_default")


def test_version_zero_is_a_version_and_leading_zeros_are_not_part_of_it(stub):
    assert stub.Predict(make_request("zero", X, version=0)).model_spec.version.value == 0
    assert stub.Predict(make_request("text", {"text": strings("a")}, version=123)).model_spec.version.value == 123


def test_a_version_or_a_label_chooses_and_the_label_is_not_echoed(stub):
    assert stub.Predict(make_request("linear", X, version=1)).model_spec.version.value == 1
    spec = stub.Predict(make_request("linear", X, label="stable")).model_spec
    assert spec.version.value == 1
    assert spec.WhichOneof("version_choice") == "version"


def test_several_dtypes_in_and_out(stub):
    outputs = stub.Predict(make_request("many", MANY)).outputs
    assert list(outputs["older"].float_val) == [18.5, 41.0]
    assert list(outputs["city"].string_val) == [b"Paris", "北京".encode()]
    assert list(outputs["sum"].int_val) == [3, -37]
    assert list(outputs["adult"].bool_val) == [False, True]
    assert list(outputs["z"].int_val) == [7]
    assert not outputs["z"].tensor_shape.dim


def test_the_filter_chooses_outputs(stub):
    assert set(stub.Predict(make_request("many", MANY, outputs=["sum", "city"])).outputs) == {"sum", "city"}


def test_a_tf1_model_is_served(stub):
    assert list(stub.Predict(make_request("tf1", X)).outputs["y"].float_val) == [3.0, 6.0]


def test_tensor_content_and_short_values(stub):
    content = tensor_pb2.TensorProto(dtype=1, tensor_content=np.float32([4, 5]).tobytes())
    short = tensor_pb2.TensorProto(dtype=1, float_val=[1.0, 2.0])
    empty = tensor_pb2.TensorProto(dtype=1)
    for proto, expected in ((content, [9, 11]), (short, [3, 5, 5]), (empty, [1, 1])):
        for size in (len(expected), 1):
            proto.tensor_shape.dim.add(size=size)
        assert list(stub.Predict(make_request("linear", {"x": proto})).outputs["y"].float_val) == expected


def test_a_compatible_shape_that_is_not_the_signature_s_succeeds(stub):
    proto = tf.make_tensor_proto(np.float32([1, 2, 3]))
    assert list(stub.Predict(make_request("linear", {"x": proto})).outputs["y"].float_val) == [3, 5, 7]


def test_an_empty_batch(stub):
    response = stub.Predict(make_request("linear", {"x": tf.make_tensor_proto(np.zeros((0, 1), np.float32))}))
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [0, 1]


BAD_SHAPE = tensor_pb2.TensorProto(dtype=1, tensor_content=b"12345")
BAD_SHAPE.tensor_shape.dim.add(size=1)
HUGE = tensor_pb2.TensorProto(dtype=1, float_val=[1.0])
HUGE.tensor_shape.dim.add(size=2**40)

CODE = grpc.StatusCode
ERRORS = {
    "no model_spec": (make_request(), CODE.INVALID_ARGUMENT, "Missing ModelSpec"),
    "empty name": (make_request(""), CODE.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    "empty name, version": (make_request(version=1), CODE.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    "unknown label": (
        make_request("linear", X, label="L"), CODE.INVALID_ARGUMENT, "Unrecognized servable version label: L"),
    "label of an unknown model": (
        make_request("m", X, label="L"), CODE.INVALID_ARGUMENT, "Unrecognized servable version label: L"),
    "unknown model": (make_request("m", X), CODE.NOT_FOUND, "Servable not found for request: Latest(m)"),
    "unknown version": (
        make_request("linear", X, version=7), CODE.NOT_FOUND, "Servable not found for request: Specific(linear, 7)"),
    "unknown version of an unknown model": (
        make_request("m", X, version=7), CODE.NOT_FOUND, "Servable not found for request: Specific(m, 7)"),
    "unknown signature": (
        make_request("linear", X, signature="s"),
        CODE.FAILED_PRECONDITION, 'Serving signature key "s" not found.'),
    "no inputs": (
        make_request("linear"), CODE.INVALID_ARGUMENT,
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."),
    "extra input": (
        make_request("linear", {**X, "a": floats(1)}), CODE.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({a,x}) != len({x}). Sent extra: {a}. Missing but required: {}."),
    "some missing": (
        make_request("many", {"age": floats(1)}), CODE.INVALID_ARGUMENT,
        "input size does not match signature: 1!=3 len({age}) != len({age,city,pair}). Sent extra: {}. "
        "Missing but required: {city,pair}."),
    "wrong name": (
        make_request("tf1", {"z": floats(1)}), CODE.INVALID_ARGUMENT,
        "Signature input alias: x(feed name: x:0) not found in request and no default value provided. Inputs expected "
        "to be in the request {z}, or default input alias set: "),
    "bad tensor": (make_request("linear", {"x": BAD_SHAPE}), CODE.INVALID_ARGUMENT, "tensor parsing error: x"),
    "no dtype": (
        make_request("linear", {"x": tensor_pb2.TensorProto()}), CODE.INVALID_ARGUMENT, "tensor parsing error: x"),
    "huge tensor": (make_request("linear", {"x": HUGE}), CODE.INVALID_ARGUMENT, "tensor parsing error: x"),
    "bad filter": (
        make_request("linear", X, outputs=["z"]), CODE.INVALID_ARGUMENT,
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
    "repeated filter": (
        make_request("linear", X, outputs=["y", "y"]), CODE.INVALID_ARGUMENT, "duplicate output tensor alias: y"),
    "wrong dtype": (
        make_request("linear", {"x": tf.make_tensor_proto([[True]])}), CODE.INVALID_ARGUMENT,
        "Expects arg[0] to be float but bool is provided"),
    "text for a number": (
        make_request("linear", {"x": strings("a")}), CODE.INVALID_ARGUMENT,
        "Expects arg[0] to be float but string is provided"),
    "wrong dtype of the second input": (
        make_request("many", {**MANY, "city": floats(1)}), CODE.INVALID_ARGUMENT,
        "Expects arg[1] to be string but float is provided"),
    # The order of the checks.
    "label before model": (
        make_request("m", label="L", signature="s"), CODE.INVALID_ARGUMENT, "Unrecognized servable version label: L"),
    "signature before inputs": (
        make_request("linear", signature="s"), CODE.FAILED_PRECONDITION, 'Serving signature key "s" not found.'),
    "count before parsing": (
        make_request("linear", {"x": BAD_SHAPE, "a": floats(1)}), CODE.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({a,x}) != len({x}). Sent extra: {a}. Missing but required: {}."),
    "parsing before filter": (
        make_request("linear", {"x": BAD_SHAPE}, outputs=["z"]), CODE.INVALID_ARGUMENT, "tensor parsing error: x"),
    "filter before dtype": (
        make_request("linear", {"x": strings("a")}, outputs=["z"]), CODE.INVALID_ARGUMENT,
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_have_the_contract_s_code_and_text(stub, case):
    request, code, text = ERRORS[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request)
    assert (caught.value.code(), caught.value.details()) == (code, text)


def test_an_op_s_error_keeps_its_code_and_text(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(make_request("text", {"text": strings("abc")}, signature="number"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "StringToNumberOp could not correctly convert string: abc" in caught.value.details()


def test_a_wrong_shape_is_the_op_s_error(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(make_request("many", {**MANY, "pair": tf.make_tensor_proto(5, tf.int32)}))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("letter", ["z", "糟"])
def test_long_errors_are_cut(stub, letter):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(make_request(letter * 3000, X))
    text = caught.value.details()
    assert text.startswith(f"Servable not found for request: Latest({letter}")
    assert text.endswith(letter + "...TRUNCATED")
    assert 1020 < len(text.removesuffix("...TRUNCATED").encode()) <= 1024


def test_messages_above_grpc_s_usual_limit_of_4_mb(server, client):
    answer = client.predict("linear", {"x": np.full((2_000_000, 1), 3.0, np.float32)})
    assert answer["y"].shape == (2_000_000, 1)
    assert (answer["y"] == 7).all()


def test_many_clients_at_once_each_get_their_own_answer(server, client):
    wrong = []

    def ask(number):
        for step in range(40):
            x = np.float32([[number], [step]])
            if not np.array_equal(client.predict("linear", {"x": x})["y"], 2 * x + 1):
                wrong.append((number, step))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bytes_that_are_no_request_do_not_hurt(server, client):
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError):
            call(b"\xff\xff\xff")
    assert client.predict("linear", {"x": np.float32([[1]])})["y"].item() == 3.0
