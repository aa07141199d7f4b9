"""TFDS datasets: prepared on disk, read without their code and without a network."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines.config import TfdsConfig
from pipelines.data import Data
from pipelines.errors import MissingFileError, UserError
from pipelines.remote import upload

tfds = pytest.importorskip("tensorflow_datasets")

NUM_TRAIN, NUM_TEST = 40, 16


def image(number: int) -> np.ndarray:
    return np.full((4, 4, 1), number, np.uint8)


def photograph(number: int) -> np.ndarray:
    """Noise of a size that depends on the number, whose first pixel is the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4 + number % 5, 4 + number % 3, 3), dtype=np.uint8)
    pixels[0, 0] = number
    return pixels


# TFDS finds a builder's folder from the file that defines it, so these are told all they need to know.
class _Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.2.3")
    pkg_dir_path = Path(__file__).parent
    url_infos: dict = {}
    columns: dict = {}
    supervised: tuple | None = None

    def _info(self):
        features = tfds.features.FeaturesDict(self.columns)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=self.supervised)

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0, NUM_TRAIN), "test": self._generate_examples(100, NUM_TEST)}

    def _generate_examples(self, start: int, number: int):
        for i in range(start, start + number):
            yield i, self.example(i)


class MadeImages(_Made, skip_registration=True):
    columns = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(names=["even", "odd"])}
    supervised = ("image", "label")

    def example(self, i: int) -> dict:
        return {"image": image(i), "label": i % 2}


class MadeNumbers(_Made, skip_registration=True):
    columns = {
        "age": tfds.features.Scalar(np.int64),
        "place": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "colour": tfds.features.ClassLabel(names=["red", "blue"]),
        "survived": tfds.features.Scalar(np.int32),
        "price": tfds.features.Scalar(np.float32),
        "name": tfds.features.Text(),
    }
    supervised = ({"age": "age", "place": "place", "colour": "colour"}, "survived")

    def example(self, i: int) -> dict:
        return {
            "age": i,
            "place": [i / 2, -i],
            "colour": i % 3 % 2,
            "survived": 7 if i % 2 else 10,
            "price": i * 1.5,
            "name": f"Mr {i}",
        }


class MadeSizes(MadeImages, skip_registration=True):
    columns = {**MadeImages.columns, "image": tfds.features.Image(shape=(None, None, 1))}


class MadePhotographs(_Made, skip_registration=True):
    """Colour images of different sizes, with other things beside them and no supervised keys."""

    columns = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "file_name": tfds.features.Text(),
        "kind": tfds.features.ClassLabel(names=["even", "odd"]),
    }

    def example(self, i: int) -> dict:
        return {"image": photograph(i), "file_name": f"{i}.png", "kind": i % 2}


class MadeTransparent(MadeImages, skip_registration=True):
    columns = {**MadeImages.columns, "image": tfds.features.Image(shape=(4, 4, 4))}

    def example(self, i: int) -> dict:
        return {"image": np.full((4, 4, 4), i, np.uint8), "label": i % 2}


class MadeUnlabelled(MadeImages, skip_registration=True):
    def example(self, i: int) -> dict:
        return {"image": image(i), "label": i % 2 if i < 100 else -1}


class MadeReviews(_Made, skip_registration=True):
    """As imdb_reviews."""

    columns = {"label": tfds.features.ClassLabel(names=["neg", "pos"]), "text": tfds.features.Text()}
    supervised = ("text", "label")

    def example(self, i: int) -> dict:
        return {"text": f"{'good' if i % 2 else 'bad'}<br />书 {i}", "label": i % 2}


