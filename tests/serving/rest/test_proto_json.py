"""Proto JSON: the white space is pinned in test_api.py; here that nothing is lost."""

import json

import pytest
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.rest.proto_json import metadata_body, status_body


@pytest.fixture
def response():
    """Signatures with one of everything that a TensorInfo can be."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.method_name = 'a<b>&é"\\'
    signature.inputs["z"].name = "z:0"
    signature.inputs["z"].dtype = 1
    signature.inputs["a"].coo_sparse.values_tensor_name = "values:0"
    signature.inputs["a"].tensor_shape.dim.add(size=-1, name="batch")
    composite = signature.outputs["y"].composite_tensor
    composite.components.add(name="y:0", dtype=9)
    composite.type_spec.type_spec_class = 2
    composite.type_spec.type_state.tuple_value.values.add().int64_value = 2**60
    composite.type_spec.type_state.tuple_value.values.add().none_value.SetInParent()
    signature.defaults["d"].float_val.append(1.5)
    signature.defaults["d"].string_val.append(b"\xff\x00")
    signatures.signature_def["empty"].SetInParent()
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = "m"
    response.model_spec.version.value = 2**53 + 1
    response.metadata["signature_def"].Pack(signatures)
    return response


def test_metadata_is_read_back(response):
    body = metadata_body(response)
    answer = json.loads(body)
    assert answer["model_spec"] == {"name": "m", "version": "9007199254740993", "signature_name": ""}
    read = json_format.ParseDict(answer["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap())
    sent = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(sent)
    assert read == sent
    # As the C++ printer: no angle brackets, and text as it is.
    assert b'a\\u003cb\\u003e&\xc3\xa9\\"\\\\' in body
    assert b"<" not in body


def test_fields_stand_in_the_order_of_their_numbers(response):
    signatures = json.loads(metadata_body(response))["metadata"]["signature_def"]["signature_def"]
    assert list(signatures) == ["empty", "serving_default"]
    names = [field.name for field in meta_graph_pb2.SignatureDef.DESCRIPTOR.fields]
    assert list(signatures["serving_default"]) == names
    assert list(signatures["serving_default"]["inputs"]) == ["a", "z"]
    assert list(signatures["serving_default"]["inputs"]["a"]) == ["dtype", "tensor_shape", "coo_sparse"]


def test_status_is_read_back():
    response = get_model_status_pb2.GetModelStatusResponse()
    row = response.model_version_status.add(version=2**62, state=50)
    row.status.error_code, row.status.error_message = 14, "gone\n"
    response.model_version_status.add()
    body = status_body(response)
    assert json_format.Parse(body, get_model_status_pb2.GetModelStatusResponse()) == response
    assert json.loads(body)["model_version_status"][0] == {
        "version": str(2**62), "state": "END", "status": {"error_code": "UNAVAILABLE", "error_message": "gone\n"},
    }  # fmt: skip
    assert status_body(get_model_status_pb2.GetModelStatusResponse()) == b'{\n "model_version_status": []\n}\n'
