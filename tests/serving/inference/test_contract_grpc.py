"""TensorFlow Serving's own generated clients against a real server with its own kind of models: the gRPC contract.

What Predict, status and metadata alone can show is in the files beside this one; serving/CONTRACT.md lists every row.
"""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

CODE = grpc.StatusCode
CLASSIFY, REGRESS, PREDICT = (f"tensorflow/serving/{method}" for method in ("classify", "regress", "predict"))
SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService", "grpc.health.v1.Health")


@pytest.fixture(scope="module")
def config(exported, exported_with_examples, put_version, tmp_path_factory):
    """A config file: `half_plus_two` (versions 1 and 123, the label `canary` on 1), `odd` and `linear` (version 0)."""
    folder = tmp_path_factory.mktemp("contract")
    for version in ("1", "00000123"):
        put_version(exported_with_examples / "half_plus_two", folder / "half_plus_two", version)
    put_version(exported_with_examples / "odd", folder / "odd", 1)
    put_version(exported / "linear", folder / "linear", 0)
    config = folder / "models.config"
    config.write_text(
        "model_config_list {"
        f" config {{ name: 'half_plus_two' base_path: '{folder}/half_plus_two' model_platform: 'tensorflow'"
        "  model_version_policy { all {} } version_labels { key: 'canary' value: 1 } }"
        f" config {{ name: 'odd' base_path: '{folder}/odd' model_platform: 'tensorflow' }}"
        f" config {{ name: 'linear' base_path: '{folder}/linear' model_platform: 'tensorflow' }} }}"
    )
    return config


@pytest.fixture(scope="module")
def channel(run_server, config):
    server = run_server("--port=0", f"--model_config_file={config}").wait_ready()
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def x_is_2(example):
    return [example(x=[2.0])]


def fill_spec(spec, model=None, signature="", version=None, label=None):
    if model is not None:
        spec.name = model
    spec.signature_name = signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label


def make(kind, examples=(), **spec):
    """A request of the class with these examples; `make(kind)` has no model_spec at all."""
    request = kind()
    if spec:
        fill_spec(request.model_spec, **spec)
    request.input.example_list.examples.extend(examples)
    return request


def make_tasks(*tasks, examples=(), **spec):
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        fill_spec(task.model_spec, signature=signature, **{"model": "half_plus_two", **spec})
    request.input.example_list.examples.extend(examples)
    return request


