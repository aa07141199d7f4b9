"""Augmentation: each operation by its closed form, alone and in tf.data; drawn by the image's key and nothing else."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from pipelines.images.augmentation import (
    adjust_brightness,
    adjust_contrast,
    augment,
    erase,
    factors,
    flips,
    mean_grey,
    mirror,
    warp,
    warp_matrices,
)
from pipelines.images.config import AugmentationConfig
from pipelines.stateless import graph_keys, random_keys

EVERYTHING: dict[str, object] = {
    "horizontal_flip": True,
    "rotation": 15.0,
    "crop_area": 0.5,
    "zoom": 0.1,
    "translation": 0.125,
    "brightness": 0.2,
    "contrast": 0.2,
    "rand_augment": {"num_ops": 2, "magnitude": 9},
    "random_erasing": 0.25,
}
IDENTITY = [1.0, 0, 0, 0, 1, 0, 0, 0]


def config(**options: object) -> AugmentationConfig:
    return AugmentationConfig.model_validate(options)


def make_keys(num: int, seed: int = 0) -> np.ndarray:
    return random_keys(seed, np.arange(num))


def noise(rows: int, height: int = 12, width: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(rows).uniform(0, 255, (rows, height, width, channels)).astype(np.float32)


def augmented(pixels: np.ndarray, keys: np.ndarray, **options: object) -> np.ndarray:
    return augment(tf.constant(pixels), tf.constant(keys), config(**options)).numpy()


def matrices(num: int, height: int = 12, width: int = 16, **options: object) -> np.ndarray:
    """Drawn warps as `(num, 2, 3)`."""
    found = warp_matrices(tf.constant(make_keys(num)), height, width, config(**options)).numpy()
    assert found.shape == (num, 8)
    assert not found[:, 6:].any()
    return found[:, :6].reshape(num, 2, 3)


def uniform_between(values: np.ndarray, low: float, high: float) -> bool:
    """Whether the values go from end to end, with about the moments of a uniform distribution."""
    place = (values - low) / (high - low)
    inside = place.min() >= -1e-4 and place.max() <= 1 + 1e-4 and place.min() < 0.01 and place.max() > 0.99
    bound = 5 / np.sqrt(len(values))
    return bool(inside and abs(place.mean() - 1 / 2) < bound / np.sqrt(12) and abs(place.var() - 1 / 12) < bound / 10)


def test_nothing_configured_changes_nothing() -> None:
    pixels = noise(5)
    np.testing.assert_array_equal(augmented(pixels, make_keys(5)), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("option", sorted(EVERYTHING))
def test_each_option_alone_is_the_same_in_tf_data(option: str, channels: int) -> None:
    check_tf_data({option: EVERYTHING[option]}, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_options_together_are_the_same_in_tf_data(channels: int) -> None:
    check_tf_data(EVERYTHING, channels)


def check_tf_data(options: dict[str, object], channels: int) -> None:
    pixels, keys = noise(24, channels=channels), make_keys(24)
    found = augmented(pixels, keys, **options)
    assert found.shape == pixels.shape
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 255
    changed = (found != pixels).reshape(24, -1).any(axis=1)
    assert changed.any()
    # Other batches, parallel, of unknown size: an image's key alone decides.
    dataset = tf.data.Dataset.from_tensor_slices((pixels, keys)).batch(5)
    dataset = dataset.map(lambda images, keys: augment(images, keys, config(**options)), num_parallel_calls=2)
    assert dataset.element_spec.shape.as_list() == [None, *pixels.shape[1:]]
    np.testing.assert_array_equal(np.concatenate(list(dataset.as_numpy_iterator())), found)
    np.testing.assert_array_equal(augmented(pixels[7:8], keys[7:8], **options), found[7:8])
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_array_equal(augmented(pixels[order], keys[order], **options), found[order])
    assert (augmented(pixels, make_keys(24, seed=1), **options) != found).any()
    assert augmented(pixels[:0], keys[:0], **options).shape == (0, *pixels.shape[1:])


def test_an_option_does_not_change_what_others_draw() -> None:
    pixels, keys = noise(40), make_keys(40)
    flipped = augmented(pixels, keys, horizontal_flip=True)
    brighter = augmented(flipped, keys, brightness=0.3)
    np.testing.assert_array_equal(augmented(pixels, keys, horizontal_flip=True, brightness=0.3), brighter)
    both = augmented(brighter, keys, random_erasing=0.5)
    np.testing.assert_array_equal(
        augmented(pixels, keys, horizontal_flip=True, brightness=0.3, random_erasing=0.5), both
    )
    alone, together = matrices(40, rotation=30.0), matrices(40, rotation=30.0, translation=0.2, horizontal_flip=True)
    np.testing.assert_array_equal(np.abs(alone[:, :, :2]), np.abs(together[:, :, :2]))


def test_what_is_drawn_is_not_the_same_for_two_options() -> None:
    keys = tf.constant(make_keys(2_000))
    drawn = [factors(graph_keys(keys, operation), 0.5).numpy() for operation in range(9)]
    drawn.append(flips(keys).numpy())
    # The flip is the first of the nine.
    assert np.abs(np.corrcoef(drawn[1:]) - np.eye(9)).max() < 5 / np.sqrt(2_000)


def test_half_of_the_images_are_flipped_exactly() -> None:
    pixels, keys = noise(2_000, 3, 4), make_keys(2_000)
    found = augmented(pixels, keys, horizontal_flip=True)
    flipped = flips(tf.constant(keys)).numpy()
    np.testing.assert_array_equal(found[flipped], pixels[flipped, :, ::-1])
    np.testing.assert_array_equal(found[~flipped], pixels[~flipped])
    np.testing.assert_array_equal(mirror(tf.constant(pixels), tf.constant(flipped)), found)
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(2_000)


@pytest.mark.parametrize(("height", "width"), [(12, 16), (15, 7), (224, 224), (1, 1)])
def test_a_warp_that_only_flips_or_does_nothing_is_exact(height: int, width: int) -> None:
    pixels, keys = noise(40, height, width), make_keys(40)
    found = warp(tf.constant(pixels), warp_matrices(tf.constant(keys), height, width, config(horizontal_flip=True)))
    np.testing.assert_array_equal(found, augmented(pixels, keys, horizontal_flip=True))
    np.testing.assert_array_equal(warp(tf.constant(pixels), tf.constant([IDENTITY] * 40)), pixels)
    # With a shift drawn too, and not at all far.
    near = 1.2 / max(height, width, 2)
    still = (matrices(40, height, width, translation=near)[:, :, 2] == 0).all(axis=1)
    assert still.any()
    moved = augmented(pixels, keys, horizontal_flip=True, translation=near)
    np.testing.assert_array_equal(moved[still], found[still])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{"rotation": 180.0}, {"zoom": 0.9, "translation": 0.9}, {"crop_area": 0.1}])
def test_a_warp_is_scipys(options: dict[str, object], channels: int) -> None:
    pixels = noise(6, channels=channels)
    drawn = matrices(6, **options)
    found = augmented(pixels, make_keys(6), **options)
    rows, columns = np.mgrid[0:12, 0:16]
    for row in range(6):
        (a, b, c), (d, e, f) = drawn[row].astype(np.float64)
        places = [d * columns + e * rows + f, a * columns + b * rows + c]
        for channel in range(channels):
            expected = ndimage.map_coordinates(pixels[row, ..., channel], places, order=1, mode="reflect")
            np.testing.assert_allclose(found[row, ..., channel], expected, atol=0.02)


def test_rotation_turns_around_the_middle() -> None:
    drawn = matrices(2_000, rotation=15.0)
    angles = np.degrees(np.arctan2(drawn[:, 1, 0], drawn[:, 0, 0]))
    assert uniform_between(angles, -15, 15)
    cosine, sine = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    np.testing.assert_allclose(drawn[:, :, :2], np.stack([cosine, -sine, sine, cosine], 1).reshape(-1, 2, 2), atol=1e-6)
    np.testing.assert_allclose(drawn @ [7.5, 5.5, 1], np.tile([7.5, 5.5], (2_000, 1)), atol=1e-5)


def test_zoom_enlarges_and_reduces_around_the_middle() -> None:
    drawn = matrices(2_000, zoom=0.25)
    assert uniform_between(1 / drawn[:, 0, 0], 0.75, 1.25)
    np.testing.assert_array_equal(drawn[:, 0, 0], drawn[:, 1, 1])
    assert not drawn[:, [0, 1], [1, 0]].any()
    np.testing.assert_allclose(drawn @ [7.5, 5.5, 1], np.tile([7.5, 5.5], (2_000, 1)), atol=1e-5)


def test_translation_moves_whole_pixels() -> None:
    drawn = matrices(2_000, height=32, width=16, translation=0.125)
    np.testing.assert_array_equal(drawn[:, :, :2], np.tile(np.eye(2), (2_000, 1, 1)))
    for shifts, largest in [(drawn[:, 0, 2], 2), (drawn[:, 1, 2], 4)]:
        values, counts = np.unique(shifts, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-largest, largest + 1))
        share = 1 / len(values)
        assert (abs(counts - 2_000 * share) < 5 * np.sqrt(2_000 * share * (1 - share))).all()
    assert abs(np.corrcoef(drawn[:, 0, 2], drawn[:, 1, 2])[0, 1]) < 5 / np.sqrt(2_000)
    pixels = noise(10, 32, 16)
    found = augmented(pixels, make_keys(10), translation=0.125)
    padded = np.pad(pixels, [(0, 0), (4, 4), (2, 2), (0, 0)], mode="symmetric")
    for row in range(10):
        x, y = 2 + int(drawn[row, 0, 2]), 4 + int(drawn[row, 1, 2])
        np.testing.assert_array_equal(found[row], padded[row, y : y + 32, x : x + 16])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (80, 20)])
def test_a_crop_keeps_its_area_and_stays_inside(height: int, width: int) -> None:
    drawn = matrices(3_000, height=height, width=width, crop_area=0.08)
    assert not drawn[:, [0, 1], [1, 0]].any()
    crop_width, crop_height = drawn[:, 0, 0] * width, drawn[:, 1, 1] * height
    # The rectangle's edges, in pixels' corners.
    left, top = drawn[:, 0, 2] + 0.5 - drawn[:, 0, 0] / 2, drawn[:, 1, 2] + 0.5 - drawn[:, 1, 1] / 2
    assert min(left.min(), top.min()) > -1e-3
    assert (left + crop_width).max() < width + 1e-3
    assert (top + crop_height).max() < height + 1e-3
    ratio = crop_width / crop_height
    assert ratio.min() > 3 / 4 - 1e-4
    assert ratio.max() < 4 / 3 + 1e-4
    area = crop_width * crop_height / (height * width)
    if (height, width) == (80, 20):  # nothing of proportions from 3:4 on has more than a third of this area
        assert abs(area.max() - 20 * 20 / 0.75 / 1_600) < 1e-4
        return
    # 64 × 64 and 48 × 80: all areas up to 48 * 64 of 48 * 80 fit.
    fits = area < 0.79 if height == 48 else area <= 1.01
    assert uniform_between(area[fits], 0.08, 0.79 if height == 48 else 1.0)
    small = area < 0.4  # every ratio fits
    assert uniform_between(np.log(ratio[small]), np.log(3 / 4), np.log(4 / 3))
    space = width - crop_width
    assert uniform_between((left / space)[space > 1], 0, 1)


def test_a_crop_of_the_whole_area_changes_nothing_in_a_square() -> None:
    pixels = noise(4, 9, 9)
    np.testing.assert_allclose(augmented(pixels, make_keys(4), crop_area=1 - 1e-9), pixels, atol=0.01)


def test_the_parts_of_a_warp_come_one_after_the_other() -> None:
    options = {"horizontal_flip": True, "rotation": 40.0, "crop_area": 0.3, "zoom": 0.3, "translation": 0.3}

    def homogeneous(**options: object) -> np.ndarray:
        drawn = matrices(50, **options)
        return np.concatenate([drawn, np.tile([[[0.0, 0, 1]]], (50, 1, 1))], axis=1)

    flip = np.tile(np.eye(3), (50, 1, 1))
    flip[flips(tf.constant(make_keys(50))).numpy()] = [[-1, 0, 15], [0, 1, 0], [0, 0, 1]]
    parts = [homogeneous(**{name: options[name]}) for name in ("rotation", "crop_area", "zoom", "translation")]
    expected = flip @ parts[0] @ parts[1] @ parts[2] @ parts[3]
    np.testing.assert_allclose(homogeneous(**options), expected, atol=1e-4)


def test_brightness() -> None:
    pixels, keys = noise(500, 4, 4), make_keys(500)
    found = augmented(pixels, keys, brightness=0.4)
    drawn = np.median(found.reshape(500, -1) / pixels.reshape(500, -1), axis=1)
    assert uniform_between(drawn, 0.6, 1.4)
    np.testing.assert_allclose(found, np.clip(pixels * drawn[:, None, None, None], 0, 255), rtol=1e-5)
    np.testing.assert_array_equal(adjust_brightness(tf.constant(pixels), tf.ones([500])), pixels)
    assert not adjust_brightness(tf.constant(pixels), tf.zeros([500])).numpy().any()


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast(channels: int) -> None:
    pixels = noise(20, channels=channels)
    weights = [0.299, 0.587, 0.114] if channels == 3 else [1.0]
    mean = np.round(pixels @ np.array(weights, np.float32)).mean(axis=(1, 2))
    np.testing.assert_allclose(mean_grey(tf.constant(pixels)), mean, rtol=1e-6)
    for factor in (0.0, 0.3, 1.0, 1.9):
        found = adjust_contrast(tf.constant(pixels), tf.fill([20], factor))
        middle = mean[:, None, None, None]
        np.testing.assert_allclose(found, np.clip(middle + (pixels - middle) * factor, 0, 255), atol=1e-3)
    np.testing.assert_array_equal(adjust_contrast(tf.constant(pixels), tf.ones([20])), pixels)


def test_factors_are_uniform() -> None:
    assert uniform_between(factors(tf.constant(make_keys(3_000)), 0.3).numpy(), 0.7, 1.3)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (60, 20)])
def test_erasing_makes_one_rectangle_noise(height: int, width: int) -> None:
    pixels = np.full((2_000, height, width, 1), 127.5, np.float32)  # what noise never is
    found = erase(tf.constant(pixels), tf.constant(make_keys(2_000)), 0.25).numpy()
    changed = (found != pixels)[..., 0]
    erased = changed.any(axis=(1, 2))
    assert abs(erased.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2_000)
    changed, values = changed[erased], found[erased]
    rows, columns = changed.any(axis=2), changed.any(axis=1)
    np.testing.assert_array_equal(changed, rows[:, :, None] & columns[:, None, :])  # a full rectangle
    for side in (rows, columns):
        assert (np.abs(np.diff(np.pad(side, [(0, 0), (1, 1)]).astype(int), axis=1)).sum(axis=1) == 2).all()
    heights, widths = rows.sum(axis=1), columns.sum(axis=1)
    area = heights * widths / (height * width)
    assert 0.01 < area.min() < 0.03
    assert 0.3 < area.max() < 0.36
    assert abs(area.mean() - 0.175) < 0.015
    ratio = widths / heights
    assert 0.24 < ratio.min() < 0.4
    assert ratio.max() < 4.1
    noise = values[changed]
    assert set(np.unique(noise)) == set(range(256))
    assert abs(noise.mean() - 127.5) < 5 * 74 / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 5 / np.sqrt(noise.size)
    # Everywhere in the image.
    assert rows.any(axis=0).all()
    assert columns.any(axis=0).all()


def test_erasing_every_image_or_a_tiny_one() -> None:
    pixels, keys = noise(30, 1, 1), tf.constant(make_keys(30))
    assert (erase(tf.constant(pixels), keys, 1.0).numpy() != pixels).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(erase(tf.constant(pixels), keys, 0.0), pixels)
    found = erase(tf.constant(noise(30)), keys, 1.0).numpy()
    assert (found != noise(30)).any(axis=(1, 2, 3)).all()
    # Each channel has noise of its own.
    assert (found[..., 0] != found[..., 1]).mean() > 0.9


def test_sizes_may_be_unknown() -> None:
    spec = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None], tf.uint64)]
    function = tf.function(lambda pixels, keys: augment(pixels, keys, config(**EVERYTHING)), input_signature=spec)
    for size in ((12, 16), (9, 5)):
        pixels, keys = noise(6, *size), make_keys(6)
        np.testing.assert_array_equal(
            function(tf.constant(pixels), tf.constant(keys)), augmented(pixels, keys, **EVERYTHING)
        )
