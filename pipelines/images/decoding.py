"""Encoded images → pixels in graph operations, safe for bytes from strangers.

The size is read from the header and bounded before anything is decoded: a file of a few kilobytes may promise an image
of gigabytes.

Two things are as TensorFlow's decoders, and most training pipelines, have them: transparency is dropped, so that the
colour beneath it shows; and the turning that a camera notes in a JPEG's EXIF header is not done.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import tensorflow as tf

from pipelines.images.gif import first_frame

MAX_SIDE = 8_192
"""Pixels that an image may be wide or high before it is refused undecoded."""
MAX_PIXELS = 64_000_000
"""Pixels that an image may have in all before it is refused undecoded."""

Resize: TypeAlias = Literal["stretch", "crop", "pad"]

_PNG = bytes([137, 80, 78, 71, 13, 10, 26, 10])
_JPEG = bytes([255, 216, 255])
_GIF = b"GIF8"
_BMP = b"BM"
_HEADER_BYTES = 32


@tf.function(autograph=False)
def decode_images(encoded: tf.Tensor, height: int, width: int, channels: int, resize: Resize = "stretch") -> tf.Tensor:
    """Decodes PNG, JPEG, BMP and GIF (the first frame) and brings them to one size.

    Args:
        encoded: the files' bytes, string `(batch_size,)`.
        height: of the result, in pixels.
        width: of the result, in pixels.
        channels: 1 or 3; colours become grey and grey becomes colours as needed, transparency is dropped.
        resize: as for `resize_images`.

    Returns:
        uint8 `(batch_size, height, width, channels)`. An image that has this size already goes through unchanged.

    Raises:
        tf.errors.InvalidArgumentError: an element is no image, is damaged, or is larger than `MAX_SIDE` or
            `MAX_PIXELS` allow; the message has the element's place in the batch where the graph knows it.

    Example:
        >>> decode_images(tf.io.encode_png(tf.zeros([8, 8, 1], tf.uint8))[tf.newaxis], 8, 8, 1).shape
        TensorShape([1, 8, 8, 1])
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; images are decoded to 1 (greyscale) or 3 (colour)")

    def decode(element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        place, content = element
        pixels = _decode_one(place, content, channels)
        same = tf.reduce_all(tf.shape(pixels)[:2] == [height, width])
        pixels = tf.cond(same, lambda: pixels, lambda: resize_images(pixels, height, width, resize))
        return tf.ensure_shape(pixels, [height, width, channels])

    places = tf.range(tf.size(encoded))
    # Few at a time: each may take as much memory as the largest image allowed.
    pixels = tf.map_fn(decode, (places, encoded), fn_output_signature=tf.uint8, parallel_iterations=4)
    # An empty batch leaves map_fn without a shape to go by.
    return tf.reshape(pixels, [-1, height, width, channels])


def resize_images(pixels: tf.Tensor, height: int, width: int, resize: Resize = "stretch") -> tf.Tensor:
    """Brings pixels to a size: bilinear, with antialiasing, rounded.

    Args:
        pixels: uint8 `(image_height, image_width, channels)`, or with a batch dimension.
        height: of the result.
        width: of the result.
        resize: what is done with other proportions: `stretch` the image; `crop` its largest middle part that has the
            right ones; `pad` the whole image with black.

    Returns:
        uint8 `(height, width, channels)`, or with the batch dimension.
    """
    image_height, image_width = tf.unstack(tf.shape(pixels)[-3:-1])
    if resize == "crop":
        rows = tf.clip_by_value(image_width * height // width, 1, image_height)
        columns = tf.clip_by_value(image_height * width // height, 1, image_width)
        top, left = (image_height - rows) // 2, (image_width - columns) // 2
        pixels = pixels[..., top : top + rows, left : left + columns, :]
    if resize != "pad":
        return _rounded(tf.image.resize(pixels, [height, width], antialias=True))
    rows = tf.clip_by_value((2 * image_height * width + image_width) // (2 * image_width), 1, height)
    columns = tf.clip_by_value((2 * image_width * height + image_height) // (2 * image_height), 1, width)
    whole = _rounded(tf.image.resize(pixels, tf.stack([rows, columns]), antialias=True))
    return tf.image.pad_to_bounding_box(whole, (height - rows) // 2, (width - columns) // 2, height, width)


def to_channels(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    """Brings pixels of 1 to 4 channels to 1 (greyscale) or 3 (colour), without transparency.

    Args:
        pixels: uint8 `(…, found)`; of two or four channels the last one is transparency.
        channels: 1 or 3.
    """
    found = tf.shape(pixels)[-1]
    if channels == 3:
        return tf.cond(found <= 2, lambda: tf.repeat(pixels[..., :1], 3, axis=-1), lambda: pixels[..., :3])

    def grey() -> tf.Tensor:
        # Where there are fewer colours this branch is not taken, and is traced nevertheless.
        return tf.image.rgb_to_grayscale(tf.ensure_shape(pixels[..., :3], [*pixels.shape[:-1], 3]))

    return tf.cond(found <= 2, lambda: pixels[..., :1], grey)


@tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
def inspect_image(content: tf.Tensor) -> tf.Tensor:
    """The size of an image that can be decoded.

    Args:
        content: a file's bytes, a string scalar.

    Returns:
        int32 `(3,)`: height, width, and 1 (greyscale) or 3 (colour) channels.

    Raises:
        tf.errors.InvalidArgumentError: as `decode_images`.
    """
    height, width, channels = tf.unstack(tf.shape(_decode_one(tf.constant(0), content, 0)))
    return tf.stack([height, width, tf.where(channels <= 2, 1, 3)])


def _decode_one(place: tf.Tensor, content: tf.Tensor, channels: int) -> tf.Tensor:
    """Pixels as large as the image is; with 0 for `channels`, with as many as it has."""
    # The header is padded so that reading it cannot fail, however short the content.
    start = tf.strings.substr(content, 0, _HEADER_BYTES) + tf.constant(bytes(_HEADER_BYTES))
    header = tf.cast(tf.io.decode_raw(start, tf.uint8)[:_HEADER_BYTES], tf.int32)

    def is_kind(signature: bytes) -> tf.Tensor:
        return tf.reduce_all(header[: len(signature)] == tf.constant(list(signature)))

    def unknown() -> tf.Tensor:
        message = _message(place, "is no PNG, JPEG, BMP or GIF image; it has {} bytes", tf.strings.length(content))
        with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
            return tf.zeros([0, 0, channels], tf.uint8)

    readers: list[tuple[bytes, Callable[[], tf.Tensor]]] = [
        (_PNG, lambda: _png(place, content, header, channels)),
        (_JPEG, lambda: _jpeg(place, content, channels)),
        (_GIF, lambda: _gif(place, content, header, channels)),
        (_BMP, lambda: _bmp(place, content, header, channels)),
    ]
    pixels = tf.case([(is_kind(signature), reader) for signature, reader in readers], default=unknown)
    return tf.ensure_shape(pixels, [None, None, channels or None])


def _png(place: tf.Tensor, content: tf.Tensor, header: tf.Tensor, channels: int) -> tf.Tensor:
    width, height = (_number(header, start, [24, 16, 8, 0]) for start in (16, 20))
    with tf.control_dependencies([_bounded(place, width, height)]):
        return tf.io.decode_png(tf.identity(content), channels=channels)


def _jpeg(place: tf.Tensor, content: tf.Tensor, channels: int) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(content)  # reads no further than the header
    with tf.control_dependencies([_bounded(place, shape[1], shape[0])]):
        if channels != 1:
            return tf.io.decode_jpeg(tf.identity(content), channels=channels)

        def printed() -> tf.Tensor:  # the decoder makes colours of a printer's four, and no greys
            return to_channels(tf.io.decode_jpeg(tf.identity(content), channels=3), 1)

        return tf.cond(shape[2] == 4, printed, lambda: tf.io.decode_jpeg(tf.identity(content), channels=1))


def _bmp(place: tf.Tensor, content: tf.Tensor, header: tf.Tensor, channels: int) -> tf.Tensor:
    width, height = (_number(header, start, [0, 8, 16, 24]) for start in (18, 22))
    # A negative height means that the rows are stored from the top down.
    with tf.control_dependencies([_bounded(place, width, tf.abs(height))]):
        return _as_wanted(tf.io.decode_bmp(tf.identity(content)), channels)


def _gif(place: tf.Tensor, content: tf.Tensor, header: tf.Tensor, channels: int) -> tf.Tensor:
    width, height = (_number(header, start, [0, 8]) for start in (6, 8))
    with tf.control_dependencies([_bounded(place, width, height)]):
        frame, frame_width, frame_height = first_frame(tf.identity(content))
    with tf.control_dependencies([_bounded(place, frame_width, frame_height)]):
        return _as_wanted(tf.io.decode_gif(tf.identity(frame))[0], channels)


def _number(header: tf.Tensor, start: int, shifts: list[int]) -> tf.Tensor:
    """The int32 whose bytes begin at `start`, each shifted by so many bits."""
    number = tf.constant(0)
    for offset, shift in enumerate(shifts):
        number = tf.bitwise.bitwise_or(number, tf.bitwise.left_shift(header[start + offset], shift))
    return number


def _bounded(place: tf.Tensor, width: tf.Tensor, height: tf.Tensor) -> tf.Operation | tf.Tensor:
    """Fails where an image of this size must not be decoded."""
    positive = (width > 0) & (height > 0)
    small = (width <= MAX_SIDE) & (height <= MAX_SIDE)
    # In int64: a header's two sides multiplied may not fit an int32.
    few = tf.cast(width, tf.int64) * tf.cast(height, tf.int64) <= MAX_PIXELS
    limits = f"an image must have 1 to {MAX_SIDE:,} pixels a side and at most {MAX_PIXELS:,} in all"

    def refuse() -> tf.Tensor:
        message = _message(place, f"is {{}} pixels wide and {{}} high; {limits}", width, height)
        with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
            return tf.constant(False)

    return tf.cond(positive & small & few, lambda: tf.constant(True), refuse)


def _message(place: tf.Tensor, text: str, *values: tf.Tensor) -> tf.Tensor:
    return tf.strings.format("image: element {} " + text, (place, *values))


def _as_wanted(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    return to_channels(pixels, channels) if channels else pixels


def _rounded(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)
