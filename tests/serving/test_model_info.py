"""GetModelMetadata, GetModelStatus and the health service of a real server."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
)


def metadata_request(model=None, fields=("signature_def",), **spec):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if model is not None:
        request.model_spec.name = model
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    return request


@pytest.fixture(scope="module")
def models_stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def test_metadata_holds_the_signatures(stub):
    response = stub.GetModelMetadata(metadata_request("many"))
    assert (response.model_spec.name, response.model_spec.version.value) == ("many", 1)
    assert response.model_spec.signature_name == ""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert {name: info.dtype for name, info in signature.inputs.items()} == {"age": 1, "city": 7, "pair": 3}
    assert [dim.size for dim in signature.inputs["pair"].tensor_shape.dim] == [-1, 2]


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_message", "code", "text"),
    [
        (metadata_request(), INVALID, "Missing ModelSpec"),
        (
            metadata_request("many", ()),
            INVALID,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata_request("many", ("f",)), INVALID, "Metadata field f is not supported"),
        (metadata_request("m", ("f",)), INVALID, "Metadata field f is not supported"),
        (metadata_request(""), INVALID, "ModelSpec has no name specified."),
        (metadata_request("m"), NOT_FOUND, "Servable not found for request: Latest(m)"),
        (metadata_request("many", version=7), NOT_FOUND, "Servable not found for request: Specific(many, 7)"),
    ],
)
def test_metadata_errors(stub, request_message, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request_message)
    assert (caught.value.code(), caught.value.details()) == (code, text)


def status_request(model=None, version=None, label=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    if model is not None:
        request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return request


def test_status_lists_versions_from_the_highest_and_ignores_labels(models_stub):
    for request in (status_request("linear"), status_request("linear", label="no such label")):
        rows = models_stub.GetModelStatus(request).model_version_status
        assert [(row.version, row.state, row.status.error_code, row.status.error_message) for row in rows] == [
            (3, 30, 0, ""),
            (1, 30, 0, ""),
        ]
    (row,) = models_stub.GetModelStatus(status_request("linear", 1)).model_version_status
    assert row.version == 1


@pytest.mark.parametrize(
    ("request_message", "code", "text"),
    [
        (status_request(), INVALID, "Missing ModelSpec"),
        (status_request("m"), NOT_FOUND, "Could not find any versions of model m"),
        (status_request("m", 7), NOT_FOUND, "Could not find version 7 of model m"),
        (status_request("linear", 7), NOT_FOUND, "Could not find version 7 of model linear"),
    ],
)
def test_status_errors(models_stub, request_message, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        models_stub.GetModelStatus(request_message)
    assert (caught.value.code(), caught.value.details()) == (code, text)


@pytest.mark.parametrize("service", ["", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"])
def test_health(server, service):
    with grpc.insecure_channel(server.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
