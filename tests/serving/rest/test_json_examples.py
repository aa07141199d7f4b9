"""Classify and Regress bodies: the cases of TensorFlow Serving's json_tensor_test.cc."""

from contextlib import suppress

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.errors import Code, ServingError
from serving.rest.json_examples import fill_examples_request

REQUESTS = [classification_pb2.ClassificationRequest, regression_pb2.RegressionRequest]


@pytest.fixture(params=REQUESTS, ids=["classify", "regress"])
def request_class(request):
    return request.param


def fill(body, request_class=REQUESTS[0]):
    request = request_class()
    fill_examples_request(body if isinstance(body, bytes) else body.encode(), request)
    return request


def feature(key, values):
    return f'feature {{ key: "{key}" value {{ {values} }} }}'


def test_examples(request_class):
    request = fill(
        '{"examples": [{"names": ["foo", "bar"], "ratings": [8.0, 9.0], "age": 20}, '
        '{"names": ["baz"], "ratings": 6.0}]}',
        request_class,
    )
    first = (
        feature("names", 'bytes_list { value: "foo" value: "bar" }')
        + feature("ratings", "float_list { value: 8 value: 9 }")
        + feature("age", "int64_list { value: 20 }")
    )
    second = feature("names", 'bytes_list { value: "baz" }') + feature("ratings", "float_list { value: 6 }")
    expected = request_class()
    text_format.Parse(
        f"input {{ example_list {{ examples {{ features {{ {first} }} }} examples {{ features {{ {second} }} }} }} }}",
        expected,
    )
    assert request == expected


def test_context_and_signature(request_class):
    request = fill(
        """{"signature_name": "custom", "context": {"query": "pizza", "location": ["sfo"]},
            "examples": [{"ratings": [8.0, NaN, Infinity], "age": 20},
                         {"names": ["baz", {"b64": "aGVsbG8="}], "intboolmix": [1, true, false]},
                         {"names": "bar", "ratings": -Infinity, "none": []}]} and more""",
        request_class,
    )
    assert request.model_spec.signature_name == "custom"
    assert request.input.WhichOneof("kind") == "example_list_with_context"
    context = request.input.example_list_with_context.context.features.feature
    assert context["query"].bytes_list.value == [b"pizza"]
    assert context["location"].bytes_list.value == [b"sfo"]
    first, second, third = (
        example.features.feature for example in request.input.example_list_with_context.examples
    )  # fmt: skip
    assert str(list(first["ratings"].float_list.value)) == "[8.0, nan, inf]"
    assert second["names"].bytes_list.value == [b"baz", b"hello"]
    assert second["intboolmix"].int64_list.value == [1, 1, 0]
    assert third["ratings"].float_list.value == [float("-inf")]
    assert third["none"].WhichOneof("kind") is None


def test_empty_objects():
    request = fill('{"context": {}, "examples": [{}, {}]}')
    assert len(request.input.example_list_with_context.examples) == 2
    assert request.input.example_list_with_context.HasField("context")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("[]", "JSON Value: [] Is not object"),
        ('{"signature_name": ["hello"], "examples": [{}]}',
         'JSON Value: {\n    "signature_name": [\n        "hello"\n    ],\n    "examples": [\n        {}\n    ]\n} not '
         "formatted correctly. 'signature_name' key must be a string value."),
        ('{"context": [{"names": ["foo"]}]}', "Example must be JSON object but got JSON Array"),
        ("{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": 1}', 'JSON Value: {\n    "examples": 1\n} Expecting \'examples\' value to be an list/array'),
        ('{"examples": []}', 'JSON Value: {\n    "examples": []\n} \'examples\' value is an empty array'),
        ('{"examples": [[{"names": ["foo"]}]]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": [null]}', "Example must be JSON object but got JSON Null"),
        ('{"examples": [{"names": [10, null]}]}', "Feature: names has element with unexpected JSON type: Null"),
        ('{"examples": [{"names": [10, 10.0]}]}', "Unexpected element type in feature: names expecting type: int64"),
        ('{"examples": [{"names": [1.5, 1]}]}', "Unexpected element type in feature: names expecting type: float"),
        ('{"examples": [{"names": ["a", true]}]}', "Unexpected element type in feature: names expecting type: bytes"),
        ('{"examples": [{"names": [10, {"test": 10}]}]}',
         "Feature: names has element with unexpected JSON type: Object"),
        ('{"examples": [{"names": [[10], 20]}]}', "Feature: names has element with unexpected JSON type: Array"),
        ('{"examples": [{"names": [20, 18446744073709551603]}]}',
         "Feature: names has uint64 element. Only int64 is supported."),
        ('{"examples": [{"names": 1.7976931348623157e308}]}',
         "Cannot convert JSON value: 1.7976931348623157e+308 to float without loss of precision."),
        ('{"examples": [{"names": {"b64": "_"}}]}', "Unable to base64 decode"),
    ],
)  # fmt: skip
def test_errors(request_class, body, text):
    with pytest.raises(ServingError) as caught:
        fill(body, request_class)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == text


@given(
    st.binary(), st.sampled_from([b"%s", b'{"examples": [%s]}', b'{"examples": [{"x": %s}], "context": {"y": [%s]}}'])
)
def test_any_bytes_are_read_or_refused(body, around):
    with suppress(ServingError):
        fill(around.replace(b"%s", body))
