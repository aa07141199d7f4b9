"""Requests that are damaged on the way, or by intent, are answered or refused; nothing else ever comes out."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import classification_pb2, inference_pb2, predict_pb2, regression_pb2

from serving.errors import Code, ServingError
from serving.inference.classify import classify_call
from serving.inference.multi_inference import multi_inference_call
from serving.inference.predict import predict_call
from serving.inference.regress import regress_call


def with_examples(request, signature=""):
    request.model_spec.name = "m"
    request.model_spec.signature_name = signature
    for number in range(3):
        features = request.input.example_list.examples.add().features.feature
        features["score"].float_list.value.extend([number, 0.5])
        features["class"].bytes_list.value.extend([b"a", "猫".encode()])
    return request


def several():
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in (("regress", "regress"), ("serving_default", "classify"), ("scores_only", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    request.input.CopyFrom(with_examples(regression_pb2.RegressionRequest()).input)
    return request


def predict():
    request = predict_pb2.PredictRequest(output_filter=["outputs"])
    request.model_spec.name, request.model_spec.signature_name = "m", "regress_number_input"
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(np.ones((3, 1), np.float32)))
    return request


CALLS = {
    "classify": (classify_call, with_examples(classification_pb2.ClassificationRequest())),
    "regress": (regress_call, with_examples(regression_pb2.RegressionRequest(), "regress")),
    "several": (multi_inference_call, several()),
    "predict": (predict_call, predict()),
}


@st.composite
def damage(draw):
    """A function from bytes to damaged bytes: some changed, a piece cut out, or a piece repeated."""
    places = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
    start, length = draw(st.floats(0, 1)), draw(st.integers(0, 12))
    times = draw(st.sampled_from([0, 1, 1, 2, 50]))

    def apply(data):
        changed = bytearray(data)
        for place, value in places:
            changed[int(place * len(data))] = value
        begin = int(start * len(data))
        return bytes(changed[:begin] + changed[begin : begin + length] * times + changed[begin + length :])

    return apply


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=damage())
def test_damaged_requests_are_answered_or_refused(answer, odd, name, change):
    make_call, request = CALLS[name]
    try:
        damaged = type(request).FromString(change(request.SerializeToString()))
    except DecodeError:
        return
    try:
        outcome = answer(make_call, odd, damaged)
    except ServingError as error:
        outcome = error
    if isinstance(outcome, ServingError):
        assert outcome.code in (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED), outcome.message
    else:
        assert type(outcome).FromString(outcome.SerializeToString()).ByteSize() == outcome.ByteSize()


@pytest.mark.parametrize("name", CALLS)
def test_the_undamaged_requests_are_answered(answer, odd, name):
    assert answer(CALLS[name][0], odd, CALLS[name][1]).ByteSize() > 0
