"""JSON texts as RapidJSON reads and prints them, since its words are part of TensorFlow Serving's contract.

Python's own parser is the quick way: a C scanner that, like RapidJSON, knows NaN and Infinity and keeps integers,
decimals and booleans apart. RapidJSON itself (python-rapidjson) is asked where the quick way fails or is not exact: it
knows `Inf`, says what is wrong and where, makes integers beyond 64 bits decimals and refuses decimals beyond a double.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from json.decoder import JSONArray, JSONObject  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from serving.errors import Code, ServingError
from serving.rest.numbers import decimal_text

# RapidJSON parses by recursion and does not count: without a limit a body of brackets ends the process.
MAX_NESTING = 100
# A list or object takes 25 times the bytes of its brackets, other values up to 10 times theirs: without this limit a
# body of 100 MB could become some GB.
MAX_CONTAINERS = 5_000_000
# Texts of values that errors quote. A client need not get its whole body back.
MAX_QUOTED = 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITE_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PARSE_ERROR = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
_TEXT_AFTER_VALUE = "The document root must not be followed by other values."
# These objects and no others: what is infinite and none of them had too many digits for a double.
CONSTANTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Of rows a list of lists or objects is made; a list of numbers is read at once.
_ROWS = re.compile(r"\[[ \t\n\r]*[\[{]")
LARGE_TEXT = 256 * 1024
_DECODER = json.JSONDecoder(parse_constant=CONSTANTS.__getitem__)
_scan: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once  # type: ignore[attr-defined]


def parse_json(body: bytes) -> Any:
    """The first value of a body; what follows it is ignored.

    Args:
        body: Untrusted bytes.

    Returns:
        Lists, dicts, strings, ints, floats, booleans, None. Quick, and equal to `parse_json_exactly` except that
        decimals beyond a double are infinite, though not one of `CONSTANTS`.

    Raises:
        ServingError: INVALID_ARGUMENT with RapidJSON's words and offset.
    """
    _check_containers(body)
    # Python accepts half a surrogate pair, which no UTF-8 string can hold; RapidJSON does not.
    if _SURROGATE.search(body) is None:
        try:
            text = body.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
            start = _WHITE_SPACE.match(text).end()  # type: ignore[union-attr]
            return _first_value(text, start) if len(text) > LARGE_TEXT else _DECODER.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            pass  # a number of very many digits is a ValueError too; RapidJSON says what is wrong
    return parse_json_exactly(body)


def _first_value(text: str, start: int) -> Any:
    """As `raw_decode`, but the rows of the lists in the outermost object are read one by one.

    The C scanner keeps Python's lock until it returns. This is called in a thread: between the rows, the event loop
    gets its turn.
    """
    if not text.startswith("{", start):
        return _DECODER.raw_decode(text, start)[0]
    return JSONObject((text, start + 1), True, _scan_member, None, None)[0]


def _scan_member(text: str, start: int) -> tuple[Any, int]:
    if _ROWS.match(text, start):
        return JSONArray((text, start + 1), _scan)
    return _scan(text, start)


def parse_json_exactly(body: bytes) -> Any:
    """The first value of a body as RapidJSON reads it: decimals are finite or were said not to be. Ints may be of
    any size: see `in_64_bits`.

    Args:
        body: Untrusted bytes.

    Raises:
        ServingError: INVALID_ARGUMENT with RapidJSON's words and offset.
    """
    import rapidjson

    if not body:
        raise _parse_error("The document is empty")
    _check_containers(body)
    skipped = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0
    text = body[skipped:]
    check_nesting(text)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _parse_error(f"Invalid encoding in string. at offset: {error.start + skipped}") from None
    # A second time where text follows the value: then it is cut off.
    for _ in range(2):
        try:
            # The first reading finds numbers that are too big, but is inexact in the last binary digits.
            rapidjson.loads(text, number_mode=rapidjson.NM_NATIVE | rapidjson.NM_NAN)
            return rapidjson.loads(text, number_mode=rapidjson.NM_NAN)
        except ValueError as error:
            found = _PARSE_ERROR.match(str(error))
            offset, message = (int(found[1]), found[2]) if found else (0, str(error))
            if message != _TEXT_AFTER_VALUE:
                break
            text = text[:offset]
    raise _parse_error(f"{message} at offset: {offset + skipped}")


def in_64_bits(value: Any) -> Any:
    """A value as RapidJSON holds it: an integer beyond 64 bits is a decimal."""
    return float(value) if type(value) is int and not -(2**63) <= value < 2**64 else value


def check_nesting(text: bytes) -> None:
    """Refuses what is nested deeper than `MAX_NESTING`, without recursion.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return
    # Brackets inside strings do not count. A parser stops at a bracket too many, so the sum is never below its depth.
    marks = np.frombuffer(_STRING.sub(b"", text), np.uint8)
    step = np.zeros(256, np.int8)
    step[[ord("["), ord("{")]] = 1
    step[[ord("]"), ord("}")]] = -1
    steps = step[marks]
    if np.cumsum(steps[steps != 0], dtype=np.int64).max(initial=0) > MAX_NESTING:
        raise _parse_error(f"Nested deeper than {MAX_NESTING} levels")


def value_text(value: Any) -> str:
    r"""A value as errors quote it: what RapidJSON's PrettyWriter prints, cut when it is long.

    Example:
        >>> value_text([1, "a"])
        '[\\n    1,\\n    "a"\\n]'
    """
    import rapidjson

    if type(value) is float:
        return decimal_text(value, single=abs(value) <= float(np.finfo(np.float32).max))
    try:
        text = rapidjson.dumps(value, indent=4, ensure_ascii=False, number_mode=rapidjson.NM_NAN)
    except (ValueError, RecursionError, UnicodeError):
        text = "…"  # nested too deeply to print
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "...TRUNCATED"


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type: Null, False, True, Object, Array, String or Number."""
    if isinstance(value, bool):
        return str(value)
    return _TYPE_NAMES[type(value)]


_TYPE_NAMES: dict[type, str] = {
    type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number",
}  # fmt: skip


def object_of(body: bytes, parse: Callable[[bytes], Any] = parse_json) -> dict[str, Any]:
    """The object that a request's body must be.

    Raises:
        ServingError: INVALID_ARGUMENT, no JSON or another value than an object.
    """
    document = parse(body)
    if type(document) is not dict:
        raise ServingError(Code.INVALID_ARGUMENT, f"JSON Value: {value_text(document)} Is not object")
    return document


def signature_name_of(document: dict[str, Any]) -> str:
    """The signature that a request names; empty when it names none.

    Raises:
        ServingError: INVALID_ARGUMENT, the name is no string.
    """
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"JSON Value: {value_text(document)} not formatted correctly. 'signature_name' key must be a string value.",
        )
    return name


def _check_containers(body: bytes) -> None:
    if len(body) > MAX_CONTAINERS and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise _parse_error(f"More than {MAX_CONTAINERS} lists and objects")


def _parse_error(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, f"JSON Parse error: {message}")
