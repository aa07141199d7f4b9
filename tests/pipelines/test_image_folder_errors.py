"""Folders of images that are not as they must be: every message, and what is left out instead."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pipelines
from pipelines.config import ImageFolderConfig
from pipelines.data import Data, DatasetInfo, ImageInfo
from pipelines.errors import MissingFileError, UserError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
JPEG = tf.io.encode_jpeg(NOISE).numpy()
PNG = tf.io.encode_png(NOISE).numpy()


def fill(folder: Path, num: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num):
        (folder / f"{index}.png").write_bytes(PNG)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name)
    return tmp_path / "pets"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Data]:
    def load_folder(**options: object) -> Data:
        known = {"source": "image_folder", "data_dir": tmp_path, "path": "pets", "cache_dir": tmp_path / "cache"}
        return pipelines.load(ImageFolderConfig.model_validate(known | {"batch_size": 4} | options))

    return load_folder


@pytest.fixture
def refused(load: Callable) -> Callable[..., None]:
    def check(message: str, **options: object) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load(**options)
        assert "\n" not in str(caught.value)

    return check


def wide_png() -> bytes:
    return tf.io.encode_png(np.zeros((2, 20_000, 1), np.uint8)).numpy()


def printed_jpeg(folder: Path) -> bytes:
    Image.fromarray(NOISE).convert("CMYK").save(folder / "cmyk.jpg")
    return (folder / "cmyk.jpg").read_bytes()


BROKEN = [
    ("text.jpg", b"a text that is named .jpg", r"is no PNG, JPEG, BMP or GIF image; it has 25 bytes"),
    ("empty.png", b"", r"is no PNG, JPEG, BMP or GIF image; it has 0 bytes"),
    ("cut.jpg", JPEG[: len(JPEG) // 2], r"is damaged or cut off and cannot be decoded"),
    ("cut.png", PNG[: len(PNG) // 2], r"is damaged or cut off and cannot be decoded"),
    ("wide.png", wide_png(), r"is 20000 pixels wide and 2 high; an image must have 1 to 8,192 pixels a side"),
    ("photo.webp", b"RIFF", r"is not \.jpg, \.jpeg, \.png, \.bmp or \.gif"),
    ("notes.txt", b"notes", r"is not \.jpg, \.jpeg, \.png, \.bmp or \.gif"),
    ("no_ending", PNG, r"is not \.jpg, \.jpeg, \.png, \.bmp or \.gif"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_file_stops_the_run_or_is_left_out_and_counted(
    load: Callable, refused: Callable, pets: Path, name: str, content: bytes, message: str
) -> None:
    (pets / "cat" / name).write_bytes(content)
    whole = rf"pets: 1 of 17 files is broken: cat/{name} {message}.*; replace or remove it, or leave it out with data.b"
    refused(whole)
    refused(whole)  # from what is remembered, too
    data = load(broken="skip")
    assert sum(data.info.counts.values()) == 16
    assert data.info.images.num_skipped == 1
    (skipped,) = data.info.images.skipped
    assert skipped.startswith(f"cat/{name} is ")
    assert DatasetInfo.from_json(data.info.to_json()) == data.info


def test_a_file_that_was_mended_is_used(load: Callable, refused: Callable, pets: Path) -> None:
    (pets / "cat" / "8.png").write_bytes(b"broken")
    refused("1 of 17 files is broken")
    (pets / "cat" / "8.png").write_bytes(PNG)
    assert load().info.images == ImageInfo()


def test_of_many_broken_files_the_first_are_named(load: Callable, refused: Callable, pets: Path) -> None:
    for index in range(30):
        (pets / "dog" / f"x{index:02}.jpg").write_bytes(b"no")
    refused(
        r"pets: 30 of 46 files are broken: dog/x00.jpg is no .* bytes; dog/x01.jpg .*; dog/x04.jpg [^;]*; it has 2 "
        r"bytes; and 25 more; replace or remove them, or leave them out with data.broken: skip"
    )
    info = load(broken="skip").info
    assert info.images.num_skipped == 30
    assert len(info.images.skipped) == 20


def test_a_printers_colours_are_read(load: Callable, pets: Path) -> None:
    (pets / "cat" / "cmyk.jpg").write_bytes(printed_jpeg(pets.parent))
    for channels in (1, 3):
        data = load(images={"channels": channels}, split={"validation": 0.0, "test": 0.0}, batch_size=17, shuffle=False)
        (features,) = [features for features, _ in data.train()]
        expected = NOISE if channels == 3 else NOISE @ np.array([[0.299], [0.587], [0.114]])
        assert np.abs(features["image"][8].numpy() * 255 - expected).mean() < 25


def test_nothing_is_left_of_a_class(refused: Callable, pets: Path) -> None:
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"no")
    refused(
        r"pets/cat has no image left: all its files are broken, such as cat/0.png, which is no PNG.*remove the folder",
        broken="skip",
    )


def test_links_and_pipes_that_lead_nowhere(refused: Callable, load: Callable, pets: Path) -> None:
    (pets / "cat" / "a.png").symlink_to("missing.png")
    (pets / "cat" / "b.png").symlink_to("b.png")
    os.mkfifo(pets / "cat" / "c.png")
    refused(
        r"3 of 19 files are broken: cat/a.png cannot be read: No such file or directory; cat/b.png cannot be read: Too "
        r"many levels of symbolic links; cat/c.png is no ordinary file;"
    )
    assert load(broken="skip").info.images.num_skipped == 3


def test_a_link_back_to_the_folder_does_not_hang(refused: Callable, pets: Path) -> None:
    (pets / "loop").symlink_to(pets)
    refused(r"pets/loop/cat is a folder within a class; images are expected in .*pets/loop itself")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(refused: Callable, load: Callable, pets: Path) -> None:
    (pets / "cat" / "0.png").chmod(0)
    refused(r"1 of 16 files is broken: cat/0.png cannot be read: no permission")
    (pets / "cat" / "0.png").chmod(0o600)
    assert load().info.images.num_skipped == 0
    (pets / "cat").chmod(0)
    refused(r"no permission to read the folder .*pets/cat")


def test_the_folder_is_not_there(refused: Callable, load: Callable, pets: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r'pest \(data.path\) is not there; did you mean "pets"\?'):
        load(path="pest")
    with pytest.raises(MissingFileError, match=r"nowhere/x \(data.path\) is not there: there is no folder .*nowhere"):
        load(path="nowhere/x")
    (tmp_path / "file").touch()
    refused(r"file \(data.path\) is a file; a folder was expected, with a sub-folder for each class", path="file")


def test_no_classes(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    refused(r"pets has no sub-folders; one was expected for each class, with its images in it")
    fill(tmp_path / "pets", 2)
    refused(r"pets has no sub-folders")
    fill(tmp_path / "pets" / "cat")
    refused(r'pets has images beside the classes\' sub-folders \("0.png", "1.png"\); move them into one of those')


def test_one_class_only(refused: Callable, tmp_path: Path) -> None:
    fill(tmp_path / "pets" / "cat")
    refused(r'pets has one class only, "cat"; a classifier needs at least two')


def test_an_empty_class(refused: Callable, pets: Path) -> None:
    (pets / "bird").mkdir()
    refused(r"pets/bird is empty; put the images of this class there or remove the folder")
    (pets / "bird" / ".DS_Store").touch()
    refused(r"pets/bird is empty")


def test_folders_within_a_class(refused: Callable, pets: Path) -> None:
    fill(pets / "cat" / "kittens")
    refused(r"pets/cat/kittens is a folder within a class; images are expected in .*pets/cat itself \(the folders of a")


def test_classes_that_are_not_there(refused: Callable, pets: Path) -> None:
    refused(r'pets has no sub-folder "dogs" \(data.classes\); did you mean "dog"\?', classes=["cat", "dogs"])
    refused(r'data.classes has "cat" twice', classes=["cat", "cat"])


@pytest.fixture
def divided(pets: Path) -> Path:
    (pets / "train").mkdir()
    for name in ("cat", "dog"):
        (pets / name).rename(pets / "train" / name)
    fill(pets / "test" / "cat", 2)
    return pets


def test_a_test_class_that_training_has_not(refused: Callable, divided: Path) -> None:
    fill(divided / "test" / "Dog", 2)
    refused(r'pets/test: the test split has class "Dog", which training has not; did you mean "dog"\?')


def test_other_folders_beside_train(refused: Callable, divided: Path) -> None:
    fill(divided / "val" / "cat", 2)
    refused(r'pets has train/ and also "val"; beside train/ there may be validation/ and test/ only: rename or move')


def test_a_division_without_training(refused: Callable, divided: Path) -> None:
    (divided / "train").rename(divided / "validation")
    refused(r'pets has "test", "validation" and no train/; training images are expected there')


def test_an_empty_split(refused: Callable, divided: Path) -> None:
    (divided / "validation").mkdir()
    refused(r"pets/validation has no sub-folders; one was expected for each class")
    (divided / "validation" / "cat").mkdir()
    refused(r"pets/validation/cat is empty")


def test_broken_files_are_named_below_the_whole_folder(refused: Callable, divided: Path) -> None:
    (divided / "test" / "cat" / "x.jpg").write_bytes(b"no")
    refused(r"pets: 1 of 19 files is broken: test/cat/x.jpg is no PNG")


def test_images_of_different_sizes(refused: Callable, pets: Path) -> None:
    (pets / "dog" / "9.png").write_bytes(tf.io.encode_png(NOISE[:30, :20]).numpy())
    refused(r"cat/0.png has 40 × 40 pixels and dog/9.png 20 × 30; a model needs one size: set data.images.size, such")


def test_options_that_do_not_fit(refused: Callable, pets: Path) -> None:
    refused(
        r"data.images.normalization: imagenet is for three colours, and the images are greyscale; set data.images.ch",
        images={"channels": 1, "normalization": "imagenet"},
    )
    refused(r"data.train_examples is 100 and there are 11 training examples; lower it", train_examples=100)
    refused(r"11 training examples are fewer than one batch of 12; set data.batch_size", batch_size=12)
    fill(pets / "bird", 2)
    refused(r'pets: class "bird" has 2 examples, and a stratified division')


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_names_that_are_no_utf8(refused: Callable, pets: Path) -> None:
    (Path(os.fsdecode(os.fsencode(pets) + b"/cat/\xff.png"))).write_bytes(PNG)
    refused(r'pets/cat: the name "�.png" is not UTF-8; rename it')


def test_a_file_that_vanishes_later_is_named(load: Callable, pets: Path) -> None:
    data = load(images={"size": 8})
    path = Path(data.examples("test").features["image"].paths[0])
    path.unlink()
    with pytest.raises(tf.errors.NotFoundError, match=str(path)):
        list(data.test())
