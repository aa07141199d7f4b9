"""Vocabularies: learned ones against plain counting, given ones from every place they can be, and their mistakes."""

import collections
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from pipelines.config import TokenizerConfig
from pipelines.errors import MissingFileError, UserError
from pipelines.text.presets import read_vocabulary
from pipelines.text.tokenizer import Tokenizer
from pipelines.text.vocabulary import learn_bigrams, learn_characters, learn_wordpieces, learn_words, make_tokenizer

TEXTS = ["我喜欢这本书，书好", "这本书 不好", "Good Books, good!", "b a", "a b", ""]


def config(**values: object) -> TokenizerConfig:
    return TokenizerConfig.model_validate({"min_count": 1} | values)


def test_characters_by_frequency_then_code_point(special: list[str]) -> None:
    counts = collections.Counter("".join(TEXTS).lower())
    expected = sorted(counts, key=lambda character: (-counts[character], character))
    assert learn_characters(TEXTS, config()) == special + expected
    assert learn_characters(TEXTS, config(vocabulary_size=10)) == special + expected[:5]
    assert learn_characters(TEXTS, config(min_count=3)) == special + [c for c in expected if counts[c] >= 3]
    assert "G" in learn_characters(TEXTS, config(lowercase=False))


def test_line_breaks_are_never_tokens() -> None:
    assert learn_characters(["a\nb\r\tc"], config())[5:] == [" ", "a", "b", "c"]


def test_pairs_by_frequency_then_code_point() -> None:
    pairs = collections.Counter(text[i : i + 2] for text in map(str.lower, TEXTS) for i in range(len(text) - 1))
    expected = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    assert learn_bigrams(TEXTS, config(bigrams=1000)) == expected
    assert learn_bigrams(TEXTS, config(bigrams=3)) == expected[:3]
    assert learn_bigrams(TEXTS, config(bigrams=1000, min_count=2)) == [pair for pair in expected if pairs[pair] > 1]


def test_words_by_frequency_then_code_point(special: list[str]) -> None:
    learned = learn_words(TEXTS, config())[5:]
    assert learned[:6] == ["书", "a", "b", "good", "好", "本"]
    assert set(learned) == {*"我喜欢这本书，好不ab,!", "good", "books"}


def test_more_texts_than_are_read_at_a_time(special: list[str]) -> None:
    texts = ["ab"] * 1500 + ["b"] * 1000
    assert learn_characters(iter(texts), config()) == [*special, "b", "a"]


def test_pieces_of_words() -> None:
    pytest.importorskip("keras_hub")
    texts = ["reading books", "reads a book", "书书好！", "a好"] * 20
    vocabulary = learn_wordpieces(texts, config(min_count=2))
    assert vocabulary[:7] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "书", "好"]
    assert {"book", "a", "##s", "!"} <= set(vocabulary)
    assert not any("好" in token for token in vocabulary[7:]), "Chinese characters are no ends of words"
    assert len(vocabulary) == len(set(vocabulary))
    tokenizer = make_tokenizer(config(kind="wordpiece"), Path(), texts)
    assert 1 not in tokenizer(tf.constant(texts[:4])).flat_values.numpy()


def test_chinese_characters_leave_room_for_pieces() -> None:
    pytest.importorskip("keras_hub")
    texts = ["".join(map(chr, range(0x4E00, 0x4E80))) + " a book"] * 20
    vocabulary = learn_wordpieces(texts, config(vocabulary_size=45))
    assert {"a", "b", "o", "k"} < set(vocabulary)
    assert len(vocabulary) <= 45
    assert sum("\u4e00" <= token <= "\u9fff" for token in vocabulary) == 30
    alone = learn_wordpieces([text[:128] for text in texts], config(vocabulary_size=45))
    assert sum("\u4e00" <= token <= "\u9fff" for token in alone) == 40


LEARN = """
from pipelines.config import TokenizerConfig
from pipelines.text.vocabulary import learn_wordpieces
texts = [f"word{i % 7} reading{i % 5} 书{chr(0x4e00 + i % 40)}" for i in range(300)]
learned = learn_wordpieces(texts, TokenizerConfig(kind="wordpiece", vocabulary_size=80))
"""


