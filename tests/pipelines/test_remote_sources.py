"""Every source reads from an object store what it reads from a folder."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

import pipelines
from pipelines.config import DataConfig
from pipelines.errors import MissingFileError, UserError
from pipelines.remote import upload

TEXTS = [f"第{i}本书很好看，我喜欢它。\n它也不贵。" for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, a folder of images, a corpus, a vocabulary, and a table of images."""
    root = tmp_path_factory.mktemp("data")
    rows = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(60)]
    (root / "table.csv").write_text("\n".join(["age,colour,label", *rows]))
    rng = np.random.default_rng(0)
    for index in range(24):
        image = root / "images" / ("cat" if index % 2 else "dog") / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(tf.io.encode_png(rng.integers(0, 255, (8, 8, 3), np.uint8)).numpy())
    (root / "images.csv").write_text("image,label\nimages/cat/1.png,cat\nimages/dog/2.png,dog\n")
    for part in range(2):
        (root / f"news-{part}.txt").write_text("\n\n".join(TEXTS[20 * part : 20 * part + 20]))
    (root / "words.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我喜欢它也不贵第本书很好看"])
    )
    return root


@pytest.fixture
def remote(folder, new_bucket):
    """The same, in a bucket."""
    url = f"{new_bucket('s3')}/data"
    upload(folder, url)
    return url


def section(**values):
    return TypeAdapter(DataConfig).validate_python({"batch_size": 8, **values})


TABLE = {"source": "table", "path": "table.csv", "label": "label"}
IMAGES = {"source": "image_folder", "path": "images"}
CORPUS = {
    "source": "corpus",
    "parts": [{"path": "news-*.txt"}],
    "task": "language_model",
    "tokenizer": {"kind": "characters", "vocabulary": "words.txt"},
}


@pytest.mark.parametrize("source", [TABLE, IMAGES, CORPUS], ids=["table", "image_folder", "corpus"])
def test_a_source_gives_the_same_batches(folder, remote, tmp_path, source):
    cache = {} if source is TABLE else {"cache_dir": tmp_path / "made"}
    here, there = (pipelines.load(section(data_dir=place, **source, **cache)) for place in (folder, remote))
    assert there.info == here.info
    for expected, found in zip(here.train(), there.train(), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_a_url_may_stand_in_the_path_itself(folder, remote):
    data = pipelines.load(section(**TABLE | {"path": f"{remote}/table.csv"}))
    assert data.info == pipelines.load(section(data_dir=folder, **TABLE)).info


def test_an_unprepared_tfds_dataset_is_told(remote):
    with pytest.raises(MissingFileError, match="data/toy is not there: no such file or folder in bucket"):
        pipelines.load(section(source="tfds", name="toy:1.0.0", data_dir=remote))
    with pytest.raises(
        UserError, match=r"data\.download prepares into a folder of this machine, and data\.data_dir is s3"
    ):
        pipelines.load(section(source="tfds", name="toy", data_dir=remote, download=True))


def test_a_table_of_images_is_read_beside_it(folder, remote):
    config = section(data_dir=folder, **IMAGES)
    data = pipelines.load(config)
    examples = pipelines.read_examples(f"{remote}/images.csv", config, data.preprocess, data.info, labelled=True)
    expected = [(folder / "images/cat/1.png").read_bytes(), (folder / "images/dog/2.png").read_bytes()]
    assert list(np.asarray(examples.features["image"])) == expected
    assert list(examples.labels) == [0, 1]
    single = pipelines.read_image_files([f"{remote}/images/cat/1.png", folder / "images/dog/2.png"], data.preprocess)
    assert list(np.asarray(single.features["image"])) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (TABLE | {"path": "tabel.csv"}, "data/tabel.csv is not there: no such file or folder in bucket "),
        (IMAGES | {"path": "pictures"}, "data/pictures is not there: no such file or folder in bucket "),
        (CORPUS | {"parts": [{"path": "old-*.txt"}]}, r"data/old-\*.txt \(data.parts\[0\].path\) matches no file$"),
    ],
)
def test_what_is_missing_is_told_by_its_url(remote, source, message):
    with pytest.raises(MissingFileError, match=f"^s3://test-.*/{message}"):
        pipelines.load(section(data_dir=remote, **source))


def test_paths_in_a_configuration_stay_as_they_are():
    config = section(data_dir="gs://bucket/data", **TABLE)
    assert config.data_dir == "gs://bucket/data"
    assert config.model_dump(mode="json")["data_dir"] == "gs://bucket/data"
    with pytest.raises(ValueError, match="expected a folder of this machine, received s3://b/c"):
        section(cache_dir="s3://b/c", **IMAGES)
    with pytest.raises(ValueError, match="expected a local path, or gs:// or s3://; received abfs://"):
        section(data_dir="abfs://b/c", **TABLE)
