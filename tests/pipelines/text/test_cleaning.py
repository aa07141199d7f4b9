"""Cleaning: what each step changes, and the count of it."""

import html

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import CleaningConfig
from pipelines.errors import UserError
from pipelines.text.cleaning import add_counts, clean, clean_counted, clean_rows

ALL = CleaningConfig(html=True, urls=True, full_width=True, stop_words=["the", "的", "a+b"])
NOTHING = CleaningConfig(control_characters=False)


def cleaned(text: str | bytes, **options: object) -> str:
    config = CleaningConfig.model_validate({"control_characters": False} | options)
    return clean(tf.constant([text]), config).numpy()[0].decode()


def place(index: int) -> str:
    return f"reviews.csv row {index + 1}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<br />b", "a b"),
        ("<p class='x'>好</p>", " 好 "),
        ("a<!-- <b> \n -->b", "a b"),
        ("a<script>if (x < 3) {}</script>b<STYLE>p {}</STYLE >c", "a b c"),
        ("<!DOCTYPE html>a", " a"),
        ("2 < 3 and 4 > 3, <3, a<b", "2 < 3 and 4 > 3, <3, a<b"),
        ("&amp;lt; &unknown; &amp", "&lt; &unknown; &amp"),
        ("&#20013;&#x6587;&#X1F600;", "中文😀"),
        ("&#0;&#xD800;&#9999999;", "\ufffd\ufffd\ufffd"),
        ("no entity #65; & co", "no entity #65; & co"),
    ],
)
def test_html(text: str, expected: str) -> None:
    assert cleaned(text, html=True) == expected


def test_every_entity_is_what_python_says() -> None:
    entities = [f"&{name}" for name in html.entities.html5 if name.endswith(";")] + ["&#60;", "&#x3c;"]
    assert len(entities) > 2_000
    assert cleaned("|".join(entities), html=True) == html.unescape("|".join(entities))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("看http://a.com/x?y=1，好", "看，好"),
        ("(see https://c.d/e) www.b.cn.", "(see ) ."),
        ("HTTP://A.COM/B", ""),
        ("awww.nice httpx://", "awww.nice httpx://"),
    ],
)
def test_urls(text: str, expected: str) -> None:
    assert cleaned(text, urls=True) == expected


def test_control_characters() -> None:
    assert cleaned("a\tb\r\nc\nd\u2028e\x85f", control_characters=True) == "a b c d e f"
    assert cleaned("a\u3000b\xa0c  d\u2009e", control_characters=True) == "a b c  d e"
    assert cleaned("a\u200bb\ufeffc\x00d\u00ade\u202ef", control_characters=True) == "abcdef"


def test_full_width() -> None:
    assert cleaned("Ａ１！～　。，", full_width=True) == "A1!~ 。,"


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["the"], "The theory, THE end; bathe the", " theory,  end; bathe "),
        (["的", "非常"], "我的书非常好", "我书好"),
        (["don't", "t"], "don't t can't", "  can't"),
        (["é"], "é café É", " café "),
        (["a+b", ".", "$"], "a+b a.b $", " ab "),
        (["nothing", "nothing at all"], "nothing at all, nothing", ", "),
        (["love"], "我love你 lovely", "我你 lovely"),
        (["x"], "\ufdd0x\ufdd1 xy", " xy"),
    ],
)
def test_stop_words(words: list[str], text: str, expected: str) -> None:
    assert cleaned(text, stop_words=words) == expected


def test_a_thousand_stop_words() -> None:
    words = [f"word{i}" for i in range(1200)]
    assert cleaned("word7 word1199 word1200", stop_words=words) == "  word1200"


def test_an_empty_stop_word_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.cleaning.stop_words has an empty word"):
        cleaned("a", stop_words=["the", " "])


def test_wrong_bytes_become_replacement_characters() -> None:
    assert cleaned(b"a\xffb\xe4\xb8") == "a\ufffdb\ufffd"


