"""Regress: results and every error, after TensorFlow Serving's regressor_test.cc."""

import numpy as np
import pytest
from tensorflow_serving.apis import regression_pb2

from serving.errors import Code, ServingError
from serving.inference.regress import regress_call


def request_for(*examples, signature="regress"):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "test_model"
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return request


@pytest.fixture
def two(example):
    return example(score=[2.0], **{"class": [b"a"]}), example(score=[3.0], **{"class": [b"b"]})


def values(response):
    return [regression.value for regression in response.result.regressions]


def test_a_value_for_each_example(answer, odd, two):
    response = answer(regress_call, odd, request_for(*two))
    assert values(response) == [2, 3]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("test_model", 123, "regress")


def test_a_column_is_read_as_well(answer, odd, two):
    assert values(answer(regress_call, odd, request_for(*two, signature="regress_plus_one"))) == [3, 4]


def test_half_plus_two(answer, half_plus_two, example):
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    request = request_for(*(example(x=[float(value)]) for value in x), signature="regress_x_to_y")
    answered = np.float32(values(answer(regress_call, half_plus_two, request)))
    assert np.array_equal(answered, x * np.float32(0.5) + np.float32(2))


def test_a_context_is_copied_to_each_example(answer, odd, example):
    request = request_for()
    listed = request.input.example_list_with_context
    listed.examples.add()
    listed.examples.add()
    listed.context.CopyFrom(example(score=[3.0]))
    assert values(answer(regress_call, odd, request)) == [3, 3]


ERRORS = {
    "nosuch": "No signature was found with the name: nosuch",
    "regress_two_inputs": "Expected one input Tensor.",
    "regress_two_outputs": "Expected one output Tensor.",
    "output_plus_one": "Expected one output Tensor.",
    "regress_wrong_input": "No regression inputs found in SignatureDef: inputs {",
    "regress_no_outputs": "No regression outputs found in SignatureDef: inputs {",
    "regress_number_input": "Expects arg[0] to be float but string is provided",
    "regress_rank_3": "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,1,1]",
    "regress_two_columns": "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
    "regress_scalar": "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got []",
    "regress_one_row": "Input batch size did not match output batch size: 2 vs. 1",
    "regress_text": "Expected output Tensor of DT_FLOAT.  Got: DT_STRING",
    "regress_failing": "assertion failed: [Run totally failed]",
}


@pytest.mark.parametrize("signature", ERRORS)
def test_errors(answer, odd, two, signature):
    with pytest.raises(ServingError) as caught:
        answer(regress_call, odd, request_for(*two, signature=signature))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(ERRORS[signature])
    if not ERRORS[signature].endswith(("{", "failed]")):
        assert caught.value.message == ERRORS[signature]


def test_the_default_signature_must_regress_too(answer, half_plus_two, example):
    with pytest.raises(ServingError, match=r"^No regression inputs found in SignatureDef: "):
        answer(regress_call, half_plus_two, request_for(example(x=[2.0]), signature=""))


def test_the_signature_is_checked_before_the_examples(answer, odd):
    for signature in ("nosuch", "regress_two_inputs", "regress_two_outputs"):
        with pytest.raises(ServingError) as caught:
            answer(regress_call, odd, request_for(signature=signature))
        assert caught.value.message == ERRORS[signature]
    with pytest.raises(ServingError) as caught:
        answer(regress_call, odd, request_for())
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "Input is empty.")


def test_a_missing_feature_is_the_op_s_own_error(answer, half_plus_two, example):
    with pytest.raises(ServingError, match=r"Feature: x .*is required but could not be found") as caught:
        answer(regress_call, half_plus_two, request_for(example(z=[1.0]), signature="regress_x_to_y"))
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_method_names_are_checked_on_request_only(answer, odd, strict, two):
    request = request_for(*two, signature="regress_tensorflow_2")
    assert values(answer(regress_call, odd, request)) == [2, 3]
    with pytest.raises(ServingError) as caught:
        answer(regress_call, strict, request)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/predict"
    )
    assert values(answer(regress_call, strict, request_for(*two))) == [2, 3]
