from hypothesis import given
from hypothesis import strategies as st

from serving.errors import TRUNCATION_MARK, status_text


@given(st.text(max_size=3000))
def test_texts_are_cut_at_1024_bytes_and_never_inside_a_character(text):
    cut = status_text(text)
    clean = text.encode("utf-8", "replace").decode()
    if len(clean.encode()) <= 1024:
        assert cut == clean
    else:
        kept = cut.removesuffix(TRUNCATION_MARK)
        assert clean.startswith(kept)
        assert 1020 < len(kept.encode()) <= 1024


def test_the_limit_itself_is_not_cut():
    assert status_text("a" * 1024) == "a" * 1024
    assert status_text("a" * 1025) == "a" * 1024 + "...TRUNCATED"