def test_pieces_are_the_same_in_every_process() -> None:
    pytest.importorskip("keras_hub")
    result = subprocess.run(
        [sys.executable, "-c", LEARN + "print(ascii(learned))"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    here: dict = {}
    exec(LEARN, here)
    assert result.stdout.strip() == ascii(here["learned"])


@pytest.mark.parametrize("kind", ["characters", "words", "wordpiece"])
def test_nothing_to_learn_is_an_error(kind: str) -> None:
    if kind == "wordpiece":
        pytest.importorskip("keras_hub")
    with pytest.raises(UserError, match=r"no token occurs 5 times in the training texts.*data.tokenizer.min_count"):
        make_tokenizer(config(kind=kind, min_count=5), Path(), ["书"] if kind == "wordpiece" else ["a 书"])


def test_pairs_are_for_characters_only() -> None:
    with pytest.raises(UserError, match=r"data.tokenizer.bigrams is for characters, and data.tokenizer.kind is words"):
        make_tokenizer(config(kind="words", bigrams=5), Path(), TEXTS)


# --- given vocabularies


@pytest.fixture
def file(tmp_path: Path, special: list[str]) -> Callable[..., Path]:
    def write(*tokens: str, name: str = "vocabulary.txt", end: str = "\n", lines: list[str] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(f"{token}{end}" for token in (lines or [*special, *tokens])).encode())
        return path

    return write


def made(path: Path, kind: str = "characters", **values: object) -> Tokenizer:
    return make_tokenizer(config(kind=kind, vocabulary=path.name, **values), path.parent, [])


def test_a_file_of_characters(file: Callable) -> None:
    assert made(file("书", " ", "a")).vocabulary[5:] == ("书", " ", "a")
    assert made(file("书", "a", end="\r\n")).vocabulary[5:] == ("书", "a")
    path = file("书")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().removesuffix(b"\n"))
    assert made(path).vocabulary[5:] == ("书",)


def test_special_tokens_of_a_file_may_be_anywhere(file: Callable) -> None:
    tokenizer = made(file(lines=["a", "[MASK]", "[SEP]", "b", "[CLS]", "[UNK]", "[PAD]"]), "words")
    assert tokenizer.special_ids == {"pad": 6, "unknown": 5, "start": 4, "end": 2, "mask": 1}
    assert tokenizer(tf.constant(["b x a"])).to_list() == [[3, 5, 0]]


@pytest.mark.parametrize("kind", ["characters", "words", "wordpiece"])
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "a"],
         r'vocabulary.txt line 8: the token "a" was there before \(.*vocabulary.txt line 6\)'),
        (["[PAD]", "[UNK]", "", "[CLS]", "[SEP]", "[MASK]"], r"vocabulary.txt line 3 is empty"),
        ([""], r"vocabulary.txt is empty; a vocabulary has one token per line"),
        (["[PAD]", "[UNK]", "[SEP]", "a"],
         r"vocabulary.txt line 1 to 4: the vocabulary has no \[CLS\] and no \[MASK\]; every vocabulary needs"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_line(file: Callable, kind: str, lines: list[str], message: str) -> None:
    if kind == "wordpiece":
        pytest.importorskip("keras_hub")
    with pytest.raises(UserError, match=message):
        made(file(lines=lines), kind)


def test_other_mistakes_with_files(file: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'vocabulary.txt line 6: "book" is more than one character'):
        made(file("book"))
    path = file("a")
    path.write_bytes(path.read_bytes() + b"\xff\n")
    with pytest.raises(UserError, match=r"vocabulary.txt line 7 is not UTF-8"):
        made(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"vocabulary.txt is empty"):
        made(path)
    with pytest.raises(MissingFileError, match=r"vocab.txt \(data.tokenizer.vocabulary\) is not there; did you mean"):
        made(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match=r"is a folder; a file was expected"):
        made(tmp_path, "words")
    pytest.importorskip("keras_hub")
    with pytest.raises(MissingFileError, match=r"holds no vocabulary: neither assets/tokenizer/vocabulary.txt"):
        made(tmp_path / "..", "wordpiece")


def test_a_keras_preset_folder(special: list[str], tmp_path: Path) -> None:
    keras_hub = pytest.importorskip("keras_hub")
    for lowercase in (True, False):
        folder = tmp_path / str(lowercase)
        tokenizer = keras_hub.tokenizers.BertTokenizer(
            vocabulary=[*special, "书"], lowercase=lowercase, strip_accents=True
        )
        tokenizer.save_to_preset(str(folder))
        given = read_vocabulary(folder)
        assert (given.tokens, given.lowercase, given.strip_accents) == ([*special, "书"], lowercase, True)
        made_of_it = made(folder, "wordpiece", lowercase=not lowercase)
        assert made_of_it.lowercase == lowercase  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_lower_case": True}, (True, True)),
        ({"do_lower_case": False}, (False, False)),
        ({"do_lower_case": True, "strip_accents": False}, (True, False)),
        ({"do_lower_case": True, "strip_accents": None}, (True, True)),
        ({}, (None, None)),
    ],
)
def test_a_hugging_face_folder(file: Callable, tmp_path: Path, settings: dict, expected: tuple) -> None:
    file("书", name="vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    given = read_vocabulary(tmp_path)
    assert (given.tokens[5:], given.lowercase, given.strip_accents) == (["书"], *expected)


def test_a_hugging_face_folder_without_vocab_txt(special: list[str], tmp_path: Path) -> None:
    tokens = [*special, "书", "a"]
    tokenizer = {
        "added_tokens": [{"id": 7, "content": "[NEW]"}, {"id": 0, "content": "[PAD]"}],
        "normalizer": {"type": "BertNormalizer", "lowercase": False, "strip_accents": None},
        "model": {"type": "WordPiece", "vocab": {token: index for index, token in enumerate(tokens)}},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    given = read_vocabulary(tmp_path)
    assert (given.tokens, given.lowercase, given.strip_accents) == ([*tokens, "[NEW]"], False, False)

    for change, message in [
        ({"model": {"type": "BPE", "vocab": {}}}, r"tokenizer.json is a tokenizer of kind BPE; WordPiece"),
        ({"model": {"type": "WordPiece"}}, r"tokenizer.json is damaged: it has no vocabulary"),
        ({"added_tokens": [{"id": 9, "content": "x"}]}, r"the ids of its 8 tokens are not 0 to 7"),
        ({"normalizer": {"handle_chinese_chars": False}}, r"leave Chinese characters together"),
    ]:
        path.write_text(json.dumps(tokenizer | change))
        with pytest.raises(UserError, match=message):
            read_vocabulary(tmp_path)
    path.write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer.json is damaged: settings by name"):
        read_vocabulary(tmp_path)


def test_ids_of_a_hugging_face_folder_equal_those_of_transformers(special: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("keras_hub")
    tokens = [*special, "read", "##ing", "cafe", "书", "!", ",", "a", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    reference = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=True)
    texts = ["Reading a café, 书书!", "AS reads", "", "x\ty"]
    expected = [reference.encode(text, add_special_tokens=False) for text in texts]
    assert made(tmp_path, "wordpiece")(tf.constant(texts)).to_list() == expected
