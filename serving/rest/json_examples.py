"""The body of a Classify or Regress request as `tf.Example` messages.

Reference:
    tensorflow_serving/util/json_tensor.cc, FillClassifyRegressRequestFromJson
"""

from __future__ import annotations

from typing import Any

from tensorflow.core.example import feature_pb2

from serving.errors import Code, ServingError
from serving.rest.json_exact import decode_base64, is_base64_object, is_lossless
from serving.rest.json_text import in_64_bits, object_of, parse_json_exactly, signature_name_of, type_name, value_text

_FLOAT = 1
_LARGEST_INT64 = 2**63 - 1
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def fill_examples_request(body: bytes, request: Any) -> None:
    """Writes signature name, examples and context of a body into a request.

    Args:
        body: Untrusted bytes.
        request: A `ClassificationRequest` or `RegressionRequest`; its `model_spec.name` is left as it is.

    Raises:
        ServingError: INVALID_ARGUMENT with the contract's text.

    Example:
        >>> fill_examples_request(b'{"examples": [{"x": 1.0}]}', request)
    """
    document = object_of(body, parse_json_exactly)
    name = signature_name_of(document)
    if name:
        request.model_spec.signature_name = name
    with_context = "context" in document
    if with_context:
        request.input.example_list_with_context.context.SetInParent()
        _fill_example(document["context"], request.input.example_list_with_context.context)
    examples = _examples_of(document)
    target = request.input.example_list_with_context if with_context else request.input.example_list
    for value in examples:
        _fill_example(value, target.examples.add())


def _examples_of(document: dict[str, Any]) -> list[Any]:
    if "examples" not in document:
        problem = "When method is classify, key 'examples' is expected and was not found"
    elif type(document["examples"]) is not list:
        problem = "Expecting 'examples' value to be an list/array"
    elif not document["examples"]:
        problem = "'examples' value is an empty array"
    else:
        return document["examples"]
    raise _error(f"JSON Value: {value_text(document)} {problem}")


def _fill_example(value: Any, example: Any) -> None:
    if type(value) is not dict:
        raise _error(f"Example must be JSON object but got JSON {type_name(value)}")
    features = example.features.feature
    for name, content in value.items():
        feature = _feature(name, content if type(content) is list else [content])
        features[name].CopyFrom(feature)
    if not value:
        example.SetInParent()


def _feature(name: str, values: list[Any]) -> Any:
    """The values as one feature: all numbers with a point, all integers (or booleans), or all texts."""
    field = ""
    converted = []
    for value in map(in_64_bits, values):
        wanted = _field_of(name, value)
        if field and wanted != field:
            raise _error(f"Unexpected element type in feature: {name} expecting type: {_KINDS[field]}")
        field = wanted
        converted.append(_converted(name, value, field))
    feature = feature_pb2.Feature()
    if field:
        getattr(feature, field).value.extend(converted)
    return feature


def _field_of(name: str, value: Any) -> str:
    kind = type(value)
    if kind in (bool, int):
        return "int64_list"
    if kind is float:
        return "float_list"
    if kind is str or is_base64_object(value):
        return "bytes_list"
    raise _error(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _converted(name: str, value: Any, field: str) -> Any:
    if field == "bytes_list":
        if type(value) is str:
            return value.encode()
        decoded = decode_base64(value["b64"])
        if decoded is None:
            raise _error("Unable to base64 decode")
        return decoded
    if field == "int64_list":
        if value > _LARGEST_INT64:
            raise _error(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return int(value)
    if not is_lossless(value, _FLOAT):
        raise _error(f"Cannot convert JSON value: {value_text(value)} to float without loss of precision.")
    return value


def _error(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)
