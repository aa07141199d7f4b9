"""The text preprocessor: rows of every packing, bounds, any bytes, and the same numbers wherever it runs."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipelines
from pipelines.config import CleaningConfig
from pipelines.errors import UserError
from pipelines.text.preprocess import TextPreprocessor

KINDS = ["characters", "words", "wordpiece"]
CLEANING = CleaningConfig(html=True, full_width=True, stop_words=["the"])


def preprocessor(make: Callable, kind: str, sequence_length: int = 16, packing: str | None = None) -> TextPreprocessor:
    packing = packing or ("bert" if kind == "wordpiece" else "plain")
    return TextPreprocessor(make(kind), sequence_length, packing, CLEANING)  # type: ignore[arg-type]


def rows(preprocess: TextPreprocessor, *texts: str | bytes) -> dict[str, list]:
    return {name: values.numpy().tolist() for name, values in preprocess({"text": tf.constant(texts)}).items()}


def test_plain_rows(make: Callable) -> None:
    found = rows(preprocessor(make, "words"), "good book", "", "书<b>!")
    assert found == {
        "token_ids": [[5, 6] + [0] * 6, [1] + [0] * 7, [7, 9] + [0] * 6],
        "padding_mask": [[1, 1] + [0] * 6, [1] + [0] * 7, [1, 1] + [0] * 6],
    }


def test_rows_with_pairs_of_characters(make: Callable) -> None:
    found = rows(preprocessor(make, "characters"), "我喜a", "")
    assert list(found) == ["token_ids", "padding_mask", "bigram_ids"]
    assert found["token_ids"] == [[5, 6, 8] + [0] * 5, [1] + [0] * 7]
    assert found["bigram_ids"] == [[2, 1, 1] + [0] * 5, [1] + [0] * 7]


def test_rows_for_bert(make: Callable) -> None:
    found = rows(preprocessor(make, "wordpiece"), "good books", "")
    assert found == {
        "token_ids": [[2, 5, 6, 7, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0]],
        "segment_ids": [[0] * 8] * 2,
        "padding_mask": [[1] * 5 + [0] * 3, [1] * 2 + [0] * 6],
    }
    assert rows(preprocessor(make, "wordpiece", 5), "good " * 9)["token_ids"] == [[2, 5, 5, 5, 3]]


def test_rows_of_an_encoders_prompts_keep_the_end_between_both_special_tokens(make: Callable) -> None:
    preprocess = preprocessor(make, "characters", 5, "bert_prompt")
    inputs = preprocess({"text": tf.constant(["好书好书不", "不"])})
    plain = preprocessor(make, "characters", 5, "plain")({"text": tf.constant(["书好书不", "不"])})["token_ids"].numpy()
    special = preprocess.tokenizer.special_ids
    start, end = special["start"], special["end"]
    assert inputs["token_ids"].numpy().tolist() == [[start, *plain[0, 1:4], end], [start, plain[1, 0], end, 0, 0]]
    assert inputs["padding_mask"].numpy().tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert not inputs["segment_ids"].numpy().any()


def test_rows_of_prompts_keep_the_end(make: Callable) -> None:
    preprocess = preprocessor(make, "wordpiece", 8, "prompt")
    found = rows(preprocess, "good books", "", "good " * 9 + "book!")
    assert found["token_ids"] == [[2, 5, 6, 7, 0, 0, 0, 0], [2] + [0] * 7, [2, 5, 5, 5, 5, 5, 6, 12]]
    assert list(found) == ["token_ids", "padding_mask"]
    long = preprocessor(make, "characters", 4, "prompt")
    assert rows(long, "我" * 100_000 + "ab")["token_ids"] == [[2, 5, 8, 9]]


def test_padding_is_that_of_the_tokenizer(special: list[str]) -> None:
    from pipelines.text.words import WordTokenizer

    tokenizer = WordTokenizer(["a", *special])
    found = rows(TextPreprocessor(tokenizer, 8, "bert", CleaningConfig()), "a", "a a")
    assert found["token_ids"] == [[3, 0, 4, 1, 1, 1, 1, 1], [3, 0, 0, 4, 1, 1, 1, 1]]


@pytest.mark.parametrize(("num", "sequence_length", "columns"), [(1, 128, 8), (8, 128, 8), (9, 128, 16), (99, 20, 20)])
def test_rows_are_as_long_as_the_longest_text(make: Callable, num: int, sequence_length: int, columns: int) -> None:
    found = preprocessor(make, "characters", sequence_length)({"text": tf.constant(["a", "a" * num])})
    assert {tuple(values.shape) for values in found.values()} == {(2, columns)}
    assert {values.dtype for values in found.values()} == {tf.int32}


@pytest.mark.parametrize("kind", KINDS)
def test_no_texts_give_no_rows(make: Callable, kind: str) -> None:
    for values in preprocessor(make, kind)({"text": tf.constant([], tf.string)}).values():
        assert values.shape == (0, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_characters(make: Callable, kind: str) -> None:
    preprocess = tf.function(preprocessor(make, kind, 128).__call__)
    texts = tf.constant(
        ["书" * 100_000, "😀" * 100_000, "a" * 100_000, " " * 100_000, "<b>" * 40_000, "x\xff" * 50_000]
    )
    preprocess({"text": texts})
    start = time.perf_counter()
    found = preprocess({"text": texts})
    assert time.perf_counter() - start < 2, "the beginning of a text is looked at only"
    assert found["token_ids"].shape == (6, 128)
    assert (found["padding_mask"].numpy().sum(axis=1) >= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_cut_ends_at_a_character(make: Callable, kind: str) -> None:
    preprocess = preprocessor(make, kind, 4)
    # 4 tokens: 1,024 bytes, which end in the middle of a character of three bytes, and 256 characters.
    text = "a" + " " * 253 + "书" * 500
    assert 1 not in rows(preprocess, text, "书" * 1000)["token_ids"][1]
    assert rows(preprocess, text) == rows(preprocess, text[:256])


@pytest.mark.parametrize("kind", KINDS)
def test_eager_data_and_served_rows_are_equal(
    make: Callable, kind: str, odd_texts: list[bytes], served: Callable
) -> None:
    preprocess = preprocessor(make, kind)
    texts = tf.constant(odd_texts)
    expected = preprocess({"text": texts})
    found = served(preprocess)["serving_default"](text=texts)
    dataset = tf.data.Dataset.from_tensors({"text": texts}).map(preprocess)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        np.testing.assert_array_equal(next(iter(dataset))[name], values)


SERVE = """
import sys, numpy as np, tensorflow as tf
if sys.argv[2] == "wordpiece":
    import tensorflow_text
