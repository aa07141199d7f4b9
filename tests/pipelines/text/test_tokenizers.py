"""Tokenizers: exact ids on toy vocabularies, the way back, any text, and the three places where they run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.text.characters import CharacterTokenizer
from pipelines.text.cleaning import repair
from pipelines.text.tokenizer import Tokenizer
from pipelines.text.vocabulary import load_tokenizer
from pipelines.text.words import WordTokenizer, split_words

KINDS = ["characters", "words", "wordpiece"]


def ids(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return tokenizer(tf.constant(texts)).to_list()


def back(tokenizer: Tokenizer, *texts: str) -> list[str]:
    return [text.decode() for text in tokenizer.detokenize(tokenizer(tf.constant(texts))).numpy()]


def test_characters(make: Callable) -> None:
    tokenizer = make("characters")
    assert tokenizer.vocabulary[5:8] == ("我", "喜", "书")
    assert ids(tokenizer, "我喜A", "", "a\n书😀") == [[5, 6, 8], [], [8, 10, 7, 1]]
    assert ids(CharacterTokenizer(tokenizer.vocabulary, lowercase=False), "Aa") == [[1, 8]]


def test_pairs_of_characters(make: Callable) -> None:
    tokenizer = make("characters")
    characters, pairs = tokenizer.with_bigrams(tf.constant(["我喜a b", "", "我", "喜"]))
    assert characters.to_list() == [[5, 6, 8, 10, 9], [], [5], [6]]
    assert pairs.to_list() == [[2, 1, 3, 1, 1], [], [1], [1]], "no pair reaches into the next text"
    assert tokenizer.bigram_vocabulary_size == 4
    assert CharacterTokenizer(tokenizer.vocabulary).bigram_vocabulary_size == 0


def test_words(make: Callable) -> None:
    tokenizer = make("words")
    assert ids(tokenizer, "Good  book,书书!", "goodbook [MASK]") == [[5, 6, 8, 7, 7, 9], [1, 1, 1, 1]]
    split = split_words(tf.constant(["It's 9.5\u3000元\xa0人😀か한국어"]), lowercase=True).to_list()[0]
    assert [word.decode() for word in split] == ["it", "'", "s", "9", ".", "5", "元", "人", "😀", "か", "한국어"]


def test_wordpiece(make: Callable) -> None:
    tokenizer = make("wordpiece")
    assert ids(tokenizer, "Good books", "reading书书!", "", "bad") == [[5, 6, 7], [8, 9, 10, 10, 12], [], [1]]
    assert tokenizer.special_ids == {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}


def test_wordpiece_equals_kerashub(odd_texts: list[bytes], special: list[str]) -> None:
    keras_hub = pytest.importorskip("keras_hub")
    from pipelines.text.wordpiece import WordPieceTokenizer

    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    # Special tokens anywhere, as in the vocabularies of others.
    vocabulary = ["我", "##我", *special, "书", "é", "##é", *letters, *(f"##{c}" for c in letters), "good", "##ing"]
    texts = repair(tf.constant(odd_texts))
    for lowercase in (True, False):
        for strip_accents in (True, False):
            reference = keras_hub.tokenizers.BertTokenizer(
                vocabulary=vocabulary, lowercase=lowercase, strip_accents=strip_accents
            )
            expected = tf.function(reference.tokenize)(texts).to_list()
            tokenizer = WordPieceTokenizer(vocabulary, lowercase, strip_accents)
            assert tokenizer(texts).to_list() == expected
            assert tokenizer.special_ids["start"] == reference.cls_token_id == 4


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("characters", "我喜书 ab", "我喜书 ab"),
        ("characters", "我x", "我[UNK]"),
        ("words", "good book, 书 书!", "good book,书书!"),
        ("words", "good 书 book", "good书book"),
        ("wordpiece", "good books, reading 书书!", "good books, reading书书!"),
        ("wordpiece", "bad books", "[UNK] books"),
    ],
)
def test_the_way_back(make: Callable, kind: str, text: str, expected: str) -> None:
    assert back(make(kind), text, "") == [expected, ""]


def test_the_way_back_in_english(special: list[str]) -> None:
    words = ["don", "'", "t", "you", "say", "so", ".", "(", "yes", ")", "?"]
    assert back(WordTokenizer([*special, *words]), "Don't you say so. (Yes?)") == ["don't you say so. (yes?)"]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_other_than_unknown_are_not_shown(make: Callable, kind: str) -> None:
    tokenizer = make(kind)
    token_ids = tf.ragged.constant([[2, 1, 3, 0, 0], [4, 0], []], tf.int32)
    assert tokenizer.detokenize(token_ids).numpy().tolist() == [b"[UNK]", b"", b""]


def test_pieces_that_do_not_fit_are_put_together_anyhow(make: Callable) -> None:
    token_ids = tf.ragged.constant([[7, 10, 7, 5, 9]], tf.int32)
    assert make("wordpiece").detokenize(token_ids).numpy()[0].decode() == "##s书s gooding"


@pytest.mark.parametrize("kind", KINDS)
def test_eager_data_and_served_ids_are_equal(make: Callable, kind: str, odd_texts: list[bytes], tmp_path: Path) -> None:
    tokenizer = make(kind)
    texts = repair(tf.constant(odd_texts * 2))
    expected = tokenizer(texts).to_list()
    assert all(0 <= number < len(tokenizer.vocabulary) for row in expected for number in row)
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(5).map(tokenizer)
    assert [row for batch in dataset for row in batch.to_list()] == expected

    module = tf.Module()
    module.tokenizer = tokenizer
    function = tf.function(lambda text: {"ids": tokenizer(text).to_tensor(-1)})
    signature = function.get_concrete_function(tf.TensorSpec([None], tf.string, name="text"))
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](text=texts)["ids"].numpy()
    assert [row[row >= 0].tolist() for row in served] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_gives_the_same_ids(
    make: Callable, kind: str, odd_texts: list[bytes], tmp_path: Path
) -> None:
    tokenizer = make(kind)
    loaded = load_tokenizer(tmp_path, {"kind": kind, **tokenizer.save(tmp_path)})
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.special_ids == tokenizer.special_ids
    texts = repair(tf.constant(odd_texts))
    assert loaded(texts).to_list() == tokenizer(texts).to_list()
    if kind == "characters":
        assert loaded.bigrams == tokenizer.bigrams  # type: ignore[attr-defined]


def test_a_missing_file_of_pairs_is_named(make: Callable, tmp_path: Path) -> None:
    config = {"kind": "characters", **make("characters").save(tmp_path)}
    (tmp_path / "bigrams.txt").write_text("ab\n")
    with pytest.raises(UserError, match=r"bigrams.txt is missing or damaged: 2 pairs were expected"):
        load_tokenizer(tmp_path, config)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_text_has_ids_that_do_not_depend_on_its_neighbours(make: Callable, kind: str, texts: list[str]) -> None:
    tokenizer = _kept(make, kind)
    together = tokenizer(tf.constant(texts)).to_list()
    assert together == [tokenizer(tf.constant([text])).to_list()[0] for text in texts]
    for text in tokenizer.detokenize(tokenizer(tf.constant(texts))).numpy():
        text.decode()
    if kind == "characters":
        characters, pairs = tokenizer.with_bigrams(tf.constant(texts))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(characters.row_splits, pairs.row_splits)


_TOKENIZERS: dict[str, Tokenizer] = {}


def _kept(make: Callable, kind: str) -> Tokenizer:
    if kind not in _TOKENIZERS:
        _TOKENIZERS[kind] = make(kind)
    return _TOKENIZERS[kind]


def test_without_the_extra_the_others_work() -> None:
    code = """
import sys
sys.modules["keras_hub"] = None
import tensorflow as tf, pathlib
from pipelines.config import TokenizerConfig
from pipelines.text.vocabulary import make_tokenizer
for kind in ("characters", "words"):
    tokenizer = make_tokenizer(TokenizerConfig(kind=kind, min_count=1), pathlib.Path(), ["a b"])
    print(tokenizer(tf.constant(["b"])).to_list())
try:
    make_tokenizer(TokenizerConfig(kind="wordpiece"), pathlib.Path(), ["a b"])
except ValueError as error:
    print(error)
print([name for name in ("tensorflow_text", "keras_hub") if sys.modules.get(name)])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["[[7]]", "[[6]]"]
    assert "needs KerasHub and tensorflow-text" in lines[2]
    assert 'pip install "tfbigmodel[text]"' in lines[2]
    assert lines[3] == "[]"
