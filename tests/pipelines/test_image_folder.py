"""Folders of images: what is found, how it is divided, remembered and read."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines.config import ImageFolderConfig
from pipelines.data import SPLITS, Data, DatasetInfo
from pipelines.images.files import ImageFiles

CLASSES = ("cat", "dog")


def noise(seed: int, height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_images(folder: Path, numbers: range, height: int = 6, width: int = 6, channels: int = 3) -> None:
    """PNG images of noise, each from its own number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        content = tf.io.encode_png(noise(number, height, width, channels)).numpy()
        (folder / f"{number:03}.png").write_bytes(content)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Data]:
    def load_folder(**options: object) -> Data:
        known = {"source": "image_folder", "data_dir": tmp_path, "path": "pets", "cache_dir": tmp_path / "cache"}
        return pipelines.load(ImageFolderConfig.model_validate(known | {"batch_size": 4} | options))

    return load_folder


@pytest.fixture
def undivided(tmp_path: Path) -> Path:
    write_images(tmp_path / "pets" / "dog", range(100, 120))
    write_images(tmp_path / "pets" / "cat", range(20))
    return tmp_path / "pets"


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    write_images(tmp_path / "pets" / "train" / "dog", range(100, 120))
    write_images(tmp_path / "pets" / "train" / "cat", range(20))
    write_images(tmp_path / "pets" / "test" / "dog", range(200, 203))
    write_images(tmp_path / "pets" / "test" / "cat", range(300, 302))
    return tmp_path / "pets"


def numbers(paths: list[str]) -> list[int]:
    return [int(Path(path).stem) for path in paths]


def test_classes_are_divided_in_equal_shares(load: Callable, undivided: Path) -> None:
    data = load()
    info = data.info
    assert info.class_names == CLASSES
    assert dict(info.counts) == {"train": 28, "validation": 4, "test": 8}
    assert info.class_counts == (14, 14)
    assert (info.inputs, info.input_dtypes) == ({"image": (6, 6, 3)}, {"image": "float32"})
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    shown = [path for split in SPLITS for path in data.examples(split).features["image"].paths]
    assert sorted(numbers(shown)) == [*range(20), *range(100, 120)]
    for split in SPLITS:
        examples = data.examples(split)
        assert [CLASSES.index(Path(path).parent.name) for path in examples.features["image"].paths] == list(
            examples.labels
        )
        assert examples.origin == str(undivided)
    assert load().info == info


def test_given_splits_stay_as_they_are(load: Callable, divided: Path) -> None:
    data = load()
    assert dict(data.info.counts) == {"train": 36, "validation": 4, "test": 5}
    test = data.examples("test")
    assert numbers(test.features["image"].paths) == [300, 301, 200, 201, 202]
    assert test.labels.tolist() == [0, 0, 1, 1, 1]
    assert (test.origin, test.rows.tolist()) == (str(divided / "test"), list(range(5)))
    write_images(divided / "validation" / "dog", range(400, 402))
    data = load()
    assert dict(data.info.counts) == {"train": 40, "validation": 2, "test": 5}
    assert numbers(data.examples("validation").features["image"].paths) == [400, 401]


def test_batches_are_the_files_pixels(load: Callable, undivided: Path, labels_of: Callable) -> None:
    data = load()
    examples = data.examples("test")
    assert isinstance(examples.features["image"], ImageFiles)
    expected = np.stack([noise(number) for number in numbers(examples.features["image"].paths)])
    found = np.concatenate([features["image"] for features, _, _ in data.test()])
    np.testing.assert_array_equal(found, expected.astype(np.float32) * np.float32(1 / 255))
    np.testing.assert_array_equal(labels_of(data.test()), examples.labels)
    # What is served is what was trained on, and files given later give the same too.
    served = data.preprocess({"image": tf.constant(examples.features["image"][2:4])})["image"]
    np.testing.assert_array_equal(served, found[2:4])
    later = pipelines.read_image_files([Path(path) for path in examples.features["image"].paths], data.preprocess)
    batched = pipelines.batches(later, data.preprocess, data.info, 3)
    np.testing.assert_array_equal(np.concatenate([features["image"] for features, _ in batched]), found)