def test_counts_are_of_texts_and_of_the_steps_that_are_on() -> None:
    texts = ["<b>a</b><i>", "b", b"\xff", "see www.a.com", "Ａ\t", "the 的"]
    counts: dict[str, int] = {}
    clean_counted(texts, ALL, counts)
    assert counts == {
        "invalid_utf8": 1,
        "html": 1,
        "urls": 1,
        "control_characters": 1,
        "full_width": 1,
        "stop_words": 1,
    }
    clean_counted(texts[:1], ALL, counts)
    assert counts["html"] == 2
    assert add_counts({"a": 1, "b": 2}, {"b": 3}) == {"a": 1, "b": 5}


def test_rows_are_left_out_where_that_is_asked_for() -> None:
    config = CleaningConfig(html=True, empty="drop", duplicates="drop")
    rows = clean_rows(["a", "<br>", "b", " ", "<b>a", " a", "\ud800"], config, place)
    assert rows.texts == [b"a", b"b", b" a", "\ufffd\ufffd\ufffd".encode()]
    assert rows.kept.tolist() == [0, 2, 4, 6]
    assert rows.counts == {
        "invalid_utf8": 1, "html": 2, "control_characters": 0, "empty": 2, "duplicates": 1,
    }  # fmt: skip


def test_duplicates_are_found_over_files() -> None:
    config, seen = CleaningConfig(duplicates="drop"), set[bytes]()
    clean_rows(["a", "b"], config, place, seen)
    assert clean_rows(["b", "c"], config, place, seen).kept.tolist() == [1]


def test_by_default_nothing_is_left_out() -> None:
    rows = clean_rows(["a", "a"], CleaningConfig(), place)
    assert (rows.texts, rows.counts) == ([b"a", b"a"], {"invalid_utf8": 0, "control_characters": 0})


@pytest.mark.parametrize(("texts", "said"), [(["a", ""], "empty; fill"), (["a", "<b>"], "empty after cleaning; fill")])
def test_an_empty_text_is_named(texts: list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"reviews.csv row 2: the text is {said} it in, or set data.cleaning.empty"):
        clean_rows(texts, CleaningConfig(html=True), place)


def test_no_text_left_is_an_error() -> None:
    with pytest.raises(UserError, match=r"reviews.csv row 1 and all rows after it: no text is left after cleaning"):
        clean_rows(["", " "], CleaningConfig(empty="drop"), place)


def test_no_texts_give_no_texts() -> None:
    assert clean(tf.constant([], tf.string), ALL).shape == (0,)
    assert clean_rows([], ALL, place).texts == []


def test_odd_texts_are_cleaned(odd_texts: list[bytes]) -> None:
    for text in clean(tf.constant(odd_texts), ALL).numpy():
        text.decode()


def test_the_graph_does_the_same(odd_texts: list[bytes]) -> None:
    texts = tf.constant([*odd_texts, "<b>the &lt; 的</b> http://a.b"])
    expected = clean(texts, ALL).numpy().tolist()
    dataset = tf.data.Dataset.from_tensors(texts).map(lambda text: clean(text, ALL))
    assert next(iter(dataset)).numpy().tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(), st.binary()), min_size=1, max_size=5))
def test_any_bytes_can_be_cleaned(texts: list) -> None:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    untouched = clean(tf.constant(encoded), NOTHING).numpy().tolist()
    assert [text.decode() for text in untouched] == [
        tf.strings.unicode_transcode(text, "UTF-8", "UTF-8").numpy().decode() for text in encoded
    ]
    for text in clean(tf.constant(encoded), ALL).numpy():
        text.decode()


def test_a_long_text_is_cleaned() -> None:
    text = "<b>的&amp;</b>http://a.b " * 20_000
    assert clean(tf.constant([text]), ALL).numpy()[0].decode().count("&") == 20_000
