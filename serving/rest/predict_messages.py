"""REST requests and their answers as gRPC's messages, which the request log keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from serving.tensors import to_proto_bytes


def predict_messages(
    spec: Any, inputs: Mapping[str, np.ndarray], version: int, outputs: Mapping[str, np.ndarray]
) -> tuple[Any, Any]:
    """A Predict request and its answer.

    Args:
        spec: The `ModelSpec` that was asked for.
        inputs: `{input name: array}`.
        version: The version that answered.
        outputs: `{output name: array}`.

    Returns:
        A `PredictRequest` and a `PredictResponse`, as if they had come and gone over gRPC.
    """
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    request.model_spec.CopyFrom(spec)
    response.model_spec.name = spec.name
    response.model_spec.version.value = version
    response.model_spec.signature_name = spec.signature_name
    for name, array in inputs.items():
        request.inputs[name].MergeFromString(to_proto_bytes(array))
    for name, array in outputs.items():
        response.outputs[name].MergeFromString(to_proto_bytes(np.asarray(array)))
    return request, response
