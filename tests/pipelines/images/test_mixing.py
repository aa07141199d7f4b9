"""Mixup and cutmix: shares of the Beta distribution, labels mixed as much as the pixels, drawn by keys alone."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from pipelines.images.config import AugmentationConfig
from pipelines.images.mixing import cutmix_boxes, mix, mixup_shares, symmetric_beta
from pipelines.stateless import random_keys

CONFIGS = [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 0.7}]


def make_keys(num: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(random_keys(seed, np.arange(num)))


def batch(rows: int, height: int = 10, width: int = 14, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, height, width, channels)).astype(np.float32), rng.integers(0, 7, rows, np.int32)


def mixed(images: np.ndarray, labels: np.ndarray, keys: tf.Tensor, **options: float) -> tuple[np.ndarray, np.ndarray]:
    config = AugmentationConfig.model_validate(options)
    found = mix(tf.constant(images), tf.constant(labels), keys, 7, config)
    return found[0].numpy(), found[1].numpy()


@pytest.mark.parametrize("concentration", [0.01, 0.1, 0.2, 0.4, 1.0, 2.5, 8.0, 100.0])
def test_beta_is_inverted_exactly(concentration: float) -> None:
    uniform = np.linspace(1e-6, 1, 2_001)[:-1].astype(np.float32)
    found = symmetric_beta(tf.constant(uniform), concentration).numpy()
    expected = special.betaincinv(concentration, concentration, uniform.astype(np.float64))
    assert np.abs(found - expected).max() < 1e-9
    assert (np.diff(found) >= 0).all()
    assert 0 <= symmetric_beta(tf.constant([0.0]), concentration).numpy()[0] < 0.001


@pytest.mark.parametrize("concentration", [0.2, 1.0, 3.0])
def test_shares_have_the_distribution(concentration: float) -> None:
    shares = mixup_shares(make_keys(5_000), concentration).numpy()
    assert shares.dtype == np.float32
    beta = stats.beta(concentration, concentration)
    assert stats.kstest(shares.astype(np.float64), beta.cdf).pvalue > 1e-4
    assert abs(shares.mean() - 0.5) < 5 * beta.std() / np.sqrt(5_000)
    assert abs(shares.var() - beta.var()) < 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_mixup_is_the_sum_by_shares(channels: int) -> None:
    images, labels = batch(9, channels=channels)
    shares = mixup_shares(make_keys(9), 0.4).numpy()[:, None]
    found, targets = mixed(images, labels, make_keys(9), mixup=0.4)
    one_hot = np.eye(7, dtype=np.float32)[labels]
    np.testing.assert_allclose(targets, shares * one_hot + (1 - shares) * np.roll(one_hot, 1, 0), atol=1e-6)
    shares = shares[..., None, None]
    np.testing.assert_allclose(found, shares * images + (1 - shares) * np.roll(images, 1, 0), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(10, 14), (32, 32), (1, 1)])
def test_cutmix_labels_are_the_shares_of_the_area(height: int, width: int) -> None:
    images, labels = batch(300, height, width)
    inside, shares = cutmix_boxes(make_keys(300), height, width, 1.0)
    inside, shares = inside.numpy(), shares.numpy()
    np.testing.assert_allclose(shares, 1 - inside.mean(axis=(1, 2)), atol=1e-6)
    rows, columns = inside.any(axis=2), inside.any(axis=1)
    np.testing.assert_array_equal(inside, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        assert (np.abs(np.diff(np.pad(side, [(0, 0), (1, 1)]).astype(int), axis=1)).sum(axis=1) <= 2).all()
    found, targets = mixed(images, labels, make_keys(300), cutmix=1.0)
    np.testing.assert_array_equal(found, np.where(inside[..., None], np.roll(images, 1, 0), images))
    one_hot = np.eye(7, dtype=np.float32)[labels]
    np.testing.assert_allclose(
        targets, shares[:, None] * one_hot + (1 - shares[:, None]) * np.roll(one_hot, 1, 0), atol=1e-6
    )


def test_cutmix_rectangles_are_of_the_drawn_size_and_anywhere() -> None:
    inside, shares = (part.numpy() for part in cutmix_boxes(make_keys(4_000), 200, 100, 1.0))
    heights, widths = inside.any(axis=2).sum(axis=1), inside.any(axis=1).sum(axis=1)
    whole = ~(inside[:, 0].any(1) | inside[:, -1].any(1) | inside[:, :, 0].any(1) | inside[:, :, -1].any(1))
    whole &= heights > 0
    assert (np.abs(heights - 2 * widths)[whole] <= 2).all()  # the image's proportions
    # Before clipping the area is uniform, and the middle is; the expected share that is left after clipping:
    middle, side = np.linspace(0, 1, 401), np.sqrt(np.linspace(0, 1, 401))
    visible = np.minimum(middle + side[:, None] / 2, 1) - np.maximum(middle - side[:, None] / 2, 0)
    expected = 1 - (visible.mean(axis=1) ** 2).mean()
    assert abs(shares.mean() - expected) < 0.015
    cover = inside.mean(axis=0)
    np.testing.assert_allclose(cover, cover[::-1, ::-1], atol=0.06)  # no side is preferred


def test_with_both_half_of_the_images_go_through_each() -> None:
    images, labels = batch(1_000, 6, 6, 1)
    keys = make_keys(1_000)
    found, targets = mixed(images, labels, keys, mixup=0.4, cutmix=1.0)
    blended, blended_targets = mixed(images, labels, keys, mixup=0.4)
    cut, cut_targets = mixed(images, labels, keys, cutmix=1.0)
    is_blended = (found == blended).all(axis=(1, 2, 3))
    is_cut = (found == cut).all(axis=(1, 2, 3))
    assert (is_blended | is_cut).all()
    np.testing.assert_array_equal(targets[is_blended & ~is_cut], blended_targets[is_blended & ~is_cut])
    np.testing.assert_array_equal(targets[~is_blended], cut_targets[~is_blended])
    assert abs(is_blended.mean() - 0.5) < 0.1  # some images come out the same either way


@pytest.mark.parametrize("options", CONFIGS)
def test_in_tf_data_it_is_the_same(options: dict[str, float]) -> None:
    images, labels = batch(12)
    found = mixed(images, labels, make_keys(12), **options)
    np.testing.assert_allclose(found[1].sum(axis=1), 1, atol=1e-6)
    assert found[1].min() >= 0
    assert (found[0] != images).any()
    config = AugmentationConfig.model_validate(options)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels, make_keys(12))).batch(12)
    dataset = dataset.map(lambda images, labels, keys: mix(images, labels, keys, 7, config))
    assert [spec.shape.as_list() for spec in dataset.element_spec] == [[None, 10, 14, 3], [None, 7]]
    for one, other in zip(next(dataset.as_numpy_iterator()), found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (mixed(images, labels, make_keys(12, seed=1), **options)[0] != found[0]).any()
    # An image's shares are its key's, whatever the batch; its partner is the one before it.
    again = mixed(images[4:9], labels[4:9], make_keys(12)[4:9], **options)
    for one, other in zip(again, found, strict=True):
        np.testing.assert_array_equal(one[1:], other[5:9])


@pytest.mark.parametrize("options", CONFIGS)
def test_one_image_is_its_own_partner(options: dict[str, float]) -> None:
    images, labels = batch(1)
    found, targets = mixed(images, labels, make_keys(1), **options)
    np.testing.assert_allclose(found, images, atol=1e-6)
    np.testing.assert_allclose(targets, np.eye(7)[labels], atol=1e-6)


def test_without_mixing_labels_become_ones_and_zeros() -> None:
    images, labels = batch(5)
    found, targets = mixed(images, labels, make_keys(5), brightness=0.2)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(targets, np.eye(7, dtype=np.float32)[labels])
