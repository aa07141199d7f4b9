"""Every way a Predict body can be wrong, with TensorFlow Serving's words."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code, ServingError
from serving.rest.json_request import parse_predict
from serving.rest.json_text import MAX_CONTAINERS, MAX_NESTING, _first_value, value_text

from .conftest import make_signature


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "The document is empty"),
        (" ", "The document is empty. at offset: 1"),
        ("instances = [1, 2]", "Invalid value. at offset: 0"),
        ('{"instances": [1, 2', "Missing a comma or ] after an array element. at offset: 19"),
        ('{"instances"', "Missing a colon after a name of object member. at offset: 12"),
        ("{", "Missing a name for object member. at offset: 1"),
        ('{"a": 1,}', "Missing a name for object member. at offset: 8"),
        ('{"a": 1 "b"}', "Missing a comma or } after an object member. at offset: 8"),
        ('{"é": nul}', "Invalid value. at offset: 10"),
        ('{"a": "x', "Missing a closing quotation mark in string. at offset: 8"),
        ('{"a": "\\x"}', "Invalid escape character in string. at offset: 7"),
        ('{"a": "\\ud800"}', "The surrogate pair in string is invalid. at offset: 7"),
        ('{"a": "\\u12"}', "Incorrect hex digit after \\u escape in string. at offset: 7"),
        ('{"a": 1.}', "Miss fraction part in number. at offset: 8"),
        ('{"a": 1e}', "Miss exponent in number. at offset: 8"),
        ('{"instances": [1e999]}', "Number too big to be stored in double. at offset: 15"),
        (b'\xef\xbb\xbf{"a": x}', "Invalid value. at offset: 9"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
    ],
)
def test_what_is_no_json(refusal, body, text):
    # python-rapidjson quotes the brackets that a message names; RapidJSON's own words differ by version there.
    assert refusal(body, x="FLOAT").replace("'", "") == f"JSON Parse error: {text}"


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000, '{"instances": ' + "[" * 500 + "]" * 500 + "}"])
def test_deep_nesting_is_refused(refusal, body):
    assert refusal(body, x="FLOAT") == f"JSON Parse error: Nested deeper than {MAX_NESTING} levels"


def test_too_many_lists(refusal):
    text = f"JSON Parse error: More than {MAX_CONTAINERS} lists and objects"
    assert refusal('{"inputs": [' + "[]," * MAX_CONTAINERS + "[]]}", x="FLOAT") == text
    assert refusal("[" * (MAX_CONTAINERS + 1), x="FLOAT") == text


def test_brackets_in_strings_are_no_nesting(read):
    many = '"' + "[{" * 1000 + '\\"]"'
    assert read(f'{{"instances": [Inf], "note": {many}}}', x="FLOAT").inputs["x"].shape == (1,)


def test_more_dimensions_than_a_tensor_has(refusal):
    body = '{"inputs": ' + "[" * 80 + "1" + "]" * 80 + "}"
    assert refusal(body, x="FLOAT") == "Encountered 80 levels of lists; a tensor has at most 64 dimensions"


DOCUMENT = '{\n    "instances": 1\n}'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("[1, 2]", "JSON Value: [\n    1,\n    2\n] Is not object"),
        ("1.5", "JSON Value: 1.5 Is not object"),
        ('{"signature_name": 5, "instances": [1]}',
         'JSON Value: {\n    "signature_name": 5,\n    "instances": [\n        1\n    ]\n} not formatted correctly. '
         "'signature_name' key must be a string value."),
        ('{"signature_name": "s", "instances": [1]}', 'Serving signature name: "s" not found in signature def'),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": 1}', f"JSON Value: {DOCUMENT} Excepting 'instances' to be an list/array"),
        ('{"instances": []}', 'JSON Value: {\n    "instances": []\n} No values in \'instances\' array'),
        ('{"instances": [1], "inputs": 1}',
         'JSON Value: {\n    "instances": [\n        1\n    ],\n    "inputs": 1\n} Not formatted correctly expecting '
         "only one of 'inputs' or 'instances' keys to exist "),
    ],
)  # fmt: skip
def test_what_is_no_request(refusal, body, text):
    assert refusal(body, x="FLOAT") == text


def test_a_signature_without_inputs(refusal):
    assert refusal('{"instances": [1]}') == "Failed to get input map for signature: DEFAULT"
    with pytest.raises(ServingError, match=r"^Failed to get input map for signature: s$"):
        parse_predict(b'{"signature_name": "s", "inputs": 1}', {"s": make_signature()})


def at(index, text):
    return f"Failed to process element: {index} of 'instances' list. Error: INVALID_ARGUMENT: {text}"


def not_of_type(value, kind, dtype):
    return f"JSON Value: {value} Type: {kind} is not of expected type: {dtype}"


@pytest.mark.parametrize(
    ("instances", "dtype", "text"),
    [
        ("[[1,2],[3,4],[5,6,7]]", "INT32", at(2, "Expecting tensor size: 2 but got: 3")),
        ("[[1,2],[3,4],[[5,6]]]", "INT32", at(2, "Expecting shape [2] but got: [1,2]")),
        ("[1, [1]]", "INT32", at(1, "Expecting shape [] but got: [1]")),
        ('[[1,2],["a","b"]]', "INT32", at(1, not_of_type('"a"', "String", "int32"))),
        ("[[[1],[2,3]]]", "FLOAT", at(0, "Encountered list at unexpected size: 2 at level: 1 expected size: 1")),
        ("[[1,[2]]]", "FLOAT", at(0, "Encountered list at unexpected level: 1 expected < 1")),
        ("[[[1],2]]", "FLOAT",
         at(0, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2")),
        ("[1.5]", "INT32", at(0, not_of_type("1.5", "Number", "int32"))),
        ("[1.0]", "INT64", at(0, not_of_type("1.0", "Number", "int64"))),
        ("[0, true]", "INT32", at(1, not_of_type("true", "True", "int32"))),
        ("[false]", "FLOAT", at(0, not_of_type("false", "False", "float"))),
        ("[null]", "DOUBLE", at(0, not_of_type("null", "Null", "double"))),
        ("[1]", "BOOL", at(0, not_of_type("1", "Number", "bool"))),
        ("[1]", "STRING", at(0, not_of_type("1", "Number", "string"))),
        ('["猫"]', "FLOAT", at(0, not_of_type('"猫"', "String", "float"))),
        ("[2147483648]", "INT32", at(0, not_of_type("2147483648", "Number", "int32"))),
        ("[2147483648]", "UINT8", at(0, not_of_type("2147483648", "Number", "uint8"))),
        ("[9223372036854775808]", "INT64", at(0, not_of_type("9223372036854775808", "Number", "int64"))),
        ("[-1]", "UINT32", at(0, not_of_type("-1", "Number", "uint32"))),
        ("[-1]", "UINT64", at(0, not_of_type("-1", "Number", "uint64"))),
        ("[18446744073709551616]", "UINT64", at(0, not_of_type("1.84467441e+19", "Number", "uint64"))),
        ("[NaN]", "INT32", at(0, not_of_type("NaN", "Number", "int32"))),
        ('[{"b64": "aGk="}]', "FLOAT",
         at(0, not_of_type('{\n    "b64": "aGk="\n}', "Object", "float"))),
        ('["a", {"b64": "a-_="}]', "STRING", at(1, "Unable to base64 decode")),
        ('[{"b64": "YQ="}]', "STRING", at(0, "Unable to base64 decode")),
        ('[{"b64": "Y"}]', "STRING", at(0, "Unable to base64 decode")),
        ('["a", {"b64": 1}]', "STRING", "Expecting value/list but got object at item 1 of input list"),
        ('[["a", {"b64": 1}]]', "STRING",
         at(0, 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data')),
        ("[1.7976931348623157e308]", "FLOAT",
         at(0, "Cannot convert JSON value: 1.7976931348623157e+308 to float without loss of precision.")),
        ("[16777217]", "FLOAT", at(0, "Cannot convert JSON value: 16777217 to float without loss of precision.")),
        ("[-16777216, 0.5]", "FLOAT",
         at(0, "Cannot convert JSON value: -16777216 to float without loss of precision.")),
        ("[9007199254740993]", "DOUBLE",
         at(0, "Cannot convert JSON value: 9007199254740993 to double without loss of precision.")),
        ("[1, {}]", "INT32", "Expecting value/list but got object at item 1 of input list"),
    ],
)  # fmt: skip
def test_rows_of_one_input(refusal, instances, dtype, text):
    assert refusal(f'{{"instances": {instances}}}', x=dtype) == text


@pytest.mark.parametrize("dtype", ["HALF", "BFLOAT16", "COMPLEX64", "COMPLEX128", "UINT16"])
def test_dtypes_without_a_form_in_json(refusal, dtype):
    text = f"Conversion of JSON Value: 1.5 to type: {dtype.lower()}"
    assert refusal('{"inputs": [1.5]}', Code.UNIMPLEMENTED, x=dtype) == text
    inside = f"Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: {text}"
    assert refusal('{"instances": [1.5]}', x=dtype) == inside


NAMED = {"i": "INT32", "s": "STRING"}


def at_key(index, key, text):
    return f"Failed to process element: {index} key: {key} of 'instances' list. Error: INVALID_ARGUMENT: {text}"


@pytest.mark.parametrize(
    ("instances", "text"),
    [
        ('[{"i": [1,2], "s": "a"}, {"i": [1,2,3], "s": "b"}]', at_key(1, "i", "Expecting tensor size: 2 but got: 3")),
        ('[{"i": [1,2], "s": "a"}, {"i": [[1,2]], "s": "b"}]',
         at_key(1, "i", "Expecting shape [2] but got: [1,2]")),
        ('[{"i": 1, "s": "a"}, [1, 20, 30]]', "Expecting object but got list at item 1 of input list"),
        ('[{"i": 1, "s": "a", "z": 1}]', at_key(0, "z", "JSON object: does not have named input: z")),
        ('[{"i": 1.5, "s": "a"}]', at_key(0, "i", not_of_type("1.5", "Number", "int32"))),
        ('[{"i": 1}]',
         "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"i\": 1\n} keys must be "
         "equal to: i,s"),
        ("[[1]]", "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
         "tensorinfo_map"),
        ('[{"b64": "YQ=="}]', at(0, not_of_type('{\n    "b64": "YQ=="\n}', "Object", "int32"))),
    ],
)  # fmt: skip
def test_rows_of_several_inputs(refusal, instances, text):
    assert refusal(f'{{"instances": {instances}}}', **NAMED) == text


def test_binary_rows_of_several_inputs(refusal):
    text = (
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}."
    )
    assert refusal('{"instances": [{"b64": "YQ=="}]}', a="STRING", b="STRING") == text


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ('{"i": [1]}', "Missing named input: s in 'inputs' object."),
        ("[1]", "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
         "tensorinfo_map"),
        ('{"b64": "YQ=="}', "inputs is a plain value/list, but expecting an object as multiple input tensors required "
         "as per tensorinfo_map"),
        ('{"i": "1", "s": "a"}', not_of_type('"1"', "String", "int32")),
        ('{"i": null, "s": "a"}', not_of_type("null", "Null", "int32")),
        ('{"i": [[1], [2, 3]], "s": "a"}',
         "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    ],
)  # fmt: skip
def test_columns(refusal, inputs, text):
    assert refusal(f'{{"inputs": {inputs}}}', **NAMED) == text


def test_long_values_are_cut(refusal):
    text = refusal(json.dumps({"inputs": "x" * 10_000}), x="FLOAT")
    assert text == f'JSON Value: "{"x" * 1023}...TRUNCATED Type: String is not of expected type: float'
    assert value_text([[[]]]) == "[\n    [\n        []\n    ]\n]"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "b64", "i", "s"]), inner),
    max_leaves=12,
)
SIGNATURES = (
    {"serving_default": make_signature(x="FLOAT")},
    {"serving_default": make_signature(x="STRING")},
    {"serving_default": make_signature(x="UINT64")},
    {"serving_default": make_signature(**NAMED)},
)


def answer_or_refuse(body, signatures):
    try:
        inputs = parse_predict(body, signatures).inputs
    except ServingError as error:
        refusal = error
    else:
        assert sum(array.size for array in inputs.values()) <= len(body)
        return
    assert refusal.code in (Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED)
    refusal.message.encode()


@given(st.binary(), st.sampled_from(SIGNATURES))
def test_any_bytes_are_answered_or_refused(body, signatures):
    answer_or_refuse(body, signatures)
    answer_or_refuse(b'{"instances": [' + body + b"]}", signatures)


@given(st.binary(max_size=30), st.integers(0, 200), st.booleans())
def test_large_bodies_are_read_as_small_ones_are(damage, position, insert):
    """They go another way: the rows of the outermost lists one by one."""
    small = bytearray(
        b' {"instances" : [ [1, 2.5] , [NaN, -3e5], [Infinity, 1]], "b": {"c": [[]]}, "signature_name": ""} x'
    )
    small[position : position + (0 if insert else len(damage))] = damage
    text = bytes(small).decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(" \t\n\r"))
    try:
        expected = repr(json.JSONDecoder().raw_decode(text, start)[0])
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            _first_value(text, start)
    else:
        assert repr(_first_value(text, start)) == expected


@given(VALUES, st.sampled_from(["instances", "inputs"]), st.sampled_from(SIGNATURES), st.data())
def test_any_json_is_answered_or_refused(value, key, signatures, data):
    body = json.dumps({key: value}).encode()
    answer_or_refuse(body, signatures)
    answer_or_refuse(body[: data.draw(st.integers(0, len(body)))], signatures)
