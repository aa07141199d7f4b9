"""Folders of images, one sub-folder for each class; the images stay on disk and are read batch by batch."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.config import ImageFolderConfig
from pipelines.data import SPLITS, Data, Examples, ImageInfo, Split
from pipelines.errors import MissingFileError, UserError
from pipelines.files import user_cache
from pipelines.images.checking import Checked, Stamp, check_images_of, reading_problem
from pipelines.images.config import ImageConfig
from pipelines.images.files import ImageFiles
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.names import did_you_mean, listing, shorten
from pipelines.remote import join, local
from pipelines.sources.arrays import image_data, image_preprocessor
from pipelines.splits import divide

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
"""Endings of the files that are images, in small or capital letters."""
# What systems leave in folders, besides hidden files.
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
# Broken files that a message names.
_SHOWN = 5
# Broken files that info.json names.
_KEPT = 20


@dataclass(frozen=True)
class _File:
    """A file in the folder of a class: its name below the whole folder, and what is wrong with it at first sight."""

    name: str
    label: int
    stamp: Stamp = (0, 0)
    problem: str = ""


def load(config: ImageFolderConfig) -> Data:
    """Lists the files, looks at those that are new, leaves out what is broken, and divides what is not divided.

    Raises:
        UserError: the folders are not as they must be, a class has no image, or files are broken; the message names
            them.
    """
    root = _root(config)
    folders = _split_folders(root)
    class_names = _class_names(folders["train"], config)
    files = {split: _listed(root, folder, split, class_names, config) for split, folder in folders.items()}
    checked = _checked(root, files, config)
    broken = {name: found.problem for name, found in checked.items() if found.problem}
    if broken and config.broken == "refuse":
        raise UserError(_broken_message(root, broken, len(checked)))
    good = {split: [file for file in listed if file.name not in broken] for split, listed in files.items()}
    for split, folder in folders.items():
        _check_classes_left(folder, class_names, files[split], good[split], broken)
    preprocess = _preprocess(root, good, checked, config)
    splits = _divided(root, folders, good, checked, class_names, config)
    skipped = [f"{name} {problem}" for name, problem in list(broken.items())[:_KEPT]]
    return image_data(splits, class_names, "label", config, preprocess, ImageInfo(len(broken), tuple(skipped)))


def image_files(root: Path) -> dict[Split, list[tuple[str, str]]]:
    """The images of a folder: split → their names below it, each with its class; `train` alone where it is not divided.

    Raises:
        UserError: the folders are not as they must be, or a file is no image by its name.
    """
    found: dict[Split, list[tuple[str, str]]] = {}
    for split, folder in _split_folders(root).items():
        found[split] = []
        for name in _folders(folder):
            for file in _listed_class(root, folder / name, 0):
                if file.problem:
                    raise UserError(f"{root / file.name} {file.problem}; remove it")
                found[split].append((file.name, name))
        if not found[split]:
            raise UserError(f"{folder} has no images in sub-folders; one was expected for each class, with its images")
    return found


def _root(config: ImageFolderConfig) -> Path:
    root = local(join(config.data_dir, config.path))
    if root.is_dir():
        return root
    if root.exists():
        raise UserError(f"{root} (data.path) is a file; a folder was expected, with a sub-folder for each class")
    parent = root.parent
    if not parent.is_dir():
        raise MissingFileError(
            f"{root} (data.path) is not there: there is no folder {parent}; relative paths are looked up in "
            "data.data_dir, which is relative to the current directory"
        )
    raise MissingFileError(f"{root} (data.path) is not there; {did_you_mean(root.name, _folders(parent))}")


def _split_folders(root: Path) -> dict[Split, Path]:
    """The folders of the splits; `train` alone, the folder itself, where it is not divided."""
    names = _folders(root)
    splits = [split for split in SPLITS if split in names]
    # A class may be called train: then it holds images, and no folders.
    if "train" in names and (_folders(root / "train") or len(names) == len(splits)):
        others = [name for name in names if name not in SPLITS]
        if others:
            raise UserError(
                f"{root} has train/ and also {listing(others)}; beside train/ there may be validation/ and test/ only: "
                "rename or move the others"
            )
        return {split: root / split for split in splits}
    if names and len(names) == len(splits):
        raise UserError(f"{root} has {listing(names)} and no train/; training images are expected there")
    return {"train": root}


def _class_names(folder: Path, config: ImageFolderConfig) -> tuple[str, ...]:
    found = _folders(folder)
    if not found:
        raise UserError(f"{folder} has no sub-folders; one was expected for each class, with its images in it")
    loose = [name for name in _visible(folder) if name.lower().endswith(SUFFIXES) and name not in found]
    if loose:
        raise UserError(
            f"{folder} has images beside the classes' sub-folders ({listing(loose, 3)}); move them into one of those"
        )
    names = tuple(config.classes or found)
    for name in names:
        if name not in found:
            raise UserError(f'{folder} has no sub-folder "{shorten(name)}" (data.classes); {did_you_mean(name, found)}')
        if names.count(name) > 1:
            raise UserError(f'data.classes has "{shorten(name)}" twice')
    if len(names) < 2:
        raise UserError(f'{folder} has one class only, "{shorten(names[0])}"; a classifier needs at least two')
    return names


def _listed(
    root: Path, folder: Path, split: Split, class_names: Sequence[str], config: ImageFolderConfig
) -> list[_File]:
    """The files of a split, class by class, sorted by name."""
    found = _folders(folder)
    if not found:
        raise UserError(f"{folder} has no sub-folders; one was expected for each class, with its images in it")
    if config.classes is None:
        for name in found:
            if name not in class_names:
                raise UserError(
                    f'{folder}: the {split} split has class "{shorten(name)}", which training has not; '
                    f"{did_you_mean(name, class_names)}"
                )
    files: list[_File] = []
    for label, name in enumerate(class_names):
        if name in found:
            listed = _listed_class(root, folder / name, label)
            if not listed:
                raise UserError(f"{folder / name} is empty; put the images of this class there or remove the folder")
            files += listed
    return files


def _listed_class(root: Path, folder: Path, label: int) -> list[_File]:
    files = []
    for name in _visible(folder):
        path = os.path.join(folder, name)
        shown = os.path.relpath(path, root)
        if os.path.isdir(path):
            raise UserError(
                f"{path} is a folder within a class; images are expected in {folder} itself (the folders of a divided "
                "dataset are called train, validation and test)"
            )
        if not name.lower().endswith(SUFFIXES):
            files.append(_File(shown, label, problem=f"is not {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"))
            continue
        try:
            found = os.stat(path)
        except OSError as error:
            files.append(_File(shown, label, problem=reading_problem(error)))
            continue
        # Reading a pipe or a device may never end.
        problem = "" if stat.S_ISREG(found.st_mode) else "is no ordinary file"
        files.append(_File(shown, label, (found.st_size, found.st_mtime_ns), problem))
    return files


def _visible(folder: Path) -> list[str]:
    """The names in a folder, sorted, without what is hidden and what systems leave behind."""
    try:
        names = sorted(os.listdir(folder))
    except PermissionError as error:
        raise UserError(f"no permission to read the folder {folder}") from error
    names = [name for name in names if not name.startswith(".") and name.casefold() not in _LEFT_BEHIND]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode(errors="replace")
            raise UserError(f'{folder}: the name "{shown}" is not UTF-8; rename it') from None
    return names


def _folders(folder: Path) -> list[str]:
    # Links are followed one level at a time, never deeper: a loop of them ends here too.
    return [name for name in _visible(folder) if os.path.isdir(os.path.join(folder, name))]


def _checked(root: Path, files: Mapping[Split, list[_File]], config: ImageFolderConfig) -> dict[str, Checked]:
    """What was found in each file, by name."""
    listed = [file for split in files.values() for file in split]
    stamps = {file.name: file.stamp for file in listed if not file.problem}
    cache_dir = user_cache("images") if config.cache_dir is None else config.cache_dir
    found = check_images_of(root, stamps, cache_dir)
    return {file.name: found[file.name] if not file.problem else Checked("", problem=file.problem) for file in listed}


def _broken_message(root: Path, broken: Mapping[str, str], num_files: int) -> str:
    shown = "; ".join(f"{name} {problem}" for name, problem in list(broken.items())[:_SHOWN])
    rest = f"; and {len(broken) - _SHOWN:,} more" if len(broken) > _SHOWN else ""
    are = "is" if len(broken) == 1 else "are"
    return (
        f"{root}: {len(broken):,} of {num_files:,} files {are} broken: {shown}{rest}; replace or remove "
        f"{'it' if len(broken) == 1 else 'them'}, or leave {'it' if len(broken) == 1 else 'them'} out with "
        "data.broken: skip"
    )


def _check_classes_left(
    folder: Path, class_names: Sequence[str], files: Sequence[_File], good: Sequence[_File], broken: Mapping[str, str]
) -> None:
    for label in sorted({file.label for file in files} - {file.label for file in good}):
        first = next(file.name for file in files if file.label == label)
        raise UserError(
            f"{folder / class_names[label]} has no image left: all its files are broken, such as {first}, which "
            f"{broken[first]}; replace them, or remove the folder"
        )


def _preprocess(
    root: Path, files: Mapping[Split, Sequence[_File]], checked: Mapping[str, Checked], config: ImageFolderConfig
) -> ImagePreprocessor:
    options = config.images or ImageConfig()
    first = files["train"][0]
    found = checked[first.name]
    if options.size is None:
        for file in (file for listed in files.values() for file in listed):
            other = checked[file.name]
            if (other.height, other.width) != (found.height, found.width):
                raise UserError(
                    f"{root}: {first.name} has {found.width} × {found.height} pixels and {file.name} "
                    f"{other.width} × {other.height}; a model needs one size: set data.images.size, such as 224"
                )
    return image_preprocessor((found.height, found.width, found.channels), options)


def _divided(
    root: Path,
    folders: Mapping[Split, Path],
    files: Mapping[Split, Sequence[_File]],
    checked: Mapping[str, Checked],
    class_names: Sequence[str],
    config: ImageFolderConfig,
) -> dict[str, Examples]:
    given = {split: _examples(root, folders[split], listed, checked) for split, listed in files.items()}
    train = given["train"]
    division = divide(
        len(train),
        config.split,
        origin=train.origin,
        classes=train.labels,
        class_names=class_names,
        with_validation="validation" not in given,
        with_test="test" not in given,
        train_examples=config.train_examples,
    )
    return {
        split: given[split] if split in given and split != "train" else _part(train, division[split])
        for split in SPLITS
    }


def _examples(root: Path, folder: Path, files: Sequence[_File], checked: Mapping[str, Checked]) -> Examples:
    images = ImageFiles(
        [os.path.join(root, file.name) for file in files], [checked[file.name].digest for file in files]
    )
    labels = np.array([file.label for file in files], np.int32)
    return Examples({"image": images}, labels, str(folder), np.arange(len(files)))


def _part(examples: Examples, index: np.ndarray) -> Examples:
    features = {name: values[index] for name, values in examples.features.items()}
    return Examples(features, examples.labels[index], examples.origin, examples.rows[index])
