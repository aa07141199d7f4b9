"""Signatures to read requests by."""

import pytest
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.errors import Code, ServingError
from serving.rest.json_request import parse_predict


def make_signature(**dtypes):
    """A SignatureDef with inputs of these dtypes: `make_signature(x="FLOAT")`."""
    signature = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        signature.inputs[name].dtype = types_pb2.DataType.Value(f"DT_{dtype}")
        signature.inputs[name].name = f"{name}:0"
    return signature


@pytest.fixture(scope="session")
def read():
    """Reads a Predict body for a model with one signature: `read(body, x="FLOAT")`."""

    def read(body, **dtypes):
        body = body if isinstance(body, bytes) else body.encode()
        return parse_predict(body, {"serving_default": make_signature(**dtypes)})

    return read


@pytest.fixture(scope="session")
def refusal(read):
    """The text of the INVALID_ARGUMENT (or another code) that a Predict body is refused with."""

    def refusal(body, code=Code.INVALID_ARGUMENT, **dtypes):
        with pytest.raises(ServingError) as caught:
            read(body, **dtypes)
        assert caught.value.code == code
        return caught.value.message

    return refusal
