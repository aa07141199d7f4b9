"""Batches of images as training varies them: what depends on what, and what stays as it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines import MemoryData
from pipelines.config import AugmentationConfig, ImageFolderConfig, ImagesConfig
from pipelines.data import Examples
from pipelines.images.augmentation import augment
from pipelines.images.files import ImageFiles
from pipelines.images.mixing import mix
from pipelines.sources.arrays import image_data
from pipelines.stateless import graph_keys

NUM_TRAIN, BATCH = 26, 8
VARIED = {"horizontal_flip": True, "rotation": 15.0, "crop_area": 0.5, "brightness": 0.2, "random_erasing": 0.5}
MIXED = {**VARIED, "mixup": 0.2, "cutmix": 1.0}
CLASSES = ("red", "green", "blue")


def split(num: int, seed: int) -> Examples:
    pixels = np.random.default_rng(seed).integers(0, 256, (num, 12, 12, 3), dtype=np.uint8)
    return Examples({"pixels": pixels}, (np.arange(num) % 3).astype(np.int32), "made up", np.arange(num))


def make(augmentation: dict | None = None, **options: object) -> MemoryData:
    splits = {"train": split(NUM_TRAIN, 1), "validation": split(5, 2), "test": split(11, 3)}
    known = {"batch_size": BATCH, "shuffle_seed": 3, "augmentation": augmentation or {}}
    data = image_data(splits, CLASSES, "label", ImagesConfig.model_validate(known | options))
    assert isinstance(data, MemoryData)
    return data


def context(worker: int, workers: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(workers, worker, replicas)


def images_of(dataset: tf.data.Dataset) -> list[np.ndarray]:
    return [element[0]["image"].numpy() for element in dataset]


def labels_in(dataset: tf.data.Dataset) -> list[np.ndarray]:
    return [element[1].numpy() for element in dataset]


def assert_equal(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_augmentation_nothing_is_varied() -> None:
    plain = images_of(make().train(2))
    index = [
        np.flatnonzero((split(NUM_TRAIN, 1).features["pixels"] / 255 - row).max((1, 2, 3)) < 1e-6)[0]
        for row in plain[0]
    ]
    expected = split(NUM_TRAIN, 1).features["pixels"][index].astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(plain[0], expected)


def test_only_training_is_varied() -> None:
    plain, varied = make(), make(VARIED)
    for name in ("validation", "test"):
        assert_equal(images_of(plain.evaluation(name)), images_of(varied.evaluation(name)))
        assert_equal(labels_in(plain.evaluation(name)), labels_in(varied.evaluation(name)))
    assert_equal(labels_in(plain.train()), labels_in(varied.train()))
    assert not any(
        np.array_equal(*pair) for pair in zip(images_of(plain.train()), images_of(varied.train()), strict=True)
    )
    assert plain.info == varied.info


def test_what_an_example_becomes_depends_on_seed_epoch_and_index_alone() -> None:
    data = make(VARIED, shuffle=False, batch_size=13)
    config = AugmentationConfig.model_validate(VARIED)
    pixels = split(NUM_TRAIN, 1).features["pixels"].astype(np.float32)
    keys = graph_keys(3, 5, tf.range(NUM_TRAIN))
    expected = augment(pixels, keys, config) * (1 / 255)
    np.testing.assert_array_equal(np.concatenate(images_of(data.train(5))), expected)


def test_every_epoch_and_seed_varies_differently() -> None:
    data = make(VARIED, shuffle=False)
    first, second = images_of(data.train(0)), images_of(data.train(1))
    other = images_of(make(VARIED, shuffle=False, shuffle_seed=4).train(0))
    assert_equal(first, images_of(make(VARIED, shuffle=False).train(0)))
    for rows, others in ((first, second), (first, other)):
        same = [np.array_equal(*pair) for pair in zip(np.concatenate(rows), np.concatenate(others), strict=True)]
        assert not any(same)


@pytest.mark.parametrize("augmentation", [VARIED, MIXED], ids=["varied", "mixed"])
def test_an_epoch_can_start_anywhere(augmentation: dict) -> None:
    data = make(augmentation)
    whole = data.train(1, epochs=2)
    images, labels = images_of(whole), labels_in(whole)
    for step in (0, 1, 3):
        rest = make(augmentation).train(1, step, epochs=2)
        assert_equal(images_of(rest), images[step:])
        assert_equal(labels_in(rest), labels[step:])


@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 2), (2, 4)])
def test_replicas_together_see_the_varied_batch_of_one_process(workers: int, replicas: int) -> None:
    data = make(VARIED)
    shards = [images_of(data.train(1, 1, context(worker, workers, replicas))) for worker in range(workers)]
    local = replicas // workers
    joined = [
        np.concatenate([element for shard in shards for element in shard[step * local : (step + 1) * local]])
        for step in range(len(shards[0]) // local)
    ]
    assert_equal(joined, images_of(data.train(1, 1)))


def test_mixing_is_within_a_replica_and_the_same_in_any_division_among_workers() -> None:
    data = make(MIXED)
    together = data.train(1, 0, context(0, 1, 4))
    shards = [data.train(1, 0, context(worker, 2, 4)) for worker in range(2)]
    for part in (images_of, labels_in):
        first, second = part(shards[0]), part(shards[1])
        pairs = [first[i : i + 2] + second[i : i + 2] for i in range(0, len(first), 2)]
        assert_equal([element for pair in pairs for element in pair], part(together))


def test_labels_are_shares_in_every_split() -> None:
    data, plain = make(MIXED), make()
    assert data.train().element_spec[1] == tf.TensorSpec([BATCH, 3], tf.float32)
    for labels, indices in zip(labels_in(data.train(1)), labels_in(plain.train(1)), strict=True):
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
        assert (labels[np.arange(BATCH), indices] > 0).all()
        assert ((labels > 0) & (labels < 1)).any()
    for name in ("validation", "test"):
        assert data.evaluation(name).element_spec[1] == tf.TensorSpec([None, 3], tf.float32)
        indices = np.concatenate(labels_in(plain.evaluation(name)))
        np.testing.assert_array_equal(np.concatenate(labels_in(data.evaluation(name))), np.eye(3)[indices])
        np.testing.assert_array_equal(data.examples(name).labels, indices)
    filled_up = np.concatenate(labels_in(data.test(context(0, 1, 2))))
    assert filled_up.shape == (16, 3)


def test_mixed_batches_are_the_varied_ones_mixed() -> None:
    config = AugmentationConfig.model_validate(MIXED)
    images, indices = images_of(make(VARIED, shuffle=False).train(2))[0], labels_in(make(shuffle=False).train(2))[0]
    keys = graph_keys(graph_keys(3, 2, tf.range(BATCH)), 1_000)
    expected_images, expected_labels = mix(tf.constant(images), tf.constant(indices), keys, 3, config)
    features, labels = next(iter(make(MIXED, shuffle=False).train(2)))
    np.testing.assert_allclose(features["image"], expected_images, rtol=0, atol=1e-6)
    np.testing.assert_allclose(labels, expected_labels, rtol=0, atol=1e-6)


def test_files_are_varied_as_pixels_in_memory_are(tmp_path: Path) -> None:
    def as_files(examples: Examples, name: str) -> Examples:
        paths = [tmp_path / f"{name}{index}.png" for index in range(len(examples))]
        for path, pixels in zip(paths, examples.features["pixels"], strict=True):
            path.write_bytes(tf.io.encode_png(pixels).numpy())
        return Examples({"image": ImageFiles(paths)}, examples.labels, "files", examples.rows)

    splits = {"train": split(NUM_TRAIN, 1), "validation": split(5, 2), "test": split(11, 3)}
    splits = {name: as_files(examples, name) for name, examples in splits.items()}
    known = {"source": "image_folder", "path": "x", "batch_size": BATCH, "shuffle_seed": 3, "augmentation": MIXED}
    memory = make(MIXED)
    data = image_data(splits, CLASSES, "label", ImageFolderConfig.model_validate(known), memory.preprocess)
    assert_equal(images_of(data.train(1)), images_of(memory.train(1)))
    assert data.train().element_spec == memory.train().element_spec
    assert_equal(images_of(data.test(context(0, 1, 2))), images_of(memory.test(context(0, 1, 2))))


def test_normalisation_comes_after_augmentation() -> None:
    images = images_of(make(VARIED, images={"normalization": "imagenet"}).train())
    data = make(VARIED)
    preprocess = make(images={"normalization": "imagenet"}).preprocess
    for found, zero_to_one in zip(images, images_of(data.train()), strict=True):
        np.testing.assert_allclose(found, preprocess.normalised(zero_to_one * 255), atol=1e-5)


def test_under_a_strategy_two_replicas_see_one_varied_batch(labels_of: Callable) -> None:
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < 2:
        pytest.skip("the whole suite's conftest.py makes two devices of the CPU")
    data = make(VARIED)
    strategy = tf.distribute.MirroredStrategy(devices[:2])
    dataset = strategy.distribute_datasets_from_function(lambda given: data.train(0, 0, given))
    shown = [
        np.concatenate([np.asarray(part) for part in strategy.experimental_local_results(features["image"])])
        for features, _ in dataset
    ]
    assert_equal(shown, images_of(data.train(0)))
