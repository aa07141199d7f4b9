"""RandAugment: some of fourteen operations, drawn for each image, in graph operations.

Operations on colours give Pillow's pixels (`ImageOps`, `ImageEnhance`) exactly; operations that move pixels take the
nearest one, as Pillow does, and leave black behind. Strengths are torchvision's: `RandAugment._augmentation_space` in
torchvision/transforms/autoaugment.py, with its 31 bins.

Reference:
    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from pipelines.images.config import RandAugmentConfig
from pipelines.stateless import graph_uniform

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""What an image may go through, in the order of the draws."""


def rand_augment(pixels: tf.Tensor, keys: tf.Tensor, config: RandAugmentConfig) -> tf.Tensor:
    """Takes each image through `config.num_ops` operations, drawn with replacement by its key.

    Operations that have a direction go either way, at random. Magnitude 0 changes nothing, though in torchvision
    auto-contrast, equalize and solarize (of white) do.

    Args:
        pixels: float32 `(rows, height, width, channels)` in 0 … 255, of 1 channel or 3; rounded to whole numbers.
        keys: uint64 `(rows,)`.
        config: how many operations, and how strong.

    Returns:
        float32 of the same shape, whole numbers in 0 … 255.
    """
    if config.magnitude == 0:
        return pixels
    choices, signs = drawn_operations(keys, config.num_ops)
    images = tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)

    def one(element: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, image_choices, image_signs = element

        def step(image: tf.Tensor, draw: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            return tf.ensure_shape(changed(image, *draw, config.magnitude), pixels.shape[1:])

        return tf.foldl(step, (image_choices, image_signs), initializer=image)

    images = tf.map_fn(one, (images, choices, signs), fn_output_signature=tf.TensorSpec(pixels.shape[1:], tf.uint8))
    return tf.cast(images, tf.float32)


def drawn_operations(keys: tf.Tensor, num_ops: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Which operations each image goes through, int32 `(rows, num_ops)`, and their directions, float32, -1 or 1."""
    draws = tf.reshape(graph_uniform(keys, 2 * num_ops), [-1, num_ops, 2])
    choices = tf.cast(tf.floor(draws[:, :, 0] * len(OPERATIONS)), tf.int32)
    # 14 times the largest float32 below 1 may round up to 14.
    return tf.minimum(choices, len(OPERATIONS) - 1), tf.where(draws[:, :, 1] < 0.5, -1.0, 1.0)


def changed(image: tf.Tensor, choice: tf.Tensor, sign: tf.Tensor, magnitude: int) -> tf.Tensor:
    """An image after one operation.

    Args:
        image: uint8 `(height, width, channels)`.
        choice: a place in `OPERATIONS`, int32 `()`.
        sign: -1 or 1, float32 `()`, for operations that have a direction.
        magnitude: from 0 to 30, as a number of Python.

    Returns:
        uint8 `(height, width, channels)`.
    """
    share = magnitude / 30
    shape = tf.shape(image)
    height, width = tf.cast(shape[0], tf.float32), tf.cast(shape[1], tf.float32)
    enhanced = 1.0 + sign * (0.9 * share)
    operations: dict[str, Callable[[], tf.Tensor]] = {
        "identity": lambda: image,
        "shear_x": lambda: shear(image, sign * (0.3 * share), 0.0),
        "shear_y": lambda: shear(image, 0.0, sign * (0.3 * share)),
        "translate_x": lambda: translate(image, tf.cast(sign * tf.floor(150 / 331 * share * width), tf.int32), 0),
        "translate_y": lambda: translate(image, 0, tf.cast(sign * tf.floor(150 / 331 * share * height), tf.int32)),
        "rotate": lambda: rotate(image, 30.0 * share, sign),
        "brightness": lambda: adjust_brightness(image, enhanced),
        "colour": lambda: adjust_colour(image, enhanced),
        "contrast": lambda: adjust_contrast(image, enhanced),
        "sharpness": lambda: adjust_sharpness(image, enhanced),
        "posterize": lambda: posterize(image, 8 - round(4 * share)),
        "solarize": lambda: solarize(image, 255.0 * (1.0 - share)),
        "auto_contrast": lambda: auto_contrast(image),
        "equalize": lambda: equalize(image),
    }
    return tf.switch_case(choice, [operations[name] for name in OPERATIONS])


def shear(image: tf.Tensor, across: tf.Tensor | float, down: tf.Tensor | float) -> tf.Tensor:
    """Takes the pixel at `(x, y)` from `(x + across * y, y + down * x)`, counted from the upper left corner."""
    # Counted from pixels' corners in Pillow, from their middles in TensorFlow: half a pixel's shear apart.
    return _moved(image, [1.0, across, 0.5 * across, down, 1.0, 0.5 * down])


def rotate(image: tf.Tensor, degrees: float, sign: tf.Tensor) -> tf.Tensor:
    """Rotates around the middle, counter-clockwise for a sign of 1 and clockwise for -1."""
    shape = tf.shape(image)
    middle_y, middle_x = ((tf.cast(shape[axis], tf.float32) - 1.0) / 2.0 for axis in (0, 1))
    cosine, sine = math.cos(math.radians(degrees)), sign * math.sin(math.radians(degrees))
    from_x = middle_x - cosine * middle_x + sine * middle_y
    from_y = middle_y - sine * middle_x - cosine * middle_y
    return _moved(image, [cosine, -sine, from_x, sine, cosine, from_y])


def translate(image: tf.Tensor, right: tf.Tensor | int, down: tf.Tensor | int) -> tf.Tensor:
    """Shifts by whole pixels, fewer than the image has."""
    shape = tf.shape(image)
    before, after = tf.maximum([down, right, 0], 0), tf.maximum([-down, -right, 0], 0)
    kept = tf.slice(image, after, shape - before - after)
    return tf.pad(kept, tf.stack([before, after], axis=1))


def adjust_brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Between black (0) and the image (1), or beyond: Pillow's `ImageEnhance.Brightness`."""
    return _blended(0.0, image, factor)


def adjust_colour(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Between grey (0) and the image (1), or beyond: Pillow's `ImageEnhance.Color`; a grey image stays as it is."""
    if image.shape[-1] == 1:
        return image
    return _blended(tf.cast(grey(image), tf.float32)[..., tf.newaxis], image, factor)


def adjust_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Between its mean grey (0) and the image (1), or beyond: Pillow's `ImageEnhance.Contrast`."""
    total = tf.reduce_sum(tf.cast(grey(image), tf.int64))
    mean = tf.floor(tf.cast(total, tf.float64) / tf.cast(tf.size(image) // image.shape[-1], tf.float64) + 0.5)
    return _blended(tf.cast(mean, tf.float32), image, factor)


def adjust_sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Between smoothed (0) and the image (1), or beyond: Pillow's `ImageEnhance.Sharpness`; the edge stays."""
    shape, step = tf.shape(image), image.shape[-1]
    values = tf.cast(_rows(image), tf.float32)  # a pixel's neighbour is `step` numbers further
    within = values[1:-1]
    columns = values[:-2] + within + values[2:]
    sums = columns[:, : -2 * step] + columns[:, step:-step] + columns[:, 2 * step :] + 4.0 * within[:, step:-step]
    # The sums are exact, and none of their thirteenths is near the middle between two whole numbers.
    smooth = tf.floor(sums * (1 / 13) + 0.5)
    smooth = tf.concat([within[:, :step], smooth, within[:, step:][:, -step:]], axis=1)
    smooth = tf.concat([values[:1], smooth, values[1:][-1:]], axis=0)
    return _blended(tf.reshape(smooth, shape), image, factor)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps so many of each value's eight bits: Pillow's `ImageOps.posterize`."""
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def solarize(image: tf.Tensor, threshold: float) -> tf.Tensor:
    """Inverts values from the threshold on: Pillow's `ImageOps.solarize`."""
    inverted = tf.cast(image >= tf.constant(math.ceil(threshold), tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(image, inverted * 255)  # 255 - v is v with all bits inverted


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Spreads each channel's values over 0 … 255: Pillow's `ImageOps.autocontrast`."""
    low = tf.cast(tf.reduce_min(image, axis=[0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.float64)
    # Pillow's order of operations in double precision, so that what it cuts off is cut off here.
    scale = tf.where(high > low, 255.0 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    values = tf.cast(_rows(image), tf.float64) * _along_rows(scale, image) + _along_rows(offset, image)
    return tf.reshape(tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8), tf.shape(image))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Makes each channel's values about as frequent: Pillow's `ImageOps.equalize`."""
    channels = image.shape[-1]
    # Each channel has 256 places of its own.
    places = tf.cast(_rows(image), tf.int32) + _along_rows(256 * tf.range(channels), image)
    num_places = 256 * channels
    counts = tf.math.bincount(places, minlength=num_places, maxlength=num_places)
    counts = tf.reshape(counts, [channels, 256])
    values = tf.range(256)
    last = tf.reduce_max(tf.where(counts > 0, values, 0), axis=1)
    steps = (tf.size(image) // channels - tf.gather(counts, last, batch_dims=1)) // 255
    steps = steps[:, tf.newaxis]
    sums = tf.cumsum(counts, axis=1, exclusive=True) + steps // 2
    table = tf.where(steps > 0, tf.minimum(sums // tf.maximum(steps, 1), 255), values)
    return tf.reshape(tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), places), tf.shape(image))


def grey(image: tf.Tensor) -> tf.Tensor:
    """An image in grey as Pillow converts it (ITU-R 601-2, rounded): int32 `(height, width)`."""
    if image.shape[-1] == 1:
        return tf.cast(image[..., 0], tf.int32)
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.bitwise.right_shift(red * 19595 + green * 38470 + blue * 7471 + 32768, 16)


def _moved(image: tf.Tensor, matrix: list[tf.Tensor | float]) -> tf.Tensor:
    """The nearest pixels to the places that an affine matrix gives; black beyond the edge."""
    # One number per pixel: TensorFlow works out the place anew for each channel.
    packed = image
    if image.shape[-1] == 3:
        packed = tf.bitcast(tf.concat([image, image[..., :1]], axis=-1), tf.int32)[..., tf.newaxis]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=packed[tf.newaxis],
        transforms=tf.stack([*matrix, 0.0, 0.0])[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]
    return tf.bitcast(moved[..., 0], tf.uint8)[..., :3] if image.shape[-1] == 3 else moved


def _blended(start: tf.Tensor | float, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`start + factor * (image - start)`, cut off to whole numbers in 0 … 255: Pillow's `Image.blend`."""
    values = start + factor * (tf.cast(image, tf.float32) - start)
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _rows(image: tf.Tensor) -> tf.Tensor:
    """`(height, width * channels)`: TensorFlow reckons with long rows many times as fast as with three channels."""
    shape = tf.shape(image)
    return tf.reshape(image, [shape[0], shape[1] * shape[2]])


def _along_rows(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """A number for each channel, repeated for every pixel of a row: `(width * channels,)`."""
    return tf.tile(values, [tf.shape(image)[1]])
