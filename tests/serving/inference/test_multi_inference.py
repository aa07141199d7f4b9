"""MultiInference: results and every error, after TensorFlow Serving's multi_inference_test.cc."""

import pytest
from tensorflow_serving.apis import inference_pb2

from serving.errors import Code, ServingError
from serving.inference.multi_inference import multi_inference_call, multi_inference_spec

CLASSIFY, REGRESS, PREDICT = (f"tensorflow/serving/{method}" for method in ("classify", "regress", "predict"))
Y, Y2, Y3 = ("regress_x_to_y", REGRESS), ("regress_x_to_y2", REGRESS), ("regress_x2_to_y3", REGRESS)
SCORES = ("classify_x_to_y", CLASSIFY)


def request_for(*tasks, examples=(), model="test_model"):
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = model
        task.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return request


@pytest.fixture
def x_is_2(example):
    return [example(x=[2.0])]


def expected(*results):
    """A response of version 123: `expected(("regress_x_to_y", "regression", [3.0]))`."""
    response = inference_pb2.MultiInferenceResponse()
    for signature, kind, numbers in results:
        result = response.results.add()
        result.model_spec.name = "test_model"
        result.model_spec.version.value = 123
        result.model_spec.signature_name = signature
        for number in numbers:
            if kind == "regression":
                result.regression_result.regressions.add(value=number)
            else:
                result.classification_result.classifications.add().classes.add(score=number)
    return response


@pytest.mark.parametrize(
    ("tasks", "results"),
    [
        ([Y], [("regress_x_to_y", "regression", [3.0])]),
        ([Y, Y2], [("regress_x_to_y", "regression", [3.0]), ("regress_x_to_y2", "regression", [4.0])]),
        ([Y2, Y], [("regress_x_to_y2", "regression", [4.0]), ("regress_x_to_y", "regression", [3.0])]),
        ([Y, SCORES], [("regress_x_to_y", "regression", [3.0]), ("classify_x_to_y", "classification", [3.0])]),
    ],
)
def test_a_result_for_each_task(answer, half_plus_two, x_is_2, tasks, results):
    request = request_for(*tasks, examples=x_is_2)
    assert answer(multi_inference_call, half_plus_two, request) == expected(*results)


def test_several_examples(answer, half_plus_two, example):
    request = request_for(Y, SCORES, Y2, examples=[example(x=[value]) for value in (0.0, -4.0, 1.0)])
    assert answer(multi_inference_call, half_plus_two, request) == expected(
        ("regress_x_to_y", "regression", [2.0, 0.0, 2.5]),
        ("classify_x_to_y", "classification", [2.0, 0.0, 2.5]),
        ("regress_x_to_y2", "regression", [3.0, 1.0, 3.5]),
    )


def test_it_is_one_run_that_computes_each_tensor_once(half_plus_two, x_is_2):
    request = request_for(Y, SCORES, Y2, examples=x_is_2)
    run, _ = multi_inference_call("test_model", 123, half_plus_two, request)
    assert run.signature_key == "regress_x_to_y,classify_x_to_y,regress_x_to_y2"
    assert run.feeds == ("tf_example:0",)
    assert len(run.fetches) == len(set(run.fetches)) == 2
    assert len(run.values) == 1


def test_the_default_signature_is_named_in_the_result(answer, odd, example):
    request = request_for(("", CLASSIFY), examples=[example(score=[1.0], **{"class": [b"a"]})])
    (result,) = answer(multi_inference_call, odd, request).results
    assert result.model_spec.signature_name == "serving_default"
    assert [(one.label, one.score) for one in result.classification_result.classifications[0].classes] == [("a", 1.0)]


