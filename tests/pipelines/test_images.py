"""Decoding images in the graph: every format, every way to be wrong."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.images.decoding import decode_images
from pipelines.images.preprocess import ImagePreprocessor

COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def encoded(kind: str, pixels: np.ndarray = COLOURS, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises an image of this size."""
    chunk = b"IHDR" + struct.pack(">II", width, height) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def decode(*contents: bytes, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    return decode_images(tf.constant(contents, tf.string), height, width, channels).numpy()


def several_frames() -> bytes:
    frames = [Image.fromarray(np.roll(COLOURS, i, axis=0)) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], comment=b"x" * 700)
    return file.getvalue()


def test_the_right_size_goes_through_bit_by_bit() -> None:
    sixteen_bits = tf.io.encode_png(COLOURS.astype(np.uint16) * 257).numpy()
    opaque = np.dstack([COLOURS, GREY])
    for content in (encoded("PNG"), encoded("BMP"), encoded("PNG", opaque), encoded("BMP", opaque), sixteen_bits):
        np.testing.assert_array_equal(decode(content)[0], COLOURS)
    # 64 colours fit a GIF's table.
    np.testing.assert_array_equal(decode(encoded("GIF"))[0], COLOURS)
    expected = tf.io.decode_jpeg(encoded("JPEG"), channels=3)
    np.testing.assert_array_equal(decode(encoded("JPEG"))[0], expected)


def test_only_a_gifs_first_frame_counts() -> None:
    np.testing.assert_array_equal(decode(several_frames())[0], COLOURS)


def test_what_follows_a_gifs_first_frame_is_not_read() -> None:
    # A second frame that claims 65,535 × 65,535 pixels: TensorFlow's decoder would allocate 4 GiB for it.
    second = b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02L\x01\x00;"
    content = encoded("GIF")
    assert content.endswith(b";")
    np.testing.assert_array_equal(decode(content[:-1] + second)[0], COLOURS)


def test_grey_becomes_colours_and_colours_grey() -> None:
    for kind in ("PNG", "BMP", "GIF"):
        np.testing.assert_array_equal(decode(encoded(kind, GREY))[0], np.dstack([GREY] * 3))
        np.testing.assert_array_equal(decode(encoded(kind, GREY), channels=1)[0, ..., 0], GREY)
    luminance = COLOURS @ [0.299, 0.587, 0.114]
    for kind in ("PNG", "BMP", "GIF"):
        grey = decode(encoded(kind), channels=1)[0, ..., 0]
        assert np.abs(grey - luminance).max() < 12, "libpng weighs the colours a little differently"


def test_other_sizes_are_resized() -> None:
    flat = np.full((5, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(decode(encoded("PNG", flat))[0], np.full((8, 8, 3), 77))
    np.testing.assert_array_equal(decode(encoded("PNG", flat[:1, :1]))[0], np.full((8, 8, 3), 77))
    # Averages of 2 × 2 pixels, which is what antialiasing is for, up to the filter's longer reach.
    checks = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((4, 4), int)).astype(np.uint8) * 255
    small = decode(encoded("PNG", checks), channels=1)[0, ..., 0]
    expected = tf.image.resize(checks[..., None], [8, 8], antialias=True)[..., 0]
    np.testing.assert_array_equal(small, np.rint(expected))


def test_a_batch_may_mix_formats_and_sizes_and_may_be_empty() -> None:
    batch = decode(encoded("PNG"), encoded("JPEG"), encoded("BMP", GREY), several_frames())
    assert batch.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(batch[0], batch[3])
    assert decode().shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(20_000, 10), r"element 1 is 20000 pixels wide and 10 high; an image must have 1 to 8,192"),
        (png_header(10, 20_000), r"element 1 is 10 pixels wide and 20000 high"),
        (png_header(8_192, 8_192), r"element 1 is 8192 pixels wide and 8192 high; .* at most 64,000,000 in all"),
        (png_header(0, 10), r"element 1 is 0 pixels wide and 10 high"),
        (png_header(2**31 + 8, 10), r"element 1 is -2147483640 pixels wide"),
        (
            b"BM" + bytes(16) + struct.pack("<ii", 20_000, -10) + bytes(10),
            r"element 1 is 20000 pixels wide and 10 high",
        ),
        (b"GIF89a" + struct.pack("<HH", 20_000, 10) + bytes(3), r"element 1 is 20000 pixels wide and 10 high"),
        (b"GIF89a\x08\0\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;", r"element 1 is 65535 pixels wide and 65535"),
        (b"GIF89a\x08\0\x08\0\0\0\0", r"element 1 is 0 pixels wide and 0 high"),
        (b"a text that is named .jpg", r"element 1 is no PNG, JPEG, BMP or GIF image; it has 25 bytes"),
        (b"", r"element 1 is no PNG, JPEG, BMP or GIF image; it has 0 bytes"),
        (b"\x89PNG\r\n\x1a\n", r"element 1 is 0 pixels wide"),
    ],
)
def test_refused_before_decoding(content: bytes, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(encoded("PNG"), content)


def test_a_jpegs_size_is_refused_too() -> None:
    # The two bytes of the height and of the width stand behind the marker of the frame.
    content = encoded("JPEG")
    place = content.index(b"\xff\xc0") + 5
    wide = content[:place] + struct.pack(">HH", 10, 20_000) + content[place + 4 :]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"element 0 is 20000 pixels wide and 10 high"):
        decode(wide)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_cut_off_anywhere_it_is_refused(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = encoded(kind, noise)
    for end in np.linspace(1, len(content) * 0.9, 12).astype(int):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(content[:end])


def test_bytes_damaged_anywhere_never_end_the_process() -> None:
    random = np.random.default_rng(2)
    for kind in ("PNG", "JPEG", "BMP", "GIF"):
        content = encoded(kind)
        for _ in range(40):
            damaged = bytearray(content)
            damaged[random.integers(len(damaged))] = random.integers(256)
            try:
                assert decode(bytes(damaged)).shape == (1, 8, 8, 3)
            except tf.errors.InvalidArgumentError as error:
                assert error.message  # noqa: PT017


def test_the_preprocessor_serves_bytes_and_pixels_alike(served: Callable) -> None:
    functions = served(ImagePreprocessor(8, 8, 3))
    expected = COLOURS.astype(np.float32)[None] * np.float32(1 / 255)
    by_bytes = functions["serving_default"](image=tf.constant([encoded("PNG")]))["image"]
    by_pixels = functions["pixels"](pixels=tf.constant(COLOURS[None]))["image"]
    np.testing.assert_array_equal(by_bytes, expected)
    np.testing.assert_array_equal(by_pixels, expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match="element 1 is 20000 pixels wide"):
        functions["serving_default"](image=tf.constant([encoded("PNG"), png_header(20_000, 10)]))


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channels is 4; images are decoded to 1 \(greyscale\) or 3"):
        decode(encoded("PNG"), channels=4)
