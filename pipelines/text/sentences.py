"""Texts → sentences, Chinese and English, by their punctuation."""

import itertools
import re

# A document of one sentence that is at least this long is divided at its commas, so that short reviews have parts too.
COMMA_CHARACTERS = 10

_CLOSING = "”’」』）】》〉\"')\\]"
# A full stop ends a sentence where a space follows, but not after a single letter (J. Smith, e.g. this) or a title.
_ABBREVIATION = "".join(rf"(?<!\b{word}\.)" for word in ("[A-Za-z]", "Mr", "Mrs", "Ms", "Dr", "vs"))
_END = re.compile(rf"[。！？!?…；;｡]+[{_CLOSING}。！？!?…；;｡]*\s*|\.+{_ABBREVIATION}[{_CLOSING}]*(?:\s+|$)|\n\s*")
_COMMA = re.compile(rf"(?:，|(?<!\d),|,(?!\d))+[{_CLOSING}，,]*\s*")
_WORD = re.compile(r"\w")


def divide_sentences(text: str) -> list[str]:
    """Divides a text into sentences; joined again they are the text.

    Sentences end after 。！？!?…；; and the quotation marks and brackets that close there, after a full stop before
    a space, and at line breaks. White space belongs to the sentence before it. What has no letter and no digit is no
    sentence of its own. A single sentence of `COMMA_CHARACTERS` characters or more is divided at its commas.

    Args:
        text: any text.

    Returns:
        The sentences, none of them empty; no sentence for an empty text.

    Example:
        >>> divide_sentences("他说：“好！”我走了。")
        ['他说：“好！”', '我走了。']
        >>> divide_sentences("很快，好吃，味道足，量大")
        ['很快，', '好吃，', '味道足，', '量大']
    """
    sentences = _divided(text, _END)
    if len(sentences) == 1 and len(text) >= COMMA_CHARACTERS:
        return _divided(text, _COMMA)
    return sentences


def _divided(text: str, ends: re.Pattern[str]) -> list[str]:
    places = [0, *(match.end() for match in ends.finditer(text)), len(text)]
    sentences: list[str] = []
    for start, end in itertools.pairwise(places):
        piece = text[start:end]
        if sentences and (not _WORD.search(piece) or not _WORD.search(sentences[-1])):
            sentences[-1] += piece
        elif piece:
            sentences.append(piece)
    return sentences
