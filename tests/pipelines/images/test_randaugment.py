"""RandAugment: each operation is Pillow's, alone and in tf.data; which one an image gets is drawn by its key."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.images.config import RandAugmentConfig
from pipelines.images.randaugment import (
    OPERATIONS,
    adjust_brightness,
    adjust_colour,
    adjust_contrast,
    adjust_sharpness,
    auto_contrast,
    changed,
    drawn_operations,
    equalize,
    posterize,
    rand_augment,
    rotate,
    shear,
    solarize,
    translate,
)
from pipelines.stateless import random_keys

Image = pytest.importorskip("PIL.Image")  # TensorFlow Datasets and matplotlib bring Pillow
ImageEnhance, ImageOps = pytest.importorskip("PIL.ImageEnhance"), pytest.importorskip("PIL.ImageOps")


def images() -> list[np.ndarray]:
    """Noise, gradients, few values, one value, dark, bright; colour and grey; not square, and very small."""
    rng = np.random.default_rng(0)
    found = []
    for channels in (3, 1):
        shape = (37, 50, channels)
        ramp = np.broadcast_to(np.arange(50)[None, :, None] * 3 + np.arange(37)[:, None, None], shape)
        found += [
            rng.integers(0, 256, shape),
            np.clip(ramp + rng.integers(-9, 10, shape), 0, 255),
            rng.choice([3, 200, 201, 255], shape),
            np.full(shape, 77),
            rng.integers(0, 40, shape),
            np.where(rng.random(shape) < 0.01, 0, rng.integers(240, 256, shape)),
            rng.integers(0, 256, (2, 5, channels)),
            rng.integers(0, 256, (1, 1, channels)),
            rng.integers(0, 256, (16, 16, channels)),  # fewer pixels than values
        ]
    return [image.astype(np.uint8) for image in found]


def pillow(image: np.ndarray) -> "Image.Image":
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def array(image: "Image.Image") -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


# Of the 31 strengths, both ways.
FACTORS = [np.float32(1 + sign * 0.9 * magnitude / 30) for magnitude in (1, 9, 17, 30) for sign in (-1, 1)]


@pytest.mark.parametrize("factor", [np.float32(0), *FACTORS, np.float32(1)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, "Brightness"),
        (adjust_colour, "Color"),
        (adjust_contrast, "Contrast"),
        (adjust_sharpness, "Sharpness"),
    ],
)
def test_enhancing_is_pillows(ours: object, theirs: str, factor: np.float32) -> None:
    for image in images():
        expected = array(getattr(ImageEnhance, theirs)(pillow(image)).enhance(float(factor)))
        np.testing.assert_array_equal(ours(tf.constant(image), tf.constant(factor)), expected)


@pytest.mark.parametrize(("ours", "theirs"), [(auto_contrast, "autocontrast"), (equalize, "equalize")])
def test_operations_on_values_are_pillows(ours: object, theirs: str) -> None:
    for image in images():
        np.testing.assert_array_equal(ours(tf.constant(image)), array(getattr(ImageOps, theirs)(pillow(image))))


def test_auto_contrast_cuts_off_what_pillow_cuts_off() -> None:
    for low in range(0, 250, 9):
        for high in range(low + 1, 256, 11):
            image = np.linspace(low, high, 256).round().astype(np.uint8).reshape(16, 16, 1)
            expected = array(ImageOps.autocontrast(pillow(image)))
            np.testing.assert_array_equal(auto_contrast(tf.constant(image)), expected)


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
def test_posterize_is_pillows(bits: int) -> None:
    for image in images():
        np.testing.assert_array_equal(
            posterize(tf.constant(image), bits), array(ImageOps.posterize(pillow(image), bits))
        )


@pytest.mark.parametrize("threshold", [255.0, 178.5, 128.0, 8.5, 0.0])
def test_solarize_is_pillows(threshold: float) -> None:
    for image in images():
        expected = array(ImageOps.solarize(pillow(image), threshold))
        np.testing.assert_array_equal(solarize(tf.constant(image), threshold), expected)


def test_translating_moves_whole_pixels_and_leaves_black() -> None:
    for image in images():
        if min(image.shape[:2]) < 8:
            continue
        for right, down in [(3, 0), (-4, 0), (0, 5), (0, -6), (2, -7)]:
            matrix = (1, 0, -right, 0, 1, -down)
            expected = pillow(image).transform(image.shape[1::-1], Image.Transform.AFFINE, matrix)
            np.testing.assert_array_equal(translate(tf.constant(image), right, down), array(expected))


@pytest.mark.parametrize(("across", "down"), [(0.3, 0.0), (-0.09, 0.0), (0.0, 0.17), (0.0, -0.3)])
def test_shearing_is_pillows(across: float, down: float) -> None:
    for image in images():
        matrix = (1, across, 0, down, 1, 0)
        expected = array(pillow(image).transform(image.shape[1::-1], Image.Transform.AFFINE, matrix))
        sheared = shear(tf.constant(image), tf.constant(across), tf.constant(down)).numpy()
        # Pillow reckons in fractions of sixteen bits: at the border between two pixels it may take the other one.
        assert (sheared == expected).all(axis=-1).mean() > 0.99


@pytest.mark.parametrize("degrees", [1.0, 9.0, 21.0, 30.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rotating_is_pillows(degrees: float, sign: float) -> None:
    for image in images():
        expected = array(pillow(image).rotate(sign * degrees, Image.Resampling.NEAREST))
        rotated = rotate(tf.constant(image), degrees, tf.constant(sign)).numpy()
        assert (rotated == expected).all(axis=-1).mean() > 0.99


def test_strengths_are_torchvisions() -> None:
    image = images()[1]
    tensor, plus, minus = tf.constant(image), tf.constant(1.0), tf.constant(-1.0)

    def apply(name: str, magnitude: int, sign: tf.Tensor = plus) -> np.ndarray:
        return changed(tensor, tf.constant(OPERATIONS.index(name)), sign, magnitude).numpy()

    assert len(set(OPERATIONS)) == 14
    np.testing.assert_array_equal(apply("identity", 30), image)
    # torchvision: linspace(0, 0.9, 31), linspace(255, 0, 31), 8 - (arange(31) / 7.5).round(), linspace(0, 150 / 331 *
    # side, 31) cut off, linspace(0, 0.3, 31), linspace(0, 30, 31).
    for name, function in [
        ("brightness", adjust_brightness),
        ("colour", adjust_colour),
        ("contrast", adjust_contrast),
        ("sharpness", adjust_sharpness),
    ]:
        np.testing.assert_array_equal(apply(name, 10), function(tensor, tf.constant(1.3)))
        np.testing.assert_array_equal(apply(name, 30, minus), function(tensor, tf.constant(0.1)))
    np.testing.assert_array_equal(apply("solarize", 9), solarize(tensor, 178.5))
    np.testing.assert_array_equal(apply("solarize", 30), 255 - image)
    for magnitude, bits in [(1, 8), (3, 8), (4, 7), (11, 7), (12, 6), (18, 6), (19, 5), (26, 5), (27, 4), (30, 4)]:
        np.testing.assert_array_equal(apply("posterize", magnitude), posterize(tensor, bits))
    np.testing.assert_array_equal(apply("translate_x", 30), translate(tensor, 22, 0))  # 150 / 331 * 50 = 22.7
    np.testing.assert_array_equal(apply("translate_x", 30, minus), translate(tensor, -22, 0))
    np.testing.assert_array_equal(apply("translate_y", 9), translate(tensor, 0, 5))  # 0.3 * 150 / 331 * 37 = 5.03
    np.testing.assert_array_equal(apply("shear_x", 10, minus), shear(tensor, -0.1, 0.0))
    np.testing.assert_array_equal(apply("shear_y", 30), shear(tensor, 0.0, 0.3))
    np.testing.assert_array_equal(apply("rotate", 15, minus), rotate(tensor, 15.0, minus))
    np.testing.assert_array_equal(apply("auto_contrast", 5), auto_contrast(tensor))
    np.testing.assert_array_equal(apply("equalize", 5), equalize(tensor))


def test_each_operation_is_drawn_as_often() -> None:
    choices, signs = drawn_operations(tf.constant(random_keys(0, np.arange(7_000))), 3)
    assert choices.shape == signs.shape == (7_000, 3)
    expected, deviation = 7_000 / 14, np.sqrt(7_000 * 13) / 14
    for column in choices.numpy().T:
        assert (abs(np.bincount(column, minlength=14) - expected) < 5 * deviation).all()
    assert set(signs.numpy().ravel()) == {-1.0, 1.0}
    assert abs(signs.numpy().mean()) < 5 / np.sqrt(signs.numpy().size)
    assert abs(np.corrcoef(choices.numpy().T) - np.eye(3)).max() < 5 / np.sqrt(7_000)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_goes_through_the_operations_of_its_key(channels: int) -> None:
    config = RandAugmentConfig(num_ops=2, magnitude=15)
    pixels = np.random.default_rng(1).integers(0, 256, (60, 20, 24, channels)).astype(np.float32)
    keys = random_keys(4, np.arange(60))
    found = rand_augment(tf.constant(pixels), tf.constant(keys), config).numpy()
    choices, signs = drawn_operations(tf.constant(keys), 2)
    for row in range(60):
        image = tf.cast(pixels[row], tf.uint8)
        for choice, sign in zip(choices[row], signs[row], strict=True):
            image = changed(image, choice, sign, 15)
        np.testing.assert_array_equal(found[row], image)
    # In tf.data, in other batches, and alone.
    dataset = tf.data.Dataset.from_tensor_slices((pixels, keys)).batch(7)
    dataset = dataset.map(lambda images, keys: rand_augment(images, keys, config), num_parallel_calls=2)
    assert dataset.element_spec.shape.as_list() == [None, 20, 24, channels]
    np.testing.assert_array_equal(np.concatenate(list(dataset.as_numpy_iterator())), found)
    np.testing.assert_array_equal(rand_augment(tf.constant(pixels[9:10]), tf.constant(keys[9:10]), config), found[9:10])


def test_magnitude_0_changes_nothing() -> None:
    pixels = np.random.default_rng(1).uniform(0, 255, (30, 6, 6, 3)).astype(np.float32)
    keys = tf.constant(random_keys(4, np.arange(30)))
    np.testing.assert_array_equal(rand_augment(tf.constant(pixels), keys, RandAugmentConfig(magnitude=0)), pixels)