class MadePhrases(_Made, skip_registration=True):
    """As glue/sst2, and one text more."""

    columns = {
        "idx": tfds.features.Scalar(np.int32),
        "label": tfds.features.ClassLabel(names=["negative", "positive"]),
        "sentence": tfds.features.Text(),
        "title": tfds.features.Text(),
    }

    def example(self, i: int) -> dict:
        return {"idx": i, "label": i % 2, "sentence": f"phrase {i}", "title": b"\xff" if i == 3 else f"title {i}"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    images = (MadeImages, MadeSizes, MadePhotographs, MadeTransparent, MadeUnlabelled)
    for builder in (*images, MadeNumbers, MadeReviews, MadePhrases):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def load(prepared: Path) -> Callable[..., Data]:
    def load_dataset(name: str = "made_images", **options: object) -> Data:
        known = {"source": "tfds", "name": name, "data_dir": prepared, "batch_size": 4}
        return pipelines.load(TfdsConfig.model_validate(known | options))

    return load_dataset


def test_images_come_with_their_declared_classes(load: Callable) -> None:
    data = load()
    assert data.info.class_names == ("even", "odd")
    assert data.info.inputs == {"image": (4, 4, 1)}
    assert dict(data.info.counts) == {"train": 36, "validation": 4, "test": 16}
    test = data.examples("test")
    shown = test.features["pixels"][:, 0, 0, 0]
    assert sorted(shown) == list(range(100, 116))
    np.testing.assert_array_equal(test.labels, shown % 2)
    assert test.origin == "tfds made_images/1.2.3 test"


def assert_batches_are(data: Data, pixels: list[np.ndarray]) -> None:
    """The test split's batches are what the preprocessor gives for these images as files."""
    encoded = tf.stack([tf.io.encode_png(image) for image in pixels])
    found = np.concatenate([features["image"] for features, _, _ in data.test()])
    np.testing.assert_array_equal(found, data.preprocess({"image": encoded})["image"])


def test_images_are_held_as_pixels_of_the_configured_size(load: Callable) -> None:
    data = load(images={"size": 3, "channels": 3, "normalization": "imagenet"})
    test = data.examples("test")
    assert (test.features["pixels"].shape, test.features["pixels"].dtype) == ((16, 3, 3, 3), np.uint8)
    assert data.info.inputs == {"image": (3, 3, 3)}
    assert_batches_are(data, [image(int(number)) for number in test.features["pixels"][:, 0, 0, 0]])


def test_larger_images_are_held_as_they_are_stored(load: Callable) -> None:
    data = load(images={"size": 64, "channels": 3})
    test = data.examples("test")
    assert set(test.features) == {"image"}
    assert test.features["image"].dtype == object
    assert data.info.inputs == {"image": (64, 64, 3)}
    numbers = [int(tf.io.decode_png(content)[0, 0, 0]) for content in test.features["image"]]
    assert sorted(numbers) == list(range(100, 116))
    np.testing.assert_array_equal(test.labels, np.array(numbers) % 2)
    assert_batches_are(data, [image(number) for number in numbers])
    assert data.train().element_spec[0]["image"].shape == (4, 64, 64, 3)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_images_of_different_sizes(load: Callable, resize: str) -> None:
    images = {"size": 6, "resize": resize}
    data = load("made_photographs", label="kind", images=images, augmentation={"mixup": 0.2})
    assert data.info.inputs == {"image": (6, 6, 3)}
    test = data.examples("test")
    numbers = [int(tf.io.decode_png(content)[0, 0, 0]) for content in test.features["image"]]
    np.testing.assert_array_equal(test.labels, np.array(numbers) % 2)
    assert_batches_are(data, [photograph(number) for number in numbers])
    labels = np.concatenate([label for _, label in data.train()])
    assert labels.shape == (36, 2)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)


def test_transparency_is_dropped(load: Callable) -> None:
    data = load("made_transparent")
    assert data.info.inputs == {"image": (4, 4, 3)}
    shown = np.concatenate([features["image"][:, 0, 0, 0] for features, _, _ in data.test()])
    assert sorted(np.rint(shown * 255).astype(int)) == list(range(100, 116))


def test_a_dataset_in_a_bucket_is_read_from_a_copy(load: Callable, prepared: Path, new_bucket: Callable) -> None:
    bucket = new_bucket("gs")
    upload(prepared / "made_images", f"{bucket}/tfds/made_images")
    assert load("made_images:1.2.3", data_dir=f"{bucket}/tfds").info == load().info


def test_splits_can_be_parts(load: Callable) -> None:
    data = load(train_split="train[:50%]", validation_split="train[50%:]", test_split=None)
    assert dict(data.info.counts) == {"train": 16, "validation": 20, "test": 4}
    assert load(test_split="test[:3]").info.counts["test"] == 3
    assert dict(load(train_examples=8).info.counts) == {"train": 8, "validation": 4, "test": 16}


