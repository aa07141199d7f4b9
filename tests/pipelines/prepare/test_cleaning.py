"""Cleaning without TensorFlow does what cleaning in the graph does."""

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import CleaningConfig
from pipelines.prepare.cleaning import steps
from pipelines.text.cleaning import clean

ALL = CleaningConfig(html=True, urls=True, full_width=True)


def cleaned(text: str) -> str:
    for step in steps(True, True, True).values():
        text = step(text)
    return text


@pytest.mark.parametrize(
    "text",
    [
        "<b>A &amp; B</b>\tＣ１！　x",
        "a < b, <3, <!-- no\nte -->kept<script type='x'>if (a<b) {}</script > <STYLE>p{}</style>end",
        "&#20070;&#x4E66;&#0;&#xD800;&#1114112;&unknown;&nbsp;&NotEqualTilde;&amp;lt; &lt;b&gt;",
        "see https://a.example/x?y=1, WWW.b.example. and ftp://c.example/ or wwww.d 好https://e.example/好",
        "one\r\ntwo\rthree\x85four\u2028five\u00a0six\u3000seven\u200beight\ufeffnine\x00ten\x1f",
        "",
    ],
)
def test_every_rule_gives_the_same_text(text):
    assert cleaned(text) == clean(tf.constant([text]), ALL).numpy()[0].decode()


@given(
    st.lists(
        st.text(st.sampled_from("ab<>/!-&#;x1ＡＺ！　 \t\r\n\0\u00a0\u200b\u2029:.www好"), max_size=30), min_size=20
    )
)
@settings(max_examples=40, deadline=None)
def test_all_kinds_of_texts_come_out_the_same(texts):
    expected = [text.decode() for text in clean(tf.constant(texts), ALL).numpy()]
    assert [cleaned(text) for text in texts] == expected
