"""The digits that ship with scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import pipelines
from pipelines.config import BuiltinConfig
from pipelines.data import SPLITS, Data, DatasetInfo


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