def error(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return caught.value.code(), caught.value.details()


def spec_of(message):
    return message.name, message.version.value, message.signature_name


def test_classify(prediction, example):
    sent = example(**{"class": ["猫".encode(), b"dog"], "score": [0.25, 0.75]})
    response = prediction.Classify(make(classification_pb2.ClassificationRequest, [sent], model="odd"))
    assert [(one.label, one.score) for one in response.result.classifications[0].classes] == [
        ("猫", 0.25),
        ("dog", 0.75),
    ]
    assert spec_of(response.model_spec) == ("odd", 1, "serving_default")


def test_regress(prediction, example):
    examples = [example(x=[value]) for value in (2.0, -4.0)]
    request = make(regression_pb2.RegressionRequest, examples, model="half_plus_two", signature="regress_x_to_y")
    response = prediction.Regress(request)
    assert [regression.value for regression in response.result.regressions] == [3.0, 0.0]
    assert spec_of(response.model_spec) == ("half_plus_two", 123, "regress_x_to_y")


def test_multi_inference(prediction, x_is_2):
    request = make_tasks(("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY), examples=x_is_2)
    first, second = prediction.MultiInference(request).results
    assert [regression.value for regression in first.regression_result.regressions] == [3.0]
    assert [one.score for one in second.classification_result.classifications[0].classes] == [3.0]
    assert spec_of(first.model_spec) == ("half_plus_two", 123, "regress_x_to_y")
    assert spec_of(second.model_spec) == ("half_plus_two", 123, "classify_x_to_y")


def test_a_version_or_a_label_chooses_for_every_call_and_the_label_is_not_echoed(prediction, x_is_2):
    for choice in ({"version": 1}, {"label": "canary"}):
        spec = {"model": "half_plus_two", **choice}
        for response in (
            prediction.Regress(make(regression_pb2.RegressionRequest, x_is_2, signature="regress_x_to_y", **spec)),
            prediction.Classify(
                make(classification_pb2.ClassificationRequest, x_is_2, signature="classify_x_to_y", **spec)
            ),
            prediction.MultiInference(make_tasks(("regress_x_to_y", REGRESS), examples=x_is_2, **choice)).results[0],
        ):
            assert response.model_spec.version.value == 1
            assert response.model_spec.WhichOneof("version_choice") == "version"


def test_a_context_is_shared_by_the_examples(prediction, example):
    request = make(regression_pb2.RegressionRequest, model="half_plus_two", signature="regress_x_to_y")
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(example(x=[2.0]))
    listed.examples.extend([tf.train.Example(), example(x=[10.0])])
    assert [regression.value for regression in prediction.Regress(request).result.regressions] == [3.0, 7.0]


SPEC_ERRORS = {
    "no model_spec": ({}, CODE.INVALID_ARGUMENT, "Missing ModelSpec"),
    "empty name": ({"model": ""}, CODE.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    "unknown label": (
        {"model": "odd", "label": "L"}, CODE.INVALID_ARGUMENT, "Unrecognized servable version label: L"),
    "unknown model": ({"model": "m"}, CODE.NOT_FOUND, "Servable not found for request: Latest(m)"),
    "unknown version": (
        {"model": "odd", "version": 7}, CODE.NOT_FOUND, "Servable not found for request: Specific(odd, 7)"),
    "unknown signature": (
        {"model": "odd", "signature": "s"}, CODE.INVALID_ARGUMENT, "No signature was found with the name: s"),
    "no examples": ({"model": "odd", "signature": "both"}, CODE.INVALID_ARGUMENT, "Input is empty."),
    "two inputs": ({"model": "odd", "signature": "two"}, CODE.INVALID_ARGUMENT, "Expected one input Tensor."),
}  # fmt: skip
# The signatures that the words above stand for in the model `odd`.
SIGNATURES = {
    "Classify": {"both": "serving_default", "two": "two_inputs"},
    "Regress": {"both": "regress", "two": "regress_two_inputs"},
}


@pytest.mark.parametrize("case", SPEC_ERRORS)
@pytest.mark.parametrize(
    ("call", "kind"),
    [("Classify", classification_pb2.ClassificationRequest), ("Regress", regression_pb2.RegressionRequest)],
)
def test_errors_of_classify_and_regress(prediction, call, kind, case):
    spec, code, text = SPEC_ERRORS[case]
    if "signature" in spec:
        spec = {**spec, "signature": SIGNATURES[call].get(spec["signature"], spec["signature"])}
    assert error(getattr(prediction, call), make(kind, **spec)) == (code, text)


def test_a_regression_has_one_output(prediction):
    request = make(regression_pb2.RegressionRequest, model="odd", signature="regress_two_outputs")
    assert error(prediction.Regress, request) == (CODE.INVALID_ARGUMENT, "Expected one output Tensor.")


Y = ("regress_x_to_y", REGRESS)
MULTI_ERRORS = {
    "no task": (make_tasks(), CODE.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    "no name": (make_tasks(Y, model=""), CODE.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    "unknown model": (make_tasks(Y, model="m"), CODE.NOT_FOUND, "Servable not found for request: Latest(m)"),
    "unknown version": (
        make_tasks(Y, version=7), CODE.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 7)"),
    "unknown label": (
        make_tasks(Y, label="L"), CODE.INVALID_ARGUMENT, "Unrecognized servable version label: L"),
    "twice": (make_tasks(Y, Y), CODE.INVALID_ARGUMENT, "Duplicate evaluation of signature: regress_x_to_y"),
    "unknown signature": (
        make_tasks(("s", REGRESS)), CODE.INVALID_ARGUMENT, "Requested signature not found in model graph: s"),
    "predict": (
        make_tasks(("serving_default", PREDICT)),
        CODE.UNIMPLEMENTED, "Unsupported signature method_name: tensorflow/serving/predict"),
    "no examples": (make_tasks(Y), CODE.INVALID_ARGUMENT, "Input is empty."),
}  # fmt: skip


@pytest.mark.parametrize("case", MULTI_ERRORS)
def test_errors_of_multi_inference(prediction, case):
    request, code, text = MULTI_ERRORS[case]
    assert error(prediction.MultiInference, request) == (code, text)


def test_predict_runs_signatures_of_every_method(prediction, x_is_2):
    request = predict_pb2.PredictRequest()
    fill_spec(request.model_spec, "half_plus_two", "regress_x_to_y")
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([sent.SerializeToString() for sent in x_is_2]))
    response = prediction.Predict(request)
    assert list(response.outputs["outputs"].float_val) == [3.0]
    assert spec_of(response.model_spec) == ("half_plus_two", 123, "regress_x_to_y")


def test_metadata_keeps_the_method_names_of_tf1_signatures(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    fill_spec(request.model_spec, "half_plus_two", label="canary")
    response = prediction.GetModelMetadata(request)
    assert spec_of(response.model_spec) == ("half_plus_two", 1, "")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    assert {key: signature.method_name for key, signature in signatures.signature_def.items()} == {
        "serving_default": PREDICT,
        "regress_x_to_y": REGRESS,
        "regress_x_to_y2": REGRESS,
        "regress_x2_to_y3": REGRESS,
        "classify_x_to_y": CLASSIFY,
    }


def test_status_of_a_version_folder_with_leading_zeros(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    fill_spec(request.model_spec, "half_plus_two")
    rows = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request).model_version_status
    assert [(row.version, row.state) for row in rows] == [(123, 30), (1, 30)]


def test_reload(channel, config):
    reload_config = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
    assert error(reload_config, model_management_pb2.ReloadConfigRequest()) == (
        CODE.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported",
    )
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(config.read_text(), request.config)
    response = reload_config(request)
    assert (response.status.error_code, response.status.error_message) == (0, "")
    request.config.model_config_list.config[0].version_labels["canary"] = 7
    assert error(reload_config, request) == (
        CODE.FAILED_PRECONDITION,
        "Request to assign label to version 7 of model half_plus_two, which is not currently available for inference",
    )


def linear_request(**values):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "linear"
    for name, value in values.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_a_deadline_ends_the_wait(prediction):
    request = linear_request(microseconds=np.int64(2_000_000))
    request.model_spec.signature_name = "slow"
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(request, timeout=0.2)
    assert caught.value.code() == CODE.DEADLINE_EXCEEDED
    assert list(prediction.Predict(linear_request(x=np.float32([[2]]))).outputs["y"].float_val) == [5.0]


def test_reflection_names_the_services_and_their_messages(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(SERVICES) <= set(database.get_services())
    calls = {}
    for full_name in SERVICES:
        file = database.FindFileContainingSymbol(full_name)
        (service,) = (service for service in file.service if full_name == f"{file.package}.{service.name}")
        calls[full_name] = {method.name for method in service.method}
    assert calls[SERVICES[0]] == {"Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"}
    assert calls[SERVICES[1]] == {"GetModelStatus", "HandleReloadConfigRequest"}
    assert {"Check", "Watch"} <= calls[SERVICES[2]]
    for message in ("tensorflow.serving.PredictRequest", "tensorflow.TensorProto", "tensorflow.Example"):
        assert database.FindFileContainingSymbol(message).package == message.rpartition(".")[0]


def test_reflection_of_what_is_not_there(channel):
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    assert answer.error_response.error_code == CODE.NOT_FOUND.value[0]


def test_health_of_the_server_its_services_and_of_others(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", *SERVICES[:2]):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    code, _ = error(health.Check, health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert code == CODE.NOT_FOUND


def test_a_call_that_nobody_serves(channel):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/NoSuchCall")
    assert error(call, b"")[0] == CODE.UNIMPLEMENTED


@pytest.mark.parametrize(
    "call", ["PredictionService/Predict", "PredictionService/Classify", "PredictionService/Regress",
             "PredictionService/MultiInference", "PredictionService/GetModelMetadata", "ModelService/GetModelStatus",
             "ModelService/HandleReloadConfigRequest"],
)  # fmt: skip
def test_bytes_that_are_no_message_are_the_client_s_mistake(channel, call):
    assert error(channel.unary_unary(f"/tensorflow.serving.{call}"), b"\xff\xff\xff")[0] == CODE.INVALID_ARGUMENT
