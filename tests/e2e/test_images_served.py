"""A folder of pictures to answers over gRPC: ResNet50 in float32, the same numbers on every path."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from pipelines.errors import UserError
from serving.client import ClientError
from serving.errors import Code
from tfbigmodel.config import resolve, validate_config

CLASSES = ("blue", "green", "red")
SIZE = 16
FRESH = """
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = tf.constant([open(path, "rb").read() for path in sys.argv[3:]])
answers = loaded.signatures["serving_default"](image=images)
np.savez(sys.argv[2], **{name: value.numpy() for name, value in answers.items()})
"""


def picture(colour: int, height: int, width: int, random: np.random.Generator) -> tf.Tensor:
    pixels = random.integers(0, 150, (height, width, 3))
    pixels[..., colour] += 100
    return tf.constant(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours, of several sizes and formats."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for index, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = picture(2 - index, *random.integers(12, 40, 2), random)
                encoded = tf.io.encode_png(pixels) if number % 2 else tf.io.encode_jpeg(pixels)
                suffix = "png" if number % 2 else "jpg"
                (folder / split / name / f"{number}.{suffix}").write_bytes(encoded.numpy())
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases with everything that varies images, exported."""
    augmentation = {"horizontal_flip": True, "rotation": 15, "crop_area": 0.6, "mixup": 0.2, "random_erasing": 0.2}
    values = {
        "data": {
            "source": "image_folder", "path": str(folder), "batch_size": 8, "augmentation": augmentation,
            "images": {"size": SIZE, "resize": "crop"}, "cache_dir": str(folder.parent / "cache"),
        },
        "model": {"chapter": "resnet50", "stem": "small_image", "label_smoothing": 0.1, "top_k": 2},
        "training": {"epochs": 2, "phases": [{"from_epoch": 0, "train": "head"}, {"from_epoch": 1, "train": "all"}]},
    }  # fmt: skip
    workdir = tmp_path_factory.mktemp("runs") / "run"
    tfbigmodel.train(resolve(validate_config(values, "pictures")), workdir)
    tfbigmodel.export(workdir, workdir / "exported")
    return workdir


def test_pictures_are_answered_alike_on_every_path(run: Path, folder: Path, served, tmp_path: Path):
    config = tfbigmodel.load_config(run / "config.yaml")
    data, model = tfbigmodel.load_data(config), tfbigmodel.load_model(run)
    logits = np.concatenate([model(features, training=False).numpy() for features, _, _ in data.test()])
    paths = data.examples("test").features["image"].paths
    assert len(paths) == 18
    predicted = tfbigmodel.predict(run, images=paths)
    command = [sys.executable, "-c", FRESH, str(run / "exported" / "1"), str(tmp_path / "answers.npz"), *paths]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    with np.load(tmp_path / "answers.npz", allow_pickle=True) as answers:
        fresh = dict(answers)
    with served(run / "exported") as client:
        contents = np.array([Path(path).read_bytes() for path in paths], object)
        answer = client.predict("m", {"image": contents})
        pixels = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
        of_pixels = client.predict("m", {"pixels": pixels}, signature="pixels")
    assert [label.decode() for label in answer["label"]] == predicted["prediction"].tolist()
    for found in (fresh, answer):
        np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(found["probabilities"].max(axis=1), predicted["probability"], atol=1e-5)
    order = np.argsort(-answer["probabilities"], axis=1, kind="stable")[:, :2]
    assert [[name.decode() for name in row] for row in answer["top_labels"]] == np.array(CLASSES)[order].tolist()
    np.testing.assert_array_equal(
        answer["top_probabilities"], np.take_along_axis(answer["probabilities"], order, axis=1)
    )
    assert [list(top) for top in predicted["top"]] == np.array(CLASSES)[order].tolist()
    expected = model(data.preprocess({"pixels": tf.constant(pixels)}), training=False)
    np.testing.assert_allclose(of_pixels["logits"], expected, atol=1e-5)


def test_what_an_export_says_of_itself(run: Path):
    export = run / "exported" / "1"
    described = json.loads((export / "assets.extra" / "model.json").read_text())
    assert described["class_names"] == list(CLASSES)
    assert described["image"] == {
        "height": SIZE, "width": SIZE, "channels": 3, "resize": "crop", "normalization": "imagenet"
    }  # fmt: skip
    # Weights are stored once.
    weights = 4 * tfbigmodel.load_model(run).count_params()
    assert weights < sum(path.stat().st_size for path in export.rglob("*")) < 1.1 * weights + 3e6


def test_pictures_that_a_run_cannot_read(run: Path, folder: Path, served, tmp_path: Path):
    random = np.random.default_rng(0)
    whole = tf.io.encode_jpeg(picture(0, 30, 30, random)).numpy()
    broken = {
        "text.jpg": (b"not a picture", "is no PNG, JPEG, BMP or GIF image"),
        "cut.jpg": (whole[: len(whole) // 2], "damaged or cut off"),
        "wide.png": (tf.io.encode_png(tf.zeros([1, 20_000, 1], tf.uint8)).numpy(), "is 20000 pixels wide and 1 high"),
    }
    for name, (content, _) in broken.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dot.png").write_bytes(tf.io.encode_png(tf.zeros([1, 1, 1], tf.uint8)).numpy())
    for name, (_, message) in broken.items():
        with pytest.raises(UserError, match=message) as caught:
            tfbigmodel.predict(run, images=[tmp_path / "dot.png", tmp_path / name])
        assert str(tmp_path / name) in str(caught.value)
    with served(run / "exported") as client:
        for content, _ in broken.values():
            with pytest.raises(ClientError) as refused:
                client.predict("m", {"image": np.array([content], object)})
            assert refused.value.code == Code.INVALID_ARGUMENT
        # The server is well, and answers an image of one grey pixel.
        answer = client.predict("m", {"image": np.array([(tmp_path / "dot.png").read_bytes()], object)})
    assert np.isfinite(answer["logits"]).all()
    assert tfbigmodel.predict(run, images=[tmp_path / "dot.png"])["prediction"][0] == answer["label"][0].decode()