ERRORS = {
    "unknown signature": (
        [("ThisSignatureDoesNotExist", REGRESS)],
        Code.INVALID_ARGUMENT, "Requested signature not found in model graph: ThisSignatureDoesNotExist"),
    "twice the same": ([Y, Y], Code.INVALID_ARGUMENT, "Duplicate evaluation of signature: regress_x_to_y"),
    "twice the same unknown": (
        [("s", REGRESS), ("s", REGRESS)], Code.INVALID_ARGUMENT, "Requested signature not found in model graph: s"),
    "predict": (
        [("serving_default", PREDICT)],
        Code.UNIMPLEMENTED, "Unsupported signature method_name: tensorflow/serving/predict"),
    "no method": ([("regress_x_to_y", "")], Code.UNIMPLEMENTED, "Unsupported signature method_name: "),
    "twice the default": (
        [Y, ("", REGRESS)], Code.INVALID_ARGUMENT, "No regression inputs found in SignatureDef: inputs {"),
    "other inputs": ([Y, Y3], Code.INVALID_ARGUMENT, "Input tensor must be the same for all Signatures."),
    "inputs that take no examples": (
        [Y3], Code.INVALID_ARGUMENT, "Expects arg[0] to be float but string is provided"),
    "a method that does not fit": (
        [("regress_x_to_y", CLASSIFY)],
        Code.INVALID_ARGUMENT, "Expected classification signature outputs to contain at least one of "),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(answer, half_plus_two, x_is_2, case):
    tasks, code, text = ERRORS[case]
    with pytest.raises(ServingError) as caught:
        answer(multi_inference_call, half_plus_two, request_for(*tasks, examples=x_is_2))
    assert caught.value.code == code
    assert caught.value.message.startswith(text)
    if "SignatureDef" not in text and "at least" not in text:
        assert caught.value.message == text


def test_the_default_signature_counts_as_its_name(answer, odd, x_is_2):
    request = request_for(("", CLASSIFY), ("serving_default", CLASSIFY), examples=x_is_2)
    with pytest.raises(ServingError, match=r"^Duplicate evaluation of signature: serving_default$"):
        answer(multi_inference_call, odd, request)


def test_all_tasks_name_the_same_model(answer, half_plus_two, x_is_2):
    request = request_for(Y, Y2, examples=x_is_2)
    for name, text in (
        ("ModelDoesNotExist", "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        ("", "Found ModelSpec with an empty model name."),
    ):
        request.tasks[1].model_spec.name = name
        with pytest.raises(ServingError) as caught:
            answer(multi_inference_call, half_plus_two, request)
        assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, text)


def test_examples_are_looked_at_after_the_tasks(answer, half_plus_two):
    for tasks, text in (([Y], "Input is empty."), ([Y, Y], "Duplicate evaluation of signature: regress_x_to_y")):
        with pytest.raises(ServingError) as caught:
            answer(multi_inference_call, half_plus_two, request_for(*tasks))
        assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, text)


def test_a_result_of_the_wrong_shape(answer, odd, example):
    request = request_for(("regress", REGRESS), ("rank_3", CLASSIFY), examples=[example(score=[1.0])])
    with pytest.raises(ServingError) as caught:
        answer(multi_inference_call, odd, request)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message.startswith("Expected Tensor shape: [batch_size num_classes] but got [1,")


def test_method_names_are_checked_on_request_only(answer, odd, strict, example):
    request = request_for(("regress_tensorflow_2", REGRESS), examples=[example(score=[1.5])])
    (result,) = answer(multi_inference_call, odd, request).results
    assert [regression.value for regression in result.regression_result.regressions] == [1.5]
    with pytest.raises(ServingError, match=r"^Expected regression signature method_name to be "):
        answer(multi_inference_call, strict, request)


def test_the_first_task_says_which_version_answers():
    request = request_for(Y, Y2)
    request.tasks[0].model_spec.version.value = 0
    assert multi_inference_spec(request) == request.tasks[0].model_spec


@pytest.mark.parametrize(
    "request_",
    [
        inference_pb2.MultiInferenceRequest(),
        inference_pb2.MultiInferenceRequest(tasks=[inference_pb2.InferenceTask(method_name=REGRESS)]),
        request_for(Y, model=""),
    ],
    ids=["no task", "no model_spec", "no name"],
)
def test_a_first_task_without_a_model(request_):
    with pytest.raises(ServingError) as caught:
        multi_inference_spec(request_)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
