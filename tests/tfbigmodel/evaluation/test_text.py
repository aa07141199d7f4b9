from hypothesis import given
from hypothesis import strategies as st

from tfbigmodel.evaluation.text import cell_width, fit, printable, shortened


def test_fit():
    assert fit("中文", 6) == "中文  "
    assert fit("中文", 6, right=True) == "  中文"
    assert fit("中文中文", 7) == "中文 .."
    assert fit("abc", 3) == "abc"


@given(st.text(), st.integers(0, 12))
def test_fits_whatever_comes(text, width):
    text = printable(text)
    assert cell_width(fit(text, width)) == width
    assert cell_width(shortened(text, width)) <= width


@given(st.text(st.characters()))
def test_printable(text):
    assert printable(text).isprintable()
    printable(text).encode()


def test_printable_leaves_ordinary_text():
    assert printable("差评 / bad é 👍") == "差评 / bad é 👍"
    assert printable("a\tb\x00\u202e\ud800") == "a\\tb\\x00\\u202e\\ud800"
