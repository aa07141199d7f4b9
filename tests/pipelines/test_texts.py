"""Texts with labels: from the shipped reviews and from tables, cleaned, divided, drawn, tokenised, batched."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines.config import BuiltinConfig, TableConfig
from pipelines.data import SPLITS, Data, DatasetInfo, Examples
from pipelines.errors import UserError
from pipelines.sources.builtin import REVIEWS
from pipelines.text.preprocess import TextPreprocessor

# 60 rows of each of two classes, of different lengths.
REVIEW_ROWS = [
    ("好" * (1 + i % 7) + f"书{i}" if i % 2 else f"差评{i}啊" * (1 + i % 3), "好评" if i % 2 else "差评")
    for i in range(120)
]
Load = Callable[..., Data]


def table(rows: list[tuple[str, str]] = REVIEW_ROWS, header: str = "review,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


@pytest.fixture
def load_texts(tmp_path: Path) -> Load:
    def load(content: str | bytes | None = None, name: str = "data.csv", **values: object) -> Data:
        text = table() if content is None else content
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        known = {"source": "table", "data_dir": tmp_path, "path": name, "label": "label", "text": "review"}
        return pipelines.load(TableConfig.model_validate({**known, "batch_size": 8, **values}))

    return load


def text_preprocessor(data: Data) -> TextPreprocessor:
    assert isinstance(data.preprocess, TextPreprocessor)
    return data.preprocess


def texts(examples: Examples) -> list[str]:
    return [text.decode() for text in examples.features["text"]]


@pytest.fixture(scope="module")
def reviews() -> Data:
    return pipelines.load(BuiltinConfig(source="builtin", name="reviews_zh"))


def test_all_reviews_are_there(reviews: Data) -> None:
    labels = np.concatenate([reviews.examples(split).labels for split in SPLITS])
    assert len(labels) == 12_006
    assert (labels == 1).sum() == (labels == 0).sum() == 6_003
    assert reviews.info.class_names == ("negative", "positive")
    assert dict(reviews.info.counts) == {"train": 8404, "validation": 1201, "test": 2401}
    assert sorted(np.concatenate([reviews.examples(split).rows for split in SPLITS])) == list(range(1, 12_007))
    lines = REVIEWS.read_text(encoding="utf-8").splitlines()
    first = reviews.examples("test")
    assert texts(first)[0] in lines[first.rows[0]]
    assert lines[first.rows[0]].endswith(str(first.labels[0]))
    assert "MIT License" in REVIEWS.with_suffix(".LICENSE").read_text()


def test_reviews_of_both_kinds_are_told_apart_by_their_labels(reviews: Data) -> None:
    train = reviews.examples("train")
    said = np.array(["喜欢" in text for text in texts(train)])
    assert train.labels[said].mean() > 0.6, "1 is positive"


def test_info(reviews: Data) -> None:
    info = reviews.info
    assert info.inputs == {"token_ids": (None,), "padding_mask": (None,)}
    assert info.input_dtypes == {"token_ids": "int32", "padding_mask": "int32"}
    assert info.text is not None
    assert info.text.vocabulary_size == len(text_preprocessor(reviews).tokenizer.vocabulary)
    assert info.text.special_ids == {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
    assert (info.text.sequence_length, info.text.bigram_vocabulary_size) == (128, 0)
    assert info.text.cleaning == {"invalid_utf8": 0, "control_characters": 0}
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_training_batches_equal_what_is_served(load_texts: Load, served: Callable) -> None:
    data = load_texts(shuffle=False, tokenizer={"bigrams": 50})
    raw = tf.constant(data.examples("train").features["text"])
    answer = served(data.preprocess)["serving_default"](text=raw[:8])
    features, _ = next(iter(data.train()))
    assert list(features) == ["token_ids", "padding_mask", "bigram_ids"]
    for name, values in features.items():
        np.testing.assert_array_equal(answer[name], values)


def test_classes_are_the_labels_as_they_are_written(load_texts: Load) -> None:
    data = load_texts()
    assert data.info.class_names == ("好评", "差评")
    for split in SPLITS:
        examples = data.examples(split)
        for text, label, row in zip(texts(examples), examples.labels, examples.rows, strict=True):
            assert (text, data.info.class_names[label]) == REVIEW_ROWS[row - 1]
    assert dict(data.info.counts) == {"train": 84, "validation": 12, "test": 24}


def test_the_vocabulary_is_learned_from_the_training_split_only(load_texts: Load) -> None:
    data = load_texts(tokenizer={"min_count": 1})
    vocabulary = set(text_preprocessor(data).tokenizer.vocabulary[5:])
    assert vocabulary == set("".join(texts(data.examples("train"))))
    held_out = table([("鑫", "好评"), ("淼", "差评")])
    Path(data.examples("train").origin).with_name("test.csv").write_text(held_out, encoding="utf-8")
    data = load_texts(tokenizer={"min_count": 1}, test_path="test.csv")
    assert not {"鑫", "淼"} & set(text_preprocessor(data).tokenizer.vocabulary)


def test_it_is_learned_from_cleaned_texts(load_texts: Load) -> None:
    rows = [(f"<i>{text}</i>", label) for text, label in REVIEW_ROWS]
    data = load_texts(table(rows), cleaning={"html": True})
    assert not set("<>/i") & set(text_preprocessor(data).tokenizer.vocabulary)
    assert data.info.text.cleaning["html"] == 120  # type: ignore[union-attr]
    assert texts(data.examples("test"))[0].startswith("<i>"), "examples are shown as they were read"


@pytest.mark.parametrize(
    ("name", "encoding"), [("data.csv", "gb18030"), ("data.tsv", "gb18030"), ("data.csv", "utf-8")]
)
def test_encodings(load_texts: Load, name: str, encoding: str) -> None:
    content = table().replace(",", "\t") if name.endswith("tsv") else table()
    bom = b"\xef\xbb\xbf" if encoding == "utf-8" else b""
    data = load_texts(bom + content.encode(encoding), name, encoding=encoding)
    assert data.info.fingerprint == load_texts().info.fingerprint


def test_json_lines_and_parquet(load_texts: Load, tmp_path: Path) -> None:
    lines = [json.dumps({"review": text, "label": label}) for text, label in REVIEW_ROWS]
    expected = load_texts().info.fingerprint
    assert load_texts("\n".join(lines), "data.jsonl").info.fingerprint == expected
    pytest.importorskip("pyarrow")
    import pandas as pd

    frame = pd.DataFrame(REVIEW_ROWS, columns=["review", "label"])
    frame.to_parquet(tmp_path / "frame.parquet")
    content = (tmp_path / "frame.parquet").read_bytes()
    assert load_texts(content, "data.parquet").info.fingerprint == expected


def test_half_a_surrogate_pair_in_json_is_named(load_texts: Load) -> None:
    lines = [json.dumps({"review": text + "😀", "label": label}) for text, label in REVIEW_ROWS]
    assert texts(load_texts("\n".join(lines), "data.jsonl").examples("test"))[0].endswith("😀")
    lines[4] = json.dumps({"review": "a\ud83d", "label": "好评"})
    with pytest.raises(UserError, match=r"data.jsonl line 5 has \\ud83d without its other half .*; remove it"):
        load_texts("\n".join(lines), "data.jsonl")


def test_a_wrong_byte_is_named_with_its_row(load_texts: Load) -> None:
    with pytest.raises(UserError, match=r"data.csv line 1 .*byte 0x.. at offset .* is not utf-8.*gb18030"):
        load_texts(table(header="评论,label").encode("gb18030"))
    wrong = table().encode().split(b"\n")
    wrong[5] = b"\xff" + wrong[5]
    with pytest.raises(UserError, match=r"data.csv line 6 \(row 5 .*byte 0xff"):
        load_texts(b"\n".join(wrong))


def test_regression_on_texts(load_texts: Load) -> None:
    rows = [(text, str(i / 10)) for i, (text, _) in enumerate(REVIEW_ROWS)]
    data = load_texts(table(rows), task="regression")
    assert (data.info.task, data.info.class_names) == ("regression", ())
    targets = data.examples("test").labels
    np.testing.assert_allclose(targets, (data.examples("test").rows - 1) / 10, rtol=1e-6)
    trained_on = np.concatenate([label for _, label, _ in data.evaluation("test")])
    np.testing.assert_allclose(trained_on * data.info.target_scale + data.info.target_mean, targets, atol=1e-5)
    assert data.info.input_dtypes["token_ids"] == "int32"


def test_rows_are_left_out_before_they_are_divided(load_texts: Load) -> None:
    rows = [*REVIEW_ROWS, ("", "好评"), (REVIEW_ROWS[0][0], "好评"), (" ", "差评")]
    data = load_texts(table(rows), cleaning={"empty": "drop", "duplicates": "drop"})
    distinct = len({text for text, _ in REVIEW_ROWS})
    assert data.info.text.cleaning["empty"] == 2  # type: ignore[union-attr]
    assert data.info.text.cleaning["duplicates"] == 121 - distinct  # type: ignore[union-attr]
    assert sum(data.info.counts.values()) == distinct
    for split in SPLITS:
        examples = data.examples(split)
        assert [rows[row - 1][0] for row in examples.rows] == texts(examples)


def test_a_test_text_that_is_in_the_training_file_is_a_duplicate(load_texts: Load, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(table([REVIEW_ROWS[3], ("新书", "好评")]), encoding="utf-8")
    data = load_texts(test_path="test.csv", cleaning={"duplicates": "drop"})
    assert texts(data.examples("test")) == ["新书"]
    assert data.examples("test").rows.tolist() == [2]
    assert load_texts(test_path="test.csv").info.counts["test"] == 2


def test_some_training_examples(load_texts: Load) -> None:
    whole, part, more = load_texts(), load_texts(train_examples=20), load_texts(train_examples=41)
    assert part.info.counts == {**whole.info.counts, "train": 20}
    assert part.info.class_counts == (10, 10)
    assert sorted(more.info.class_counts) == [20, 21]
    rows = [set(data.examples("train").rows.tolist()) for data in (part, more, whole)]
    assert rows[0] < rows[1] < rows[2], "a smaller draw is a part of a larger one"
    assert texts(part.examples("test")) == texts(whole.examples("test"))
    assert rows[0] != set(load_texts(train_examples=20, split={"seed": 7}).examples("train").rows.tolist())
    with pytest.raises(UserError, match=r"data.train_examples is 85 and there are 84 training examples; lower it"):
        load_texts(train_examples=85)
    with pytest.raises(UserError, match=r"data.train_examples is 1 and there are 2 classes; raise it"):
        load_texts(train_examples=1)


def test_wordpiece_gives_the_rows_of_bert(load_texts: Load) -> None:
    pytest.importorskip("keras_hub")
    data = load_texts(tokenizer={"kind": "wordpiece", "vocabulary_size": 100})
    assert list(data.info.inputs) == ["token_ids", "segment_ids", "padding_mask"]
    features, _ = next(iter(data.train()))
    assert set(features["token_ids"][:, 0].numpy()) == {2}


def test_a_given_vocabulary_is_relative_to_the_data(load_texts: Load, tmp_path: Path, tokens: str) -> None:
    (tmp_path / "characters.txt").write_text(tokens, encoding="utf-8")
    first = load_texts(tokenizer={"vocabulary": "characters.txt"})
    assert first.info.text.vocabulary_size == 7  # type: ignore[union-attr]
    (tmp_path / "characters.txt").write_text(tokens + "书\n", encoding="utf-8")
    second = load_texts(tokenizer={"vocabulary": "characters.txt"})
    assert first.info.fingerprint != second.info.fingerprint, "the same texts have other ids now"


@pytest.fixture
def tokens() -> str:
    return "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n好\n差\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "reveiw"}, r'data.csv has no column "reveiw" \(data.text\); did you mean "review"\?'),
        ({"text": "label"}, r'data.text and data.label are both "label"'),
        ({"label": "lable"}, r'has no column "lable" \(data.label\)'),
        ({"numeric": ["review"]}, r"data.numeric and data.text cannot be used together"),
        ({"categorical": []}, r"data.categorical and data.text cannot be used together"),
        ({"text": None, "tokenizer": {}}, r"data.tokenizer is for texts, and data.text names no column of texts"),
        ({"text": None, "cleaning": {"html": True}}, r"data.cleaning is for texts"),
        ({"tokenizer": {"vocabulary": "no.txt"}}, r"no.txt \(data.tokenizer.vocabulary\) is not there"),
        ({"batch_size": 100}, r"84 training examples are fewer than one batch of 100"),
    ],
)
def test_what_does_not_fit_is_named(load_texts: Load, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_texts(**values)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*REVIEW_ROWS, ("", "好评")], r"data.csv row 121: the text is empty; fill it in, or set data.cleaning.empty"),
        ([("好", "好评")] * 40, r"one class only, \"好评\" in label; a classifier needs at least two"),
        ([*REVIEW_ROWS, ("好", "中评")], r'class "中评" has 1 example'),
        ([*REVIEW_ROWS, ("好", "")], r"data.csv row 121, column label"),
    ],
)
def test_wrong_rows_are_named(load_texts: Load, rows: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_texts(table(rows))


def test_a_null_text_is_an_empty_one(load_texts: Load) -> None:
    lines = [json.dumps({"review": text, "label": label}) for text, label in REVIEW_ROWS]
    lines.append(json.dumps({"review": None, "label": "好评"}))
    with pytest.raises(UserError, match=r"data.jsonl row 121: the text is empty"):
        load_texts("\n".join(lines), "data.jsonl")


def test_text_options_are_not_for_digits() -> None:
    config = BuiltinConfig.model_validate({"source": "builtin", "name": "digits", "tokenizer": {}})
    with pytest.raises(UserError, match=r"data.tokenizer is for texts, and builtin digits are images"):
        pipelines.load(config)


# --- examples to predict


def test_examples_from_a_table(load_texts: Load, tmp_path: Path) -> None:
    data = load_texts()
    config = TableConfig.model_validate(
        {"source": "table", "data_dir": tmp_path, "path": "data.csv", "label": "label", "text": "review"}
    )
    path = tmp_path / "new.csv"
    path.write_text("id,review,label\n1,好书,好评\n2,,差评\n", encoding="utf-8")
    examples = pipelines.read_examples(path, config, data.preprocess, data.info, labelled=True)
    assert texts(examples) == ["好书", ""]
    assert examples.labels.tolist() == [0, 1]
    assert examples.rows.tolist() == [1, 2]
    element = next(iter(pipelines.batches(examples, data.preprocess, data.info, 4)))
    assert element[0]["token_ids"].shape == (2, 8)

    path.write_text("text\n好书\n", encoding="utf-8")
    with pytest.raises(UserError, match=r'new.csv has no column "review" \(the texts of this run\)'):
        pipelines.read_examples(path, config, data.preprocess, data.info, labelled=False)
    reviews_config = BuiltinConfig(source="builtin", name="reviews_zh")
    examples = pipelines.read_examples(path, reviews_config, data.preprocess, data.info, labelled=False)
    assert (texts(examples), examples.labels) == (["好书"], None)


def test_texts_as_they_were_typed(load_texts: Load) -> None:
    data = load_texts()
    examples = pipelines.read_texts(["好书", "", "a\udc80"], data.preprocess)
    assert (examples.labels, len(examples)) == (None, 3)
    features, weight = next(iter(pipelines.batches(examples, data.preprocess, data.info, 8)))
    assert features["token_ids"].shape == (3, 8)
    assert weight.numpy().tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="no text was given"):
        pipelines.read_texts([], data.preprocess)
    digits = pipelines.load(BuiltinConfig(source="builtin", name="digits"))
    with pytest.raises(UserError, match="this run was not trained on texts"):
        pipelines.read_texts(["a"], digits.preprocess)