def test_training_batches_have_known_shapes_and_repeat_themselves(load: Callable, undivided: Path) -> None:
    data = load()
    assert data.train().element_spec == (
        {"image": tf.TensorSpec([4, 6, 6, 3], tf.float32)},
        tf.TensorSpec([4], tf.int32),
    )
    first, second = list(data.train(1)), list(load().train(1, step=2))
    assert len(first) == data.steps_per_epoch == 7
    for (features, label), (other_features, other_label) in zip(first[2:], second, strict=True):
        np.testing.assert_array_equal(features["image"], other_features["image"])
        np.testing.assert_array_equal(label, other_label)


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "gif"])
def test_every_format_and_ending(load: Callable, undivided: Path, kind: str) -> None:
    from PIL import Image

    ending = {"jpeg": "JPG", "png": "PNG", "bmp": "BmP", "gif": "Gif"}[kind]
    Image.fromarray(np.full((6, 6), 77, np.uint8)).save(undivided / "cat" / f"500.{ending}", kind)
    data = load(split={"validation": 0.0, "test": 0.0}, shuffle=False, batch_size=41, images={"channels": 3})
    features, _ = next(iter(data.train()))
    index = numbers(data.examples("train").features["image"].paths).index(500)
    assert np.abs(features["image"][index].numpy() * 255 - 77).max() < 2


def test_images_of_different_sizes_are_resized(load: Callable, undivided: Path) -> None:
    write_images(undivided / "cat", range(500, 510), 9, 5, 1)
    (undivided / "dog" / "one_pixel.png").write_bytes(tf.io.encode_png(np.full((1, 1, 3), 7, np.uint8)).numpy())
    for resize in ("stretch", "crop", "pad"):
        data = load(images={"size": 8, "resize": resize, "normalization": "imagenet"})
        assert data.info.inputs == {"image": (8, 8, 3)}
        assert (data.preprocess.resize, data.preprocess.normalization) == (resize, "imagenet")
        assert all(features["image"].shape[1:] == (8, 8, 3) for features, _ in data.train())


def test_the_first_images_channels_are_the_models(load: Callable, undivided: Path) -> None:
    write_images(undivided / "cat", range(1), channels=1)
    write_images(undivided / "cat", range(5, 6), channels=4)
    assert load().info.inputs == {"image": (6, 6, 1)}
    assert load(images={"channels": 3}).info.inputs == {"image": (6, 6, 3)}
    write_images(undivided / "cat", range(1), channels=2)
    assert load().info.inputs == {"image": (6, 6, 1)}
    write_images(undivided / "cat", range(1), channels=4)
    assert load().info.inputs == {"image": (6, 6, 3)}


def test_classes_can_be_chosen_and_put_in_order(load: Callable, undivided: Path) -> None:
    write_images(undivided / "bird", range(500, 505))
    assert load().info.class_names == ("bird", "cat", "dog")
    data = load(classes=["dog", "bird"])
    assert data.info.class_names == ("dog", "bird")
    assert sum(data.info.counts.values()) == 25
    examples = data.examples("train")
    assert {Path(path).parent.name for path in examples.features["image"].paths} == {"dog", "bird"}
    assert all((examples.labels == 0) == (np.array(numbers(examples.features["image"].paths)) < 200))


def test_chosen_classes_may_leave_out_some_of_the_test_folder(load: Callable, divided: Path) -> None:
    write_images(divided / "test" / "bird", range(500, 503))
    write_images(divided / "train" / "bird", range(600, 610))
    assert load(classes=["dog", "cat"]).info.counts["test"] == 5


def test_fewer_training_images_are_a_part_of_the_same_split(load: Callable, undivided: Path) -> None:
    whole, part = load(), load(train_examples=10)
    assert dict(part.info.counts) == {"train": 10, "validation": 4, "test": 8}
    assert part.info.class_counts == (5, 5)
    assert set(part.examples("train").features["image"].paths) < set(whole.examples("train").features["image"].paths)
    assert part.examples("test").features["image"].paths == whole.examples("test").features["image"].paths


