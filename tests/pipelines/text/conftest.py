"""Texts of every kind, and tokenizers with toy vocabularies."""

import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from pipelines.text.characters import CharacterTokenizer
from pipelines.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipelines.text.wordpiece import WordPieceTokenizer
from pipelines.text.words import WordTokenizer

SPECIAL = list(SPECIAL_TOKENS.values())
ODD_TEXTS = [
    "",
    " ",
    "\n\t",
    "我喜欢这本书",
    "Good book, isn't it?",
    "😀😀👨‍👩‍👧",
    "ＡＢＣ１２３，",
    "e\u0301 é İ ß Ω",
    "\x00\x01\u200b\ufeff",
    "[MASK] [UNK] [PAD]",
    "##ing",
    "\ufdd0\ufdd1\ufffd\U0010ffff",
    "が 한국어 ไทย عربي",
]
ODD_BYTES = [b"\xff\xfe", b"a\xe4\xb8", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe6\x88\x91\xff"]


@pytest.fixture
def special() -> list[str]:
    return list(SPECIAL)


@pytest.fixture
def odd_texts() -> list[bytes]:
    return [text.encode() for text in ODD_TEXTS] + ODD_BYTES


@pytest.fixture
def make() -> Callable[[str], Tokenizer]:
    def tokenizer(kind: str) -> Tokenizer:
        if kind == "characters":
            return CharacterTokenizer([*SPECIAL, "我", "喜", "书", "a", "b", " "], bigrams=["我喜", "a "])
        if kind == "words":
            return WordTokenizer([*SPECIAL, "good", "book", "书", ",", "!", "##ing"])
        pytest.importorskip("keras_hub")
        return WordPieceTokenizer([*SPECIAL, "good", "book", "##s", "read", "##ing", "书", ",", "!"])

    return tokenizer
