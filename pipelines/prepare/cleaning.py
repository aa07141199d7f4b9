"""The cleaning of `pipelines.text.cleaning` without TensorFlow, which Apache Beam's workers need not have."""

import html.entities
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_HIDDEN = re.compile(
    r"<script\b[^>]*>.*?</script\s*>|<style\b[^>]*>.*?</style\s*>", re.DOTALL | re.IGNORECASE | re.ASCII
)
_TAG = re.compile(r"<[/!?]?[A-Za-z][^<>]*>")
_ENTITY = re.compile(r"&(?:#([0-9]{1,7})|#[xX]([0-9A-Fa-f]{1,6})|[A-Za-z][A-Za-z0-9]{1,31});")
_URL = re.compile(
    r"\b(?:(?:https?|ftp)://|www\.)[a-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*[a-z0-9/#=&_~%+\-]", re.IGNORECASE | re.ASCII
)
_LINE_BREAK = re.compile(r"\r\n")


def steps(markup: bool, urls: bool, full_width: bool) -> dict[str, Callable[[str], str]]:
    """The cleaning steps that are on, in the order of `pipelines.text.cleaning`; control characters always go."""
    chosen: Mapping[str, tuple[bool, Callable[[str], str]]] = {
        "html": (markup, _without_html),
        "urls": (urls, lambda text: _URL.sub("", text)),
        "control_characters": (True, _without_control_characters),
        "full_width": (full_width, _half_width),
    }
    return {name: step for name, (is_on, step) in chosen.items() if is_on}


def _without_html(text: str) -> str:
    text = _TAG.sub(" ", _HIDDEN.sub(" ", _COMMENT.sub(" ", text)))
    return _ENTITY.sub(_character, text.replace("\0", ""))


def _character(match: re.Match) -> str:
    decimal, hexadecimal = match.groups()
    if decimal is None and hexadecimal is None:
        return html.entities.html5.get(match[0][1:], match[0])
    code_point = int(decimal) if decimal is not None else int(hexadecimal, 16)
    if not 0 < code_point <= sys.maxunicode or 0xD800 <= code_point < 0xE000:
        return "\ufffd"
    return chr(code_point)


def _without_control_characters(text: str) -> str:
    return _LINE_BREAK.sub(" ", text).translate(_control_characters())


@cache
def _control_characters() -> dict[int, str | None]:
    """Spaces of all kinds to a space; control and format characters to nothing."""
    table: dict[int, str | None] = {ord(space): " " for space in "\t\n\v\f\r\x85"}
    for code_point in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code_point))
        if category[0] == "Z":
            table[code_point] = " "
        elif category in ("Cc", "Cf"):
            table.setdefault(code_point, None)
    return table


def _half_width(text: str) -> str:
    return text.translate(_FULL_WIDTH)


_FULL_WIDTH = {0x3000: 0x20, **{code_point: code_point - 0xFEE0 for code_point in range(0xFF01, 0xFF5F)}}
