"""A GIF's first frame, cut out before decoding.

TensorFlow's decoder reads every frame into memory even when only the first is wanted, and believes the size that each
frame states. A small file can so ask for gigabytes; what follows the first frame is therefore cut off unread.
"""

import tensorflow as tf

MAX_BLOCKS = 100_000
"""Blocks that may be walked through before the file is taken for damaged: about 25 MB of a usual GIF."""

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, b";"


def first_frame(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A GIF with nothing after its first frame.

    Args:
        content: the file's bytes, a string scalar that starts as GIFs do.

    Returns:
        The shortened file, and the frame's width and height in pixels as it states them (int32 scalars), 0 where the
        file is damaged before them. What is damaged after them is left for the decoder to refuse.
    """
    size = tf.strings.length(content)
    # Zeros after the end stop every walk: a zero is an empty block.
    data = tf.concat([tf.io.decode_raw(content, tf.uint8), tf.zeros([16], tf.uint8)], axis=0)

    def byte(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(position, size)], tf.int32)

    def colour_table(flags: tf.Tensor) -> tf.Tensor:
        """The bytes that a colour table takes: none, or three for each of 2, 4 … 256 colours."""
        return tf.where(flags >= 128, tf.bitwise.left_shift(3, (flags & 7) + 1), 0)

    def after_blocks(position: tf.Tensor, walked: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The place after a chain of blocks, each one preceded by its length, the last one empty."""

        def more(position: tf.Tensor, walked: tf.Tensor) -> tf.Tensor:
            return (byte(position) > 0) & (walked < MAX_BLOCKS)

        def advance(position: tf.Tensor, walked: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return position + byte(position) + 1, walked + 1

        position, walked = tf.while_loop(more, advance, (position, walked))
        return position + 1, walked

    def is_extension(position: tf.Tensor, walked: tf.Tensor) -> tf.Tensor:
        return (byte(position) == _EXTENSION) & (walked < MAX_BLOCKS)

    def skip_extension(position: tf.Tensor, walked: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return after_blocks(position + 2, walked + 1)

    start = 13 + colour_table(byte(tf.constant(10)))
    place, walked = tf.while_loop(is_extension, skip_extension, (start, tf.constant(0)))
    found = (byte(place) == _IMAGE) & (place + 10 < size)
    width = tf.where(found, byte(place + 5) + 256 * byte(place + 6), 0)
    height = tf.where(found, byte(place + 7) + 256 * byte(place + 8), 0)
    end, walked = after_blocks(place + 10 + colour_table(byte(place + 9)) + 1, walked)
    frame = tf.strings.substr(content, 0, tf.minimum(end, size)) + _TRAILER
    return frame, tf.where(walked < MAX_BLOCKS, width, 0), tf.where(walked < MAX_BLOCKS, height, 0)
