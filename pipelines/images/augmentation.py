"""Training images varied at random, in graph operations: what an image becomes depends on its key alone.

Each operation draws from keys of its own, so that switching one on changes nothing of what the others draw. What is
drawn goes through float64 to the pixels' float32: TensorFlow's exponential or sine of a number may differ in its last
bit with the number's place in the batch.
"""

import math

import tensorflow as tf

from pipelines.images.config import AugmentationConfig
from pipelines.images.randaugment import rand_augment
from pipelines.stateless import graph_keys, graph_uniform

_FLIP, _ROTATION, _CROP, _ZOOM, _TRANSLATION, _BRIGHTNESS, _CONTRAST, _RAND_AUGMENT, _ERASING = range(9)

_CROP_RATIO = 4 / 3
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = 1 / 0.3


def augment(pixels: tf.Tensor, keys: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Varies a batch of training images, all but mixup and cutmix (`pipelines.images.mixing.mix`).

    Args:
        pixels: float32 `(rows, height, width, channels)` in 0 … 255, of 1 channel or 3.
        keys: uint64 `(rows,)`, an image's own random bits.
        config: what is done.

    Returns:
        float32 of the same shape in 0 … 255; after RandAugment whole numbers.

    Example:
        >>> augment(tf.zeros([2, 8, 8, 3]), graph_keys(tf.range(2)), AugmentationConfig(rotation=15.0)).shape
        TensorShape([2, 8, 8, 3])
    """
    shape = pixels.shape
    if config.rotation or config.crop_area < 1.0 or config.zoom or config.translation:
        size = tf.shape(pixels)
        pixels = warp(pixels, warp_matrices(keys, size[1], size[2], config))
    elif config.horizontal_flip:
        pixels = mirror(pixels, flips(keys))
    if config.brightness:
        pixels = adjust_brightness(pixels, factors(graph_keys(keys, _BRIGHTNESS), config.brightness))
    if config.contrast:
        pixels = adjust_contrast(pixels, factors(graph_keys(keys, _CONTRAST), config.contrast))
    if config.rand_augment is not None:
        pixels = rand_augment(pixels, graph_keys(keys, _RAND_AUGMENT), config.rand_augment)
    if config.random_erasing:
        pixels = erase(pixels, graph_keys(keys, _ERASING), config.random_erasing)
    return tf.ensure_shape(pixels, shape)


def flips(keys: tf.Tensor) -> tf.Tensor:
    """Which images are shown as in a mirror: bool `(rows,)`, half of them."""
    return graph_uniform(graph_keys(keys, _FLIP), 1)[:, 0] < 0.5


def mirror(pixels: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Images as in a mirror where `chosen`, bool `(rows,)`, and unchanged where not."""
    rows = tf.where(chosen)  # many times as fast as to choose between all the pixels of two batches
    return tf.tensor_scatter_nd_update(pixels, rows, tf.reverse(tf.gather_nd(pixels, rows), [2]))


def factors(keys: tf.Tensor, strength: float) -> tf.Tensor:
    """Numbers from 1 - strength to 1 + strength, float32 `(rows,)`, all as likely."""
    return 1.0 + strength * (2.0 * graph_uniform(keys, 1)[:, 0] - 1.0)


def warp_matrices(keys: tf.Tensor, height: tf.Tensor, width: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Draws flip, rotation, crop, zoom and translation, and puts them together to one warp for each image.

    An image is flipped, rotated around its middle, cut, brought to its size again, zoomed around its middle and
    shifted by whole pixels, which alone blurs nothing.

    Args:
        keys: uint64 `(rows,)`.
        height: of the images, an integer or int32 `()`.
        width: of the images, an integer or int32 `()`.
        config: how much of each.

    Returns:
        float32 `(rows, 8)` for `warp`: where in the image each pixel of the result is taken from, column
        `m[0] * x + m[1] * y + m[2]`, row `m[3] * x + m[4] * y + m[5]`.
    """
    width, height = tf.cast(width, tf.float64), tf.cast(height, tf.float64)
    one, zero = tf.ones_like(keys, tf.float64), tf.zeros_like(keys, tf.float64)
    # From the result back: unshift, to the zoom's and the crop's size and place, rotate back, flip back; all of it
    # around the image's middle.
    shift_x = shift_y = left = top = sine = zero
    scale_x = scale_y = cosine = sign = one
    if config.translation:
        right, down = _draws(keys, _TRANSLATION, 2)
        shift_x = _whole_shift(right, config.translation * width)
        shift_y = _whole_shift(down, config.translation * height)
    if config.zoom:
        scale_x = scale_y = 1.0 / (1.0 + config.zoom * (2.0 * _draws(keys, _ZOOM, 1)[0] - 1.0))
    if config.crop_area < 1.0:
        area, ratio, place_x, place_y = _draws(keys, _CROP, 4)
        area = config.crop_area + (1.0 - config.crop_area) * area
        crop_height, crop_width = _sides(area, ratio, height, width, _CROP_RATIO)
        left, top = (place_x - 0.5) * (width - crop_width), (place_y - 0.5) * (height - crop_height)
        scale_x, scale_y = scale_x * crop_width / width, scale_y * crop_height / height
    if config.rotation:
        angle = math.radians(config.rotation) * (2.0 * _draws(keys, _ROTATION, 1)[0] - 1.0)
        cosine, sine = tf.cos(angle), tf.sin(angle)
    if config.horizontal_flip:
        sign = tf.where(flips(keys), -one, one)
    middle_x, middle_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
    left, top = left - scale_x * shift_x, top - scale_y * shift_y
    row_x = [sign * cosine * scale_x, -sign * sine * scale_y, sign * (cosine * left - sine * top)]
    row_y = [sine * scale_x, cosine * scale_y, sine * left + cosine * top]
    row_x[2] += middle_x - row_x[0] * middle_x - row_x[1] * middle_y
    row_y[2] += middle_y - row_y[0] * middle_x - row_y[1] * middle_y
    return tf.cast(tf.stack([*row_x, *row_y, zero, zero], axis=1), tf.float32)


def warp(pixels: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Takes each pixel from another place, between pixels bilinear; beyond the edge the image is mirrored.

    A matrix that moves whole pixels (the identity, a flip) gives them unchanged.

    Args:
        pixels: float32 `(rows, height, width, channels)` in 0 … 255.
        matrices: float32 `(rows, 8)`, as `warp_matrices` makes them.

    Returns:
        float32 of the same shape in 0 … 255.
    """
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=matrices,
        output_shape=tf.shape(pixels)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return _clipped(tf.ensure_shape(warped, pixels.shape))


def adjust_brightness(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Pixels times each image's factor, float32 `(rows,)`, within 0 … 255."""
    return _clipped(pixels * factors[:, tf.newaxis, tf.newaxis, tf.newaxis])


def adjust_contrast(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """The distance from each image's mean grey times its factor, float32 `(rows,)`, within 0 … 255."""
    factors = factors[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return _clipped(pixels * factors + mean_grey(pixels)[:, tf.newaxis, tf.newaxis, tf.newaxis] * (1.0 - factors))


def mean_grey(pixels: tf.Tensor) -> tf.Tensor:
    """The mean of each image's pixels in grey (ITU-R 601-2), each rounded: float32 `(rows,)`."""
    grey = pixels[..., 0]
    if pixels.shape[-1] == 3:
        grey = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
    # In whole numbers: the order in which TensorFlow adds, and so a sum's last bit, depends on the batch.
    total = tf.reduce_sum(tf.cast(tf.round(grey), tf.int64), axis=[1, 2])
    shape = tf.shape(pixels)
    return tf.cast(tf.cast(total, tf.float64) / tf.cast(shape[1] * shape[2], tf.float64), tf.float32)


def erase(pixels: tf.Tensor, keys: tf.Tensor, share: float) -> tf.Tensor:
    """Replaces a rectangle by noise in some images.

    Of 2 to 33 % of the area, and of proportions from 3:10 to 10:3. The noise is whole numbers from 0 to 255, drawn for
    every pixel and channel.

    Args:
        pixels: float32 `(rows, height, width, channels)` in 0 … 255.
        keys: uint64 `(rows,)`.
        share: of the images.

    Returns:
        float32 of the same shape.

    Reference:
        Zhong et al., "Random Erasing Data Augmentation", 2020.
    """
    fate, *draws = tf.unstack(tf.cast(graph_uniform(keys, 5), tf.float64), num=5, axis=1)
    # Noise costs more than the rest; it is made for the images that take it alone.
    rows = tf.where(fate < share)[:, 0]
    erased = tf.gather(pixels, rows)
    shape = tf.shape(erased)
    area, ratio, place_x, place_y = (tf.gather(draw, rows) for draw in draws)
    area = _ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * area
    height, width = tf.cast(shape[1], tf.float64), tf.cast(shape[2], tf.float64)
    sides = (tf.maximum(tf.round(side), 1.0) for side in _sides(area, ratio, height, width, _ERASED_RATIO))
    inside_y, inside_x = (
        _inside(tf.floor(place * (whole - side + 1.0)), side, whole)
        for place, side, whole in zip((place_y, place_x), sides, (height, width), strict=True)
    )
    inside = (inside_y[:, :, tf.newaxis] & inside_x[:, tf.newaxis, :])[..., tf.newaxis]
    noise = tf.reshape(_noise(tf.gather(keys, rows), shape[1] * shape[2] * shape[3]), shape)
    changed = tf.where(inside, tf.cast(noise, tf.float32), erased)
    return tf.tensor_scatter_nd_update(pixels, rows[:, tf.newaxis], changed)


def _draws(keys: tf.Tensor, operation: int, num: int) -> list[tf.Tensor]:
    """`num` random numbers of an operation's own, each float64 `(rows,)`."""
    uniform = tf.cast(graph_uniform(graph_keys(keys, operation), num), tf.float64)
    return list(tf.unstack(uniform, num=num, axis=1))


def _whole_shift(draw: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """A whole number of pixels from -largest to largest (rounded), all as likely."""
    largest = tf.round(largest)
    return tf.floor(draw * (2.0 * largest + 1.0)) - largest


def _sides(
    area: tf.Tensor, draw: tf.Tensor, height: tf.Tensor, width: tf.Tensor, most: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of rectangles of these shares of an image's area that fit into it.

    The logarithm of width / height is uniform between 1 / most and most, as far as the rectangle fits; where none of
    that area does, it is the largest that fits.
    """
    low = tf.maximum(tf.math.log(area * width / height), -math.log(most))
    high = tf.minimum(tf.math.log(width / (area * height)), math.log(most))
    ratio = tf.clip_by_value(tf.exp(low + (high - low) * draw), 1.0 / most, most)
    rectangle_width = tf.minimum(tf.sqrt(area * width * height * ratio), tf.minimum(width, height * ratio))
    return rectangle_width / ratio, rectangle_width


def _inside(start: tf.Tensor, length: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """Which of the places `0 … whole - 1` are in each row's part of them: bool `(rows, whole)`."""
    places = tf.range(whole)
    return (places >= start[:, tf.newaxis]) & (places < (start + length)[:, tf.newaxis])


def _noise(keys: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """Random bytes, uint8 `(rows, num)`: eight of each number drawn."""
    numbers = graph_keys(keys[:, tf.newaxis], _ERASING, tf.range((num + 7) // 8))
    return tf.reshape(tf.bitcast(numbers, tf.uint8), [tf.size(keys), -1])[:, :num]


def _clipped(pixels: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(pixels, 0.0, 255.0)
