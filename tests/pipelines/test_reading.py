"""Files that were not part of training: what `evaluate` and `predict` read."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pipelines
from pipelines.config import BuiltinConfig
from pipelines.data import Data, Examples
from pipelines.errors import MissingFileError, UserError


@pytest.fixture
def read(load_table: Callable, table_config: Callable, write: Callable) -> Callable[..., Examples]:
    """Reads a file of this text for the usual run."""

    def read_text(text: str, labelled: bool = True, name: str = "new.csv", **options: object) -> Examples:
        data: Data = load_table(**options)
        path = write(name, text)
        return pipelines.read_examples(path, table_config(**options), data.preprocess, data.info, labelled)

    return read_text


def test_a_files_examples_are_the_runs_own(read: Callable, load_table: Callable, as_csv: Callable) -> None:
    data = load_table()
    examples = read(as_csv())
    for split in ("train", "validation", "test"):
        own = data.examples(split)
        index = own.rows - 1
        np.testing.assert_array_equal(examples.labels[index], own.labels)
        np.testing.assert_array_equal(
            data.preprocess({name: values[index] for name, values in examples.features.items()})["features"],
            data.preprocess(own.features)["features"],
        )
    assert examples.rows.tolist() == list(range(1, 61))


def test_columns_may_be_others_and_in_another_order(read: Callable) -> None:
    examples = read("note,score,colour,age\nx,0.5,red,7\n", labelled=False)
    assert examples.labels is None
    assert examples.features["age"].tolist() == [7.0]
    assert examples.features["colour"].tolist() == ["red"]


def test_another_format_than_the_training_files(read: Callable) -> None:
    text = '{"age": 7, "colour": "red", "score": 0.5, "label": "yes"}\n'
    examples = read(text, name="new.jsonl", delimiter=",")
    assert examples.labels.tolist() == [1]


def test_a_regressions_labels_stay_in_their_units(read: Callable) -> None:
    options = {"label": "score", "task": "regression", "ignore": ["label"]}
    assert read("age,colour,score\n7,red,0.5\n", **options).labels.tolist() == [0.5]
    with pytest.raises(UserError, match=r'new.csv row 1, column score: the label "low" is not a number'):
        read("age,colour,score\n7,red,low\n", **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "age,colour,score,label\n7,red,1,maybe\n",
            r'new.csv row 1, column label: label "maybe" was not seen in training;'
            r' the classes are "no", "yes"',
        ),
        ("age,colour,score\n7,red,1\n", r'new.csv has no column "label" \(the label of this run\)'),
        ("agee,colour,score,label\n7,red,1,yes\n", r'new.csv has no column "age" \(a feature .*did you mean "agee"\?'),
        (
            "age,colour,score,label\nold,red,1,yes\n",
            r'row 1, column age: "old" is not a number; correct it; the column was',
        ),
        ("age,colour,score,label\n7,,1,yes\n", r"row 1, column colour: the cell is empty or NaN"),
        ("age,colour,score,label\n7,red,1,\n", r"row 1, column label: the label is empty"),
        ("", r"new.csv is empty"),
    ],
)
def test_what_is_wrong_in_a_file(read: Callable, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(text)


def test_missing_values_are_left_to_the_preprocessor(read: Callable) -> None:
    examples = read("age,colour,score,label\nNA,,1,yes\n", missing="mean")
    assert np.isnan(examples.features["age"]).all()
    assert examples.features["colour"].tolist() == [""]


@pytest.fixture
def digits() -> Data:
    return pipelines.load(BuiltinConfig(source="builtin", name="digits"))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_image_files_give_the_runs_own_numbers(digits: Data, tmp_path: Path) -> None:
    own = digits.examples("test").features["pixels"][:3]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, own, strict=True):
        path.write_bytes(png(pixels[..., 0]))
    examples = pipelines.read_image_files(paths, digits.preprocess)
    assert examples.labels is None
    assert examples.rows.tolist() == [0, 1, 2]
    dataset = pipelines.batches(examples, digits.preprocess, digits.info, 2)
    found = np.concatenate([features["image"] for features, _ in dataset])[:3]
    np.testing.assert_array_equal(found, digits.preprocess({"pixels": tf.constant(own)})["image"])


def test_a_table_of_image_paths(digits: Data, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(np.zeros([8, 8], np.uint8)))
    (tmp_path / "new.csv").write_text("label,image\n7,images/a.png\n")
    config = BuiltinConfig(source="builtin", name="digits")
    examples = pipelines.read_examples(tmp_path / "new.csv", config, digits.preprocess, digits.info, True)
    assert examples.labels.tolist() == [7]
    assert digits.preprocess({"image": tf.constant(examples.features["image"])})["image"].shape == (1, 8, 8, 1)
    for text, message in (
        ("label,image\n7,b.png\n", r"b.png \(.*new.csv row 1, column image\) is not there"),
        ("label,image\n7,\n", r"new.csv row 1, column image: the cell is empty"),
        ("label,image\n7,new.csv\n", r"row 1, column image: .*new.csv is no PNG, JPEG, BMP or GIF image"),
        ("label,imege\n7,a.png\n", r'no column "image" \(the paths of this run.s images\); did you mean "imege"\?'),
        ("label,image\n11,images/a.png\n", r'row 1, column label: label "11" was not seen in training'),
    ):
        (tmp_path / "new.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            pipelines.read_examples(tmp_path / "new.csv", config, digits.preprocess, digits.info, True)


def test_broken_image_files_are_named(digits: Data, tmp_path: Path, load_table: Callable) -> None:
    whole = png(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(whole[:900])
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"cut.png is damaged or cut off and cannot be decoded; replace it"):
        pipelines.read_image_files([tmp_path / "cut.png"], digits.preprocess)
    with pytest.raises(UserError, match=r"text.jpg is no PNG, JPEG, BMP or GIF image; it has 8 bytes; replace it"):
        pipelines.read_image_files([tmp_path / "text.jpg"], digits.preprocess)
    with pytest.raises(MissingFileError, match=r'txt.jpg is not there; did you mean "text.jpg"\?'):
        pipelines.read_image_files([tmp_path / "txt.jpg"], digits.preprocess)
    with pytest.raises(UserError, match="no image file was given"):
        pipelines.read_image_files([], digits.preprocess)
    with pytest.raises(UserError, match="this run was not trained on images"):
        pipelines.read_image_files([tmp_path / "cut.png"], load_table().preprocess)
