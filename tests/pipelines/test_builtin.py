"""The digits that ship with scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import pipelines
from pipelines.config import BuiltinConfig
from pipelines.data import SPLITS, Data, DatasetInfo
from pipelines.errors import UserError


@pytest.fixture(scope="module")
def digits() -> Data:
    return pipelines.load(BuiltinConfig(source="builtin", name="digits"))


def test_all_digits_are_there_unchanged(digits: Data) -> None:
    original = load_digits()
    seen = 0
    for split in SPLITS:
        examples = digits.examples(split)
        assert examples.features["pixels"].dtype == np.uint8
        back = np.rint(examples.features["pixels"][..., 0] * (16 / 255))
        np.testing.assert_array_equal(back, original.images[examples.rows])
        np.testing.assert_array_equal(examples.labels, original.target[examples.rows])
        seen += len(examples)
    assert seen == 1797


def test_info(digits: Data) -> None:
    info = digits.info
    assert (info.task, info.inputs, info.input_dtypes) == ("classification", {"image": (8, 8, 1)}, {"image": "float32"})
    assert info.class_names == tuple("0123456789")
    assert dict(info.counts) == {"train": 1258, "validation": 180, "test": 359}
    assert sum(info.class_counts) == 1258
    assert max(info.class_counts) - min(info.class_counts) < 10
    assert DatasetInfo.from_json(info.to_json()) == info


def test_batches_are_scaled_pixels(digits: Data) -> None:
    features, label = next(iter(digits.train()))
    assert features["image"].shape == (64, 8, 8, 1)
    assert label.dtype == tf.int32
    assert float(tf.reduce_max(features["image"])) == 1.0
    examples = digits.examples("validation")
    batch = next(iter(digits.validation()))
    np.testing.assert_array_equal(
        batch[0]["image"], examples.features["pixels"][:64].astype(np.float32) * np.float32(1 / 255)
    )


def test_the_same_configuration_gives_the_same_data(digits: Data) -> None:
    again = pipelines.load(BuiltinConfig(source="builtin", name="digits"))
    assert again.info == digits.info
    for first, second in zip(digits.train(2), again.train(2), strict=True):
        np.testing.assert_array_equal(first[0]["image"], second[0]["image"])
        np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_another_form_is_what_a_file_of_the_same_digit_gives(resize: str) -> None:
    images = {"size": 12, "channels": 3, "resize": resize, "normalization": "imagenet"}
    config = {"source": "builtin", "name": "digits", "images": images}
    data = pipelines.load(BuiltinConfig.model_validate(config))
    assert data.info.inputs == {"image": (12, 12, 3)}
    assert data.info.images is not None
    examples = data.examples("test")
    assert examples.features["pixels"].shape == (359, 12, 12, 3)
    digits = np.rint(load_digits().images[examples.rows[:3]] * (255 / 16)).astype(np.uint8)
    encoded = tf.stack([tf.io.encode_png(digit[..., np.newaxis]) for digit in digits])
    batch = next(iter(data.test()))[0]["image"][:3]
    np.testing.assert_array_equal(data.preprocess({"image": encoded})["image"], batch)


def test_digits_of_their_own_size_are_unchanged(digits: Data) -> None:
    config = {"source": "builtin", "name": "digits", "images": {"size": 8, "channels": 1}}
    assert pipelines.load(BuiltinConfig.model_validate(config)).info == digits.info


def test_fewer_training_digits_are_a_part_of_the_same_split(digits: Data) -> None:
    data = pipelines.load(BuiltinConfig(source="builtin", name="digits", train_examples=100))
    assert dict(data.info.counts) == {"train": 100, "validation": 180, "test": 359}
    assert set(data.info.class_counts) <= {9, 10, 11}
    assert set(data.examples("train").rows) < set(digits.examples("train").rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": {"normalization": "imagenet"}}, r"imagenet is for three colours.*set data.images.channels: 3"),
        (
            {"images": {"size": 2048, "channels": 3}},
            r"builtin digits of data.images.size 2048 take 21.1 GiB in memory, and data.max_memory_gb is 4; choose a",
        ),
        (
            {"name": "reviews_zh", "images": {"size": 8}},
            r"data.images is for images, and builtin reviews_zh holds texts",
        ),
        (
            {"name": "reviews_zh", "augmentation": {"mixup": 0.2}},
            r"data.augmentation is for images, and builtin reviews_zh holds texts; remove it",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipelines.load(BuiltinConfig.model_validate({"source": "builtin", "name": "digits"} | options))