def test_numbers_become_a_table(load: Callable) -> None:
    data = load("made_numbers")
    names = ("age", "place[0]", "place[1]", "colour=blue", "colour=red")
    assert data.preprocess.feature_names == names
    assert data.info.class_names == ("7", "10")
    assert data.preprocess.signatures["serving_default"]["place"].shape.as_list() == [None, 2]
    train = data.examples("train")
    ages = np.asarray(train.features["age"], float)
    features = np.asarray(data.preprocess(train.features)["features"])
    np.testing.assert_allclose(features[:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features[:, 2], -features[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(train.labels, (ages.astype(int) + 1) % 2)


def test_texts_come_with_their_declared_classes(load: Callable) -> None:
    data = load("made_reviews", cleaning={"html": True}, tokenizer={"kind": "words", "min_count": 1})
    assert data.info.class_names == ("neg", "pos")
    assert dict(data.info.counts) == {"train": 36, "validation": 4, "test": 16}
    assert data.info.text.cleaning["html"] == 56
    test = data.examples("test")
    assert test.origin == "tfds made_reviews/1.2.3 test"
    for text, label in zip(test.features["text"], test.labels, strict=True):
        assert text.decode().startswith("good<br />书" if label else "bad<br />书")
    features, _ = next(iter(data.train()))
    tokens = data.preprocess.tokenizer.detokenize(tf.RaggedTensor.from_tensor(features["token_ids"], padding=0))
    assert all(text.decode().split("书")[0] in ("good", "bad") for text in tokens.numpy())


def test_one_of_several_features_can_be_the_text(load: Callable) -> None:
    data = load("made_phrases", label="label", text="sentence")
    assert data.info.class_names == ("negative", "positive")
    assert all(text.startswith(b"phrase ") for text in data.examples("train").features["text"])
    assert load("made_phrases", label="label", text="title").info.text.cleaning["invalid_utf8"] == 1
    targets = load("made_phrases", label="idx", text="title", task="regression").examples("test")
    assert [f"title {int(target)}".encode() for target in targets.labels] == targets.features["text"].tolist()
    assert load("made_numbers", label="survived", text="name").info.class_names == ("7", "10")


def test_an_empty_text_is_named_by_its_example(load: Callable) -> None:
    with pytest.raises(UserError, match=r"tfds made_reviews/1.2.3 train example \d+: the text is empty after cleaning"):
        load("made_reviews", cleaning={"html": True, "stop_words": ["bad", "书", *map(str, range(40))]})


def test_regression_on_numbers(load: Callable, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"made_numbers/1.2.3: feature name \(Text of shape \(\)\) cannot be used; usable"
    ):
        load("made_numbers", label="price", task="regression")
    data = load("made_numbers", label="survived", task="regression")
    assert data.info.task == "regression"
    assert data.info.target_mean == pytest.approx(8.5, abs=0.5)


def test_a_file_for_a_run_on_numbers(load: Callable, prepared: Path, tmp_path: Path) -> None:
    data = load("made_numbers")
    config = TfdsConfig(source="tfds", name="made_numbers", data_dir=prepared)
    path = tmp_path / "new.jsonl"
    path.write_text('{"age": 3, "place": [1.5, -3], "colour": "blue", "survived": 7}\n')
    examples = pipelines.read_examples(path, config, data.preprocess, data.info, True)
    assert examples.features["place"].tolist() == [[1.5, -3.0]]
    assert examples.labels.tolist() == [0]
    for written in ("[1.5]", '"x"', "[1.5, 2, 3]", "null", '[1, "x"]'):
        path.write_text(f'{{"age": 3, "place": {written}, "colour": "blue"}}\n')
        with pytest.raises(UserError, match=r"new.jsonl row 1, column place: "):
            pipelines.read_examples(path, config, data.preprocess, data.info, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, r'has no split "trian" \(data.train_split\); did you mean "train"\?'),
        ({"test_split": "test[:0]"}, r'split "test\[:0\]" \(data.test_split\) is empty'),
        ({"label": "lable"}, r'has no feature "lable" \(data.label\); did you mean "label"\?'),
        ({"label": "image"}, r"label image \(Image of shape \(4, 4, 1\)\) is neither a class nor a whole number"),
        ({"task": "regression"}, r"label label \(ClassLabel of shape \(\)\) is no number"),
        ({"max_memory_gb": 1e-7}, r"takes .* GiB in memory \(56 examples\), and data.max_memory_gb is 1e-07"),
        ({"batch_size": 50}, r"36 training examples are fewer than one batch of 50"),
        (
            {"name": "made_sizes"},
            r"the images of feature image have different sizes, and a model needs one; set data.images.size, such as",
        ),
        (
            {"name": "made_photographs", "label": "kind"},
            r"the images of feature image have different sizes, and a model needs one; set data.images.size, such as",
        ),
        (
            {"name": "made_photographs", "label": "kind", "images": {"size": 8}, "max_memory_gb": 1e-6},
            r"takes more than 1e-06 GiB in memory \(data.max_memory_gb\); raise it",
        ),
        (
            {"images": {"size": 4, "normalization": "imagenet"}},
            r"imagenet is for three colours, and the images are grey",
        ),
        (
            {"name": "made_numbers", "images": {"size": 4}},
            r"data.images is for images, and tfds made_numbers/1.2.3 holds",
        ),
        (
            {"name": "made_reviews", "augmentation": {"horizontal_flip": True}},
            r"data.augmentation is for images, and tfds made_reviews/1.2.3 holds none; remove it",
        ),
        ({"name": "made_unlabelled"}, r'label "-1" is none of the training classes.*choose a split that has labels'),
        (
            {"name": "made_numbers", "label": "price"},
            r"label price .* is neither a class nor a whole number; set data.task",
        ),
        (
            {"name": "made images"},
            r'data.name "made images" is no TFDS name; expected are name, name/config or name:1.2.3',
        ),
        ({"name": "huggingface:made_images"}, r"is no TFDS name"),
        ({"name": "gs://bucket"}, r"is no TFDS name"),
        ({"name": "made_imges"}, r'not prepared in data.data_dir .*did you mean "made_images"\?'),
        ({"name": "made_images:9.9.9"}, r"TFDS dataset made_images:9.9.9 is not prepared"),
    ],
)
def test_what_cannot_be_used_is_named(load: Callable, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)


def test_an_absent_dataset_is_reported_with_both_ways_to_get_it(load: Callable, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        load("mnist", data_dir=tmp_path)
    for part in (
        f"TFDS dataset mnist is not prepared in data.data_dir {tmp_path}",
        f"{tmp_path}/mnist/<version>/dataset_info.json; nothing is prepared there",
        "set data.download: true",
        f"python -m pipelines.offline mnist --from <folder with the files> --data_dir {tmp_path}",
    ):
        assert part in str(caught.value)
    with pytest.raises(MissingFileError, match="that folder does not exist"):
        load("mnist", data_dir=tmp_path / "nowhere")


def test_versions_and_configurations(load: Callable, prepared: Path, tmp_path: Path) -> None:
    def link(place: str) -> None:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).symlink_to(prepared / "made_images" / "1.2.3")

    from pipelines.sources.tfds_prepared import find_prepared

    for place in ("a/1.9.0", "a/1.10.0", "b/small/1.0.0", "c/small/1.0.0", "c/large/1.0.0"):
        link(place)
    assert find_prepared("a", tmp_path) == tmp_path / "a/1.10.0"
    assert find_prepared("a:1.9.0", tmp_path) == tmp_path / "a/1.9.0"
    assert find_prepared("a:1.*.*", tmp_path) == tmp_path / "a/1.10.0"
    assert find_prepared("b", tmp_path) == tmp_path / "b/small/1.0.0"
    assert find_prepared("c/large", tmp_path) == tmp_path / "c/large/1.0.0"
    assert find_prepared("c/huge", tmp_path) is None
    with pytest.raises(UserError, match=r'has the configurations "large", "small"; choose one: data.name: c/large'):
        find_prepared("c", tmp_path)


def test_damaged_files_are_reported(load: Callable, tmp_path: Path) -> None:
    MadeImages(data_dir=tmp_path).download_and_prepare()
    folder = tmp_path / "made_images" / "1.2.3"
    (records,) = folder.glob("*train*tfrecord*")
    content = records.read_bytes()
    records.write_bytes(content[:200] + b"x" + content[201:])
    with pytest.raises(UserError, match=r"a file in .*1.2.3 is missing or damaged .*prepare the dataset again"):
        load(data_dir=tmp_path)
    records.unlink()
    with pytest.raises(UserError, match=r"a file in .*1.2.3 is missing or damaged"):
        load(data_dir=tmp_path)
    (folder / "dataset_info.json").write_text(json.dumps({"name": 7}) + "}")
    with pytest.raises(UserError, match=r"1.2.3 is damaged: .*; remove it and prepare the dataset again"):
        load(data_dir=tmp_path)


OFFLINE = """
import os, socket, sys
def refuse(*arguments, **options):
    sys.stderr.write("NETWORK REACHED\\n")
    os._exit(77)
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import pipelines
from pathlib import Path
from pipelines.config import TfdsConfig
from pipelines.errors import UserError
config = TfdsConfig(source="tfds", name=sys.argv[2], data_dir=Path(sys.argv[1]), batch_size=4)
try:
    data = pipelines.load(config)
    print(sum(1 for _ in data.train()))
except UserError as error:
    print("UserError", error)
from tensorflow_datasets.core.utils import gcs_utils
assert gcs_utils._is_gcs_disabled
"""


@pytest.mark.parametrize(
    ("name", "said"), [("made_images", "9"), ("mnist", "UserError TFDS dataset mnist is not prepared")]
)
def test_the_network_is_never_reached(prepared: Path, name: str, said: str) -> None:
    arguments = [sys.executable, "-c", OFFLINE, str(prepared), name]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(said)


def test_a_failed_download_is_the_users_to_hear_of(
    load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.offline import network_off

    with (
        network_off(),
        pytest.raises(UserError, match=r"mnist could not be downloaded and prepared .*pipelines.offline"),
    ):
        load("mnist", data_dir=tmp_path, download=True)
    with pytest.raises(UserError, match=r'TFDS has no dataset "mnisst"; did you mean "mnist"\?'):
        load("mnisst", data_dir=tmp_path, download=True)
