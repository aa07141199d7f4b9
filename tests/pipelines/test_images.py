"""Decoding images in the graph: every format, every way to be wrong."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pipelines
from pipelines.errors import UserError
from pipelines.images.checking import check_image
from pipelines.images.decoding import decode_images, inspect_image, resize_images, to_channels
from pipelines.images.files import ImageFiles
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


# Sixteen rows of one brightness each, so that it shows which rows are left.
ROWS = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None] * 16, (16, 32, 3))


def test_an_image_of_other_proportions_is_stretched_cut_or_padded() -> None:
    wide, tall = ROWS, np.swapaxes(ROWS, 0, 1)
    for pixels, turn in ((wide, lambda image: image), (tall, lambda image: np.swapaxes(image, 0, 1))):
        stretched, cut, padded = (
            turn(resize_images(pixels, 16, 16, how).numpy()) for how in ("stretch", "crop", "pad")
        )
        np.testing.assert_array_equal(stretched, ROWS[:, :16])
        np.testing.assert_array_equal(cut, ROWS[:, 8:24])
        # 16 × 8, in the middle, with four black rows above and below.
        assert not padded[:4].any()
        assert not padded[12:].any()
        np.testing.assert_array_equal(padded[4:12], np.rint(tf.image.resize(ROWS, [8, 16], antialias=True)))
    content = encoded("PNG", np.ascontiguousarray(wide))
    np.testing.assert_array_equal(decode_images(tf.constant([content]), 16, 16, 3, "crop")[0], ROWS[:, 8:24])


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 13), (16, 16), (3, 300)])
def test_any_size_becomes_the_one_wanted(how: str, size: tuple[int, int]) -> None:
    flat = np.full((2, *size, 3), 200, np.uint8)
    for height, width in ((16, 16), (5, 20), (1, 1)):
        found = resize_images(flat, height, width, how).numpy()
        assert found.shape == (2, height, width, 3)
        assert set(np.unique(found)) <= ({200} if how != "pad" else {0, 200})
        assert (found == 200).any()
        np.testing.assert_array_equal(found[1], resize_images(flat[0], height, width, how))


def test_channels_of_pixels_and_transparency() -> None:
    for found in (1, 2):
        grey = np.dstack([GREY] * found)
        np.testing.assert_array_equal(to_channels(grey, 3), np.dstack([GREY] * 3))
        np.testing.assert_array_equal(to_channels(grey, 1)[..., 0], GREY)
    for pixels in (COLOURS, np.dstack([COLOURS, GREY])):
        np.testing.assert_array_equal(to_channels(pixels, 3), COLOURS)
        np.testing.assert_array_equal(to_channels(pixels[None], 1)[0], tf.image.rgb_to_grayscale(COLOURS))
    # The colour beneath a transparent pixel shows, as in PIL's `convert`.
    hidden = np.dstack([COLOURS, np.zeros_like(GREY)])
    np.testing.assert_array_equal(decode(encoded("PNG", hidden))[0], COLOURS)


def test_the_turning_of_a_camera_is_not_done() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded("JPEG", exif=exif)
    np.testing.assert_array_equal(decode(content)[0], decode(encoded("JPEG"))[0])


def test_a_printers_four_colours() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), [200, 100, 50], np.uint8)).convert("CMYK").save(file, "JPEG")
    assert np.abs(decode(file.getvalue())[0] - np.array([200.0, 100, 50])).max() < 8
    assert np.abs(decode(file.getvalue(), channels=1)[0] - 124.0).max() < 8


def test_what_an_image_is() -> None:
    for content, expected in (
        (encoded("PNG", COLOURS[:5]), [5, 8, 3]),
        (encoded("PNG", GREY), [8, 8, 1]),
        (encoded("PNG", np.dstack([GREY, GREY])), [8, 8, 1]),
        (encoded("PNG", np.dstack([COLOURS, GREY])), [8, 8, 3]),
        (encoded("JPEG", GREY), [8, 8, 1]),
        (encoded("JPEG"), [8, 8, 3]),
        (encoded("BMP"), [8, 8, 3]),
        (several_frames(), [8, 8, 3]),
    ):
        assert inspect_image(tf.constant(content)).numpy().tolist() == expected


def test_a_file_that_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    found = check_image(str(path))
    assert (found.height, found.width, found.channels, found.problem) == (8, 8, 3, "")
    assert found.digest == ImageFiles([path]).digests[0]
    path.write_bytes(png_header(20_000, 10))
    assert check_image(str(path)).problem.startswith("is 20000 pixels wide and 10 high; an image must have")
    assert check_image(str(tmp_path / "b.png")).problem == "cannot be read: No such file or directory"


def test_files_look_like_an_array_of_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        path.write_bytes(bytes([index]))
    files = ImageFiles(paths)
    assert (len(files), files.shape, files.ndim, files.dtype) == (4, (4,), 1, np.dtype(object))
    assert files.paths == [str(path) for path in paths]
    assert np.asarray(files).tolist() == [bytes([index]) for index in range(4)]
    assert tf.constant(files[[3, 1]]).numpy().tolist() == [b"\3", b"\1"]
    assert files[1:3].paths == files[np.array([1, 2])].paths == files[np.array([False, True, True, False])].paths
    assert len(files[[]]) == len(tf.constant(files[:0])) == 0
    assert ImageFiles(paths, "abcd")[[2, 0]].digests == ["c", "a"]
    paths[0].unlink()
    assert tf.constant(files[1:]).shape == (3,), "only what is taken is read"
    with pytest.raises(FileNotFoundError):
        np.asarray(files)
    with pytest.raises(TypeError, match=r"taken by a slice or an array of indices; paths\[index\] is one path"):
        files[0]
    with pytest.raises(TypeError, match="files are read as bytes, dtype object, not float32"):
        np.asarray(files, np.float32)
    with pytest.raises(ValueError, match="which cannot be done without a copy"):
        np.array(files, copy=False)
    with pytest.raises(ValueError, match="3 digests for 4 paths"):
        ImageFiles(paths, "abc")


def test_imagenets_normalisation_and_back() -> None:
    preprocess = ImagePreprocessor(8, 8, 3, normalization="imagenet")
    image = preprocess({"pixels": tf.constant(COLOURS[None])})["image"]
    expected = (COLOURS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(image[0], expected, atol=1e-6)
    np.testing.assert_array_equal(preprocess.denormalised(image)[0], COLOURS)
    plain = ImagePreprocessor(8, 8, 3)
    np.testing.assert_array_equal(plain.denormalised(plain({"pixels": COLOURS[None]})["image"])[0], COLOURS)
    np.testing.assert_array_equal(plain.denormalised(tf.constant([[[[-1.0, 0.6, 2.0]]]]))[0, 0, 0], [0, 153, 255])


def test_the_two_parts_are_the_whole() -> None:
    preprocess = ImagePreprocessor(6, 4, 3, "pad", "imagenet")
    raw = {"image": tf.constant([encoded("PNG"), encoded("JPEG")])}
    pixels = preprocess.pixels(raw)
    assert (pixels.shape, pixels.dtype) == ((2, 6, 4, 3), tf.float32)
    np.testing.assert_array_equal(pixels, decode_images(raw["image"], 6, 4, 3, "pad"))
    np.testing.assert_array_equal(preprocess.normalised(pixels), preprocess(raw)["image"])


def test_served_with_every_option_as_trained(served: Callable) -> None:
    preprocess = ImagePreprocessor(6, 6, 3, "crop", "imagenet")
    raw = {"image": tf.constant([encoded("PNG"), encoded("JPEG", COLOURS[:5])])}
    batched = tf.data.Dataset.from_tensor_slices(raw).batch(2).map(preprocess)
    (trained,) = list(batched)
    found = served(preprocess)["serving_default"](**raw)["image"]
    np.testing.assert_array_equal(found, trained["image"])


def test_a_preprocessor_is_saved_and_read_back(tmp_path: Path) -> None:
    preprocess = ImagePreprocessor(6, 4, 3, "pad", "imagenet")
    preprocess.save(tmp_path)
    again = pipelines.load_preprocessor(tmp_path)
    raw = {"image": tf.constant([encoded("JPEG")])}
    np.testing.assert_array_equal(again(raw)["image"], preprocess(raw)["image"])
    path = tmp_path / "preprocessor.json"
    path.write_text('{"kind": "image", "height": 8, "width": 8, "channels": 1}')  # as earlier versions wrote it
    again = pipelines.load_preprocessor(tmp_path)
    assert (again.shape, again.resize, again.normalization) == ((8, 8, 1), "stretch", "zero_to_one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height, width and channels must be positive whole numbers"),
        ({"width": "8"}, "height, width and channels must be positive whole numbers"),
        ({"resize": "squash"}, r"resize must be one of \('stretch', 'crop', 'pad'\), not 'squash'"),
        ({"normalization": "z_score"}, "normalization must be one of .*, not 'z_score'"),
        ({"channels": 1, "normalization": "imagenet"}, "normalization imagenet is for 3 channels, not 1"),
    ],
)
def test_a_damaged_preprocessor_is_named(tmp_path: Path, change: dict, message: str) -> None:
    config = {"kind": "image", "height": 8, "width": 8, "channels": 3, "resize": "crop", "normalization": "imagenet"}
    (tmp_path / "preprocessor.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=rf"preprocessor.json is damaged: ValueError: {message}"):
        pipelines.load_preprocessor(tmp_path)


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
