"""What is served is what was trained: the three ways of a raw example to the model's input, and to disk and back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines.config import BuiltinConfig
from pipelines.data import Data, Preprocessor
from pipelines.errors import MissingFileError, UserError
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.tables.preprocess import CategoricalColumn, NumericColumn, TablePreprocessor


@pytest.fixture(params=["table", "table with vectors", "table of categories", "digits"])
def preprocess_and_raw(request: pytest.FixtureRequest, load_table: Callable) -> tuple[Preprocessor, dict]:
    if request.param == "digits":
        data = pipelines.load(BuiltinConfig(source="builtin", name="digits"))
        return data.preprocess, {"pixels": data.examples("test").features["pixels"]}
    if request.param == "table":
        data = load_table(missing="median")
        return data.preprocess, dict(data.examples("test").features)
    colour = CategoricalColumn("colour of it", "colour_of_it", ("blue", "red, or\nso", "红"), None)
    position = NumericColumn("position", "position", (1.5, 0.1), (2.0, 1 / 3), (), vector=True)
    raw = {"colour_of_it": np.array(["红", "blue", "red, or\nso", " blue\t", "violet"])}
    if request.param == "table of categories":
        return TablePreprocessor((), (colour,)), raw
    return TablePreprocessor((position,), (colour,)), raw | {"position": np.ones([5, 2], np.float32)}


def tensors(raw: dict) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in raw.items()}


def test_eager_graph_and_served_numbers_are_equal(preprocess_and_raw: tuple, served: Callable) -> None:
    preprocess, raw = preprocess_and_raw
    expected = preprocess(tensors(raw))
    signature = "pixels" if "pixels" in raw else "serving_default"
    found = served(preprocess)[signature](**tensors(raw))
    dataset = tf.data.Dataset.from_tensor_slices(tensors(raw)).batch(2).map(preprocess)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        np.testing.assert_array_equal(np.concatenate([element[name] for element in dataset]), values)


def test_saved_and_loaded_it_gives_the_same_numbers(preprocess_and_raw: tuple, tmp_path: Path) -> None:
    preprocess, raw = preprocess_and_raw
    folder = tmp_path / "preprocessor"
    folder.mkdir()
    preprocess.save(folder)
    loaded = pipelines.load_preprocessor(folder)
    assert loaded.signatures == preprocess.signatures
    for name, values in preprocess(tensors(raw)).items():
        np.testing.assert_array_equal(loaded(tensors(raw))[name], values)
    assert {path.suffix for path in folder.iterdir()} == {".json"}


def test_training_batches_equal_what_is_served(load_table: Callable, served: Callable) -> None:
    data: Data = load_table(missing="mean", shuffle=False)
    raw = tensors(dict(data.examples("train").features))
    answer = served(data.preprocess)["serving_default"](**raw)["features"]
    batches = np.concatenate([features["features"] for features, _ in data.train()])
    np.testing.assert_array_equal(batches, answer[: len(batches)])


def test_unknown_and_odd_categories(load_table: Callable) -> None:
    preprocess = load_table().preprocess
    colours = tf.constant(["violet", " red\n", "RED", "红", "blue"])
    raw = {"age": tf.zeros([5]), "score": tf.zeros([5]), "colour": colours}
    indicators = preprocess(raw)["features"][:, 2:].numpy().tolist()
    assert indicators == [[0, 0], [0, 1], [0, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("missing", "changed", "message"),
    [
        ("refuse", {"age": [1.0, np.nan]}, r'column ."?age."? is infinite, or missing.*element 1 of the batch'),
        ("refuse", {"score": [np.inf, 0.0]}, r'column ."?score."? is infinite, or missing.*element 0 of the batch'),
        ("refuse", {"colour": ["red", " "]}, r'column ."?colour."? is missing \(empty\).*element 1 of the batch'),
        ("refuse", {"age": [np.nan, 0.0], "score": [np.nan, 0.0]}, r"age, score"),
        ("mean", {"age": [-np.inf, 0.0]}, r"age.* is infinite"),
    ],
)
def test_what_may_not_be_served_stops_the_saved_graph(
    load_table: Callable, served: Callable, missing: str, changed: dict, message: str
) -> None:
    good = {"age": [30.0, 40.0], "score": [0.0, 1.0], "colour": ["red", "blue"]}
    function = served(load_table(missing=missing).preprocess)["serving_default"]
    function(**{name: tf.constant(values) for name, values in good.items()})
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        function(**{name: tf.constant(values) for name, values in (good | changed).items()})


def test_missing_values_are_filled_when_served(load_table: Callable, served: Callable) -> None:
    data = load_table(missing="mean")
    raw = {"age": tf.constant([np.nan]), "score": tf.constant([np.nan]), "colour": tf.constant([""])}
    features = served(data.preprocess)["serving_default"](**raw)["features"]
    # The mean's z-score is 0, and red is the most frequent colour.
    np.testing.assert_allclose(features, [[0, 0, 0, 1]], atol=1e-7)


def test_other_inputs_are_refused_by_name(load_table: Callable) -> None:
    with pytest.raises(ValueError, match=r"takes \['age', 'colour', 'score'\], not \['age'\]"):
        load_table().preprocess({"age": tf.zeros([1])})
    with pytest.raises(ValueError, match=r'takes "image" or "pixels", not \[\'text\'\]'):
        ImagePreprocessor(8, 8, 1)({"text": tf.constant(["a"])})


def saved(load_table: Callable, folder: Path) -> Path:
    folder.mkdir()
    load_table().preprocess.save(folder)
    return folder


@pytest.mark.parametrize("name", ["preprocessor.json", "vocabulary.json"])
def test_a_missing_file_is_named(load_table: Callable, tmp_path: Path, name: str) -> None:
    folder = saved(load_table, tmp_path / "saved")
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=rf"{name} is missing"):
        pipelines.load_preprocessor(folder)


@pytest.mark.parametrize("name", ["preprocessor.json", "vocabulary.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "table"}', '{"kind": "tabel"}', '{"colour": 1}'])
def test_a_damaged_file_is_named(load_table: Callable, tmp_path: Path, name: str, text: str) -> None:
    folder = saved(load_table, tmp_path / "saved")
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=name):
        pipelines.load_preprocessor(folder)


@pytest.mark.parametrize(
    "change", [{"center": [0, 0]}, {"scale": ["x"]}, {"fill": [1, 2]}, {"unknown": 1}, {"center": None}]
)
def test_a_damaged_column_is_found(load_table: Callable, tmp_path: Path, change: dict) -> None:
    folder = saved(load_table, tmp_path / "saved")
    config = json.loads((folder / "preprocessor.json").read_text())
    config["numeric"][0] |= change
    (folder / "preprocessor.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"preprocessor.json is damaged"):
        pipelines.load_preprocessor(folder)
