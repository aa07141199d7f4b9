"""Classify: results and every error, after TensorFlow Serving's classifier_test.cc."""

import numpy as np
import pytest
from tensorflow_serving.apis import classification_pb2

from serving.errors import Code, ServingError
from serving.inference.classify import classify_call


@pytest.fixture
def classes(example):
    """`classes(("dos", 2), ("uno", 1))`: an Example with these classes and scores."""

    def make(*pairs):
        return example(**{"class": [name.encode() for name, _ in pairs], "score": [float(score) for _, score in pairs]})

    return make


@pytest.fixture
def two(classes):
    return classes(("dos", 2), ("uno", 1)), classes(("cuatro", 4), ("tres", 3))


def request_for(*examples, signature=""):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "test_model"
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return request


def pairs(response):
    return [[(one.label, one.score) for one in row.classes] for row in response.result.classifications]


EXPECTED = [[("dos", 2), ("uno", 1)], [("cuatro", 4), ("tres", 3)]]


def test_labels_and_scores(answer, odd, two):
    response = answer(classify_call, odd, request_for(*two))
    assert pairs(response) == EXPECTED
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("test_model", 123, "serving_default")


def test_a_context_is_copied_to_each_example_which_may_override_it(answer, odd, classes, two):
    request = request_for()
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(classes(("uno", 1), ("dos", 2)))
    listed.examples.add()
    listed.examples.append(two[1])
    assert pairs(answer(classify_call, odd, request)) == [[("uno", 1), ("dos", 2)], EXPECTED[1]]


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("output_plus_one", [[("dos", 3), ("uno", 2)], [("cuatro", 5), ("tres", 4)]]),
        ("classes_only", [[(label, 0) for label, _ in row] for row in EXPECTED]),
        ("scores_only", [[("", score) for _, score in row] for row in EXPECTED]),
    ],
)
def test_signatures_by_name(answer, odd, two, signature, expected):
    response = answer(classify_call, odd, request_for(*two, signature=signature))
    assert pairs(response) == expected
    assert response.model_spec.signature_name == signature


def test_only_what_is_answered_is_computed(odd, two):
    for signature, fetches in (("serving_default", 2), ("classes_only", 1), ("scores_only", 1), ("scores_and_more", 1)):
        run, _ = classify_call("test_model", 123, odd, request_for(*two, signature=signature))
        assert (run.signature_key, run.feeds, len(run.fetches)) == (signature, ("examples:0",), fetches)


def test_zero_scores_and_missing_labels_are_still_classes(answer, odd, classes):
    sent = classes(("minus", -1), ("zero", 0), ("one", 1))
    assert pairs(answer(classify_call, odd, request_for(sent))) == [[("minus", -1), ("zero", 0), ("one", 1)]]
    only_scores = answer(classify_call, odd, request_for(sent, signature="scores_only"))
    assert pairs(only_scores) == [[("", -1), ("", 0), ("", 1)]]


def test_labels_are_text(answer, odd, classes, example):
    assert pairs(answer(classify_call, odd, request_for(classes(("北京", 0.5))))) == [[("北京", 0.5)]]
    with pytest.raises(ServingError) as caught:
        answer(classify_call, odd, request_for(example(**{"class": [b"\xff"], "score": [1.0]})))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == "classes must be UTF-8 text, but one is b'\\xff'"


def test_scores_are_float32_exactly(answer, odd, example):
    scores = np.random.default_rng(0).normal(size=50).astype(np.float32)
    sent = example(**{"class": [b"x"] * 50, "score": [float(score) for score in scores]})
    ((*answered,),) = pairs(answer(classify_call, odd, request_for(sent)))
    assert np.array_equal(np.float32([score for _, score in answered]), scores)


ERRORS = {
    "nosuch": "No signature was found with the name: nosuch",
    "two_inputs": "Expected one input Tensor.",
    "three_outputs": "Expected one or two output Tensors, found 3",
    "wrong_input": "No classification inputs found in SignatureDef: inputs {",
    "no_outputs_known": 'Expected classification signature outputs to contain at least one of "classes" or "scores". '
    "Signature was: inputs {",
    "regress": 'Expected classification signature outputs to contain at least one of "classes" or "scores". '
    "Signature was: inputs {",
    "number_input": "Expects arg[0] to be float but string is provided",
    "rank_3": "Expected Tensor shape: [batch_size num_classes] but got [2,2,1]",
    "classes_rank_1": "Expected Tensor shape: [batch_size num_classes] but got [2]",
    "double_scores": "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
    "number_classes": "Expected classes Tensor of DT_STRING. Got: DT_FLOAT",
    "one_row_of_classes": "Expected classes output batch size of 2. Got: 1",
    "one_row_of_scores": "Expected scores output batch size of 2. Got: 1",
    "uneven": "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
    "failing": "assertion failed: [Run totally failed]",
}


@pytest.mark.parametrize("signature", ERRORS)
def test_errors(answer, odd, two, signature):
    with pytest.raises(ServingError) as caught:
        answer(classify_call, odd, request_for(*two, signature=signature))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(ERRORS[signature])
    if not ERRORS[signature].endswith(("{", "failed]")):
        assert caught.value.message == ERRORS[signature]


def test_the_signature_is_checked_before_the_examples(answer, odd):
    for signature, text in (
        ("nosuch", ERRORS["nosuch"]),
        ("two_inputs", ERRORS["two_inputs"]),
        ("", "Input is empty."),
    ):
        with pytest.raises(ServingError) as caught:
            answer(classify_call, odd, request_for(signature=signature))
        assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, text)


def test_what_is_no_example_is_the_op_s_own_error(answer, odd, example):
    with pytest.raises(ServingError, match="Data types don't match") as caught:
        answer(classify_call, odd, request_for(example(score=[b"text"], **{"class": [b"a"]})))
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_method_names_are_checked_on_request_only(answer, odd, strict, two):
    request = request_for(*two, signature="tensorflow_2")
    assert pairs(answer(classify_call, odd, request)) == EXPECTED
    with pytest.raises(ServingError) as caught:
        answer(classify_call, strict, request)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == (
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/predict"
    )
    assert pairs(answer(classify_call, strict, request_for(*two))) == EXPECTED