def test_what_systems_leave_behind_is_no_image(load: Callable, undivided: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (undivided / "cat" / name).write_bytes(b"junk")
        (undivided / name).write_bytes(b"junk")
    (undivided / "README.txt").write_text("about the classes")
    (undivided / ".hidden").mkdir()
    (undivided / "__MACOSX").mkdir()
    (undivided / "cat" / ".ipynb_checkpoints").mkdir()
    assert sum(load().info.counts.values()) == 40


def test_a_class_may_be_called_train(load: Callable, tmp_path: Path) -> None:
    write_images(tmp_path / "pets" / "train", range(20))
    write_images(tmp_path / "pets" / "car", range(100, 120))
    assert load().info.class_names == ("car", "train")


def test_links_are_followed(load: Callable, undivided: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", range(500, 510))
    (undivided / "bird").symlink_to(tmp_path / "elsewhere")
    (undivided / "cat" / "900.png").symlink_to(tmp_path / "elsewhere" / "500.png")
    data = load()
    assert data.info.class_names == ("bird", "cat", "dog")
    assert sum(data.info.counts.values()) == 51


def test_names_may_be_in_any_language(load: Callable, undivided: Path) -> None:
    write_images(undivided / "狗 и кот", range(500, 510))
    data = load()
    assert data.info.class_names[-1] == "狗 и кот"
    assert len(list(data.train())) == data.steps_per_epoch


# --- what was found is remembered


def cache_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").iterdir()
    return path


def test_only_changed_files_are_looked_at_again(load: Callable, undivided: Path, tmp_path: Path) -> None:
    fingerprint = load().info.fingerprint
    cache = cache_file(tmp_path)
    content = json.loads(cache.read_text())
    assert len(content["files"]) == 40
    written = cache.stat().st_mtime_ns
    assert load().info.fingerprint == fingerprint
    assert cache.stat().st_mtime_ns == written
    # A file whose size and time stay is not opened: with the digest that is remembered, the fingerprint follows.
    content["files"]["cat/000.png"][2] = "0" * 64
    cache.write_text(json.dumps(content))
    assert load().info.fingerprint != fingerprint
    # One that changed is.
    path = undivided / "cat" / "000.png"
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    assert load().info.fingerprint == fingerprint
    path.unlink()
    load()
    assert len(json.loads(cache_file(tmp_path).read_text())["files"]) == 39


def test_the_fingerprint_follows_the_content_and_not_the_names(load: Callable, undivided: Path) -> None:
    fingerprint = load().info.fingerprint
    (undivided / "cat" / "000.png").rename(undivided / "cat" / "0.png")
    assert load().info.fingerprint == fingerprint
    write_images(undivided / "cat", range(1), channels=1)
    assert load().info.fingerprint != fingerprint


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"made_by": 1, "files": {}}', b"\xff\xfe"])
def test_a_damaged_cache_counts_for_nothing(
    load: Callable, undivided: Path, tmp_path: Path, damage: str | bytes
) -> None:
    info = load().info
    cache = cache_file(tmp_path)
    good = cache.read_bytes()
    cache.write_bytes(damage.encode() if isinstance(damage, str) else damage)
    assert load().info == info
    assert cache.read_bytes() == good
    content = json.loads(good)
    content["files"]["cat/000.png"] = content["files"]["cat/000.png"][:3]
    cache.write_text(json.dumps(content))
    assert load().info == info


def test_the_cache_is_the_users_own(
    load: Callable, undivided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    load(cache_dir=None)
    assert [path.suffix for path in (tmp_path / "home" / "tfbigmodel" / "images").iterdir()] == [".json"]


def test_without_a_place_for_the_cache_the_folder_is_read_all_the_same(
    load: Callable, undivided: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert sum(load(cache_dir=tmp_path / "file" / "cache").info.counts.values()) == 40