texts = [line.encode().decode("unicode_escape").encode("latin-1") for line in sys.argv[3:]]
found = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](text=tf.constant(texts))
print(found["token_ids"].numpy().tolist(), "keras" in sys.modules and "keras_hub" in sys.modules)
"""


@pytest.mark.parametrize("kind", ["characters", "wordpiece"])
def test_a_fresh_process_serves_the_same_rows(make: Callable, kind: str, served: Callable, tmp_path: Path) -> None:
    preprocess = preprocessor(make, kind)
    texts = ["Good books,书!".encode(), b"\xff a", b""]
    served(preprocess)
    escaped = [text.decode("latin-1").encode("unicode_escape").decode() for text in texts]
    command = [sys.executable, "-c", SERVE, str(tmp_path / "exported"), kind, *escaped]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = preprocess({"text": tf.constant(texts)})["token_ids"].numpy().tolist()
    assert result.stdout.strip() == f"{expected} False"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_gives_the_same_rows(
    make: Callable, kind: str, odd_texts: list[bytes], tmp_path: Path
) -> None:
    preprocess = preprocessor(make, kind)
    preprocess.save(tmp_path)
    names = {"preprocessor.json", "vocabulary.txt"} | ({"bigrams.txt"} if kind == "characters" else set())
    assert {path.name for path in tmp_path.iterdir()} == names
    loaded = pipelines.load_preprocessor(tmp_path)
    assert isinstance(loaded, TextPreprocessor)
    assert loaded.signatures == preprocess.signatures
    assert (loaded.cleaning, loaded.packing, loaded.sequence_length) == (CLEANING, preprocess.packing, 16)
    for name, values in preprocess({"text": tf.constant(odd_texts)}).items():
        np.testing.assert_array_equal(loaded({"text": tf.constant(odd_texts)})[name], values)


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_length": "16"},
        {"sequence_length": 2},
        {"packing": "tight"},
        {"cleaning": {"htlm": True}},
        {"tokenizer": {"kind": "letters"}},
        {"tokenizer": {"kind": "words"}},
        {"tokenizer": None},
    ],
)
def test_a_damaged_configuration_is_found(make: Callable, tmp_path: Path, change: dict) -> None:
    preprocessor(make, "words").save(tmp_path)
    path = tmp_path / "preprocessor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"preprocessor.json is damaged"):
        pipelines.load_preprocessor(tmp_path)


def test_a_missing_vocabulary_is_named(make: Callable, tmp_path: Path) -> None:
    preprocessor(make, "words").save(tmp_path)
    (tmp_path / "vocabulary.txt").unlink()
    with pytest.raises(UserError, match=r"vocabulary.txt is not there"):
        pipelines.load_preprocessor(tmp_path)


def test_another_input_is_refused_by_name(make: Callable) -> None:
    with pytest.raises(ValueError, match=r"""takes "text", not \['image'\]"""):
        preprocessor(make, "words")({"image": tf.constant(["a"])})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.binary(max_size=200) | st.text(max_size=60).map(str.encode), min_size=1, max_size=4))
def test_any_bytes_give_a_row(make: Callable, kind: str, texts: list[bytes]) -> None:
    if kind not in _KEPT:
        _KEPT[kind] = tf.function(preprocessor(make, kind).__call__, reduce_retracing=True)
    found = {name: values.numpy() for name, values in _KEPT[kind]({"text": tf.constant(texts)}).items()}
    lengths = found["padding_mask"].sum(axis=1)
    assert (lengths >= 1).all()
    width = found["padding_mask"].shape[1]
    assert width == min(-(-lengths.max() // 8) * 8, 16)
    np.testing.assert_array_equal(found["padding_mask"], np.arange(width) < lengths[:, None])
    assert (found["token_ids"][found["padding_mask"] == 0] == 0).all()


_KEPT: dict[str, Callable] = {}
