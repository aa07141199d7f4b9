"""Division into sentences: Chinese and English, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text.sentences import COMMA_CHARACTERS, divide_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("很好", ["很好"]),
        ("很好。不贵！真的？是…走；好;完", ["很好。", "不贵！", "真的？", "是…", "走；", "好;", "完"]),
        ("他说：“好！”我走了。", ["他说：“好！”", "我走了。"]),
        ("「好。」『不。』走", ["「好。」", "『不。』", "走"]),
        ("太好了！！！再来……走", ["太好了！！！", "再来……", "走"]),
        ("！！！好", ["！！！好"]),
        ("好。。。 ", ["好。。。 "]),
        ("One. Two? Three", ["One. ", "Two? ", "Three"]),
        ('He said "go." Then he went.', ['He said "go." ', "Then he went."]),
        ("Version 3.5 costs 1,000.50 dollars today", ["Version 3.5 costs 1,000.50 dollars today"]),
        ("J. Smith met Dr. Brown, e.g. in May.", ["J. Smith met Dr. Brown, ", "e.g. in May."]),
        ("a line\nanother one\n\nthe last", ["a line\n", "another one\n\n", "the last"]),
        ("很快，好吃，味道足，量大", ["很快，", "好吃，", "味道足，", "量大"]),
        ("很快，好吃", ["很快，好吃"]),  # short enough to stay whole
        ("很快，好吃，味道足。量大", ["很快，好吃，味道足。", "量大"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert divide_sentences(text) == sentences


def test_commas_divide_from_a_length_on() -> None:
    half = "好" * (COMMA_CHARACTERS // 2)
    assert len(divide_sentences(f"{half}，{half}"[:COMMA_CHARACTERS])) == 2
    assert len(divide_sentences(f"{half}，{half}"[: COMMA_CHARACTERS - 1])) == 1


@given(st.text(alphabet='ab好坏。！？.,，;\n "”’1', max_size=60))
def test_nothing_is_lost_and_no_sentence_is_punctuation_alone(text: str) -> None:
    sentences = divide_sentences(text)
    assert "".join(sentences) == text
    assert len(sentences) <= 1 or all(any(c.isalnum() for c in sentence) for sentence in sentences)
