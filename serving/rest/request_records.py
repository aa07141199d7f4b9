"""REST requests and their answers as the PredictionLog records that the request log keeps, as gRPC's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import classification_pb2, prediction_log_pb2

from serving.tensors import to_proto_bytes


def predict_record(
    asked: Any, inputs: Mapping[str, np.ndarray], answered: Any, outputs: Mapping[str, np.ndarray]
) -> Any:
    """A Predict request and its answer.

    Args:
        asked: The `ModelSpec` of the request.
        inputs: `{input name: array}`.
        answered: The `ModelSpec` of the answer, with the version that gave it.
        outputs: `{output name: array}`.

    Returns:
        A `PredictionLog`.
    """
    record = prediction_log_pb2.PredictionLog()
    log = record.predict_log
    log.request.model_spec.CopyFrom(asked)
    log.response.model_spec.CopyFrom(answered)
    for name, array in inputs.items():
        log.request.inputs[name].MergeFromString(to_proto_bytes(array))
    for name, array in outputs.items():
        log.response.outputs[name].MergeFromString(to_proto_bytes(np.asarray(array)))
    return record


def examples_record(request: Any, response: Any) -> Any:
    """A Classify or Regress request and its answer, as a `PredictionLog`."""
    record = prediction_log_pb2.PredictionLog()
    is_classify = isinstance(request, classification_pb2.ClassificationRequest)
    log = record.classify_log if is_classify else record.regress_log
    log.request.CopyFrom(request)
    log.response.CopyFrom(response)
    return record
