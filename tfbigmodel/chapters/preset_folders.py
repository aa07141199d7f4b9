"""Folders of pretrained weights: found by path or by a KerasHub preset's name, and their weights loaded.

The files may be other people's. Nothing in them is run: sizes are read from JSON, layers are made by our own code, and
weights come from `model.weights.h5` (arrays only) or `model.safetensors`.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import MissingFileError, UserError
from pipelines.files import read_json
from pipelines.remote import exists, is_remote, join, local
from tfbigmodel.chapters.hub import import_keras_hub

if TYPE_CHECKING:
    import keras

CONFIG, KERAS_WEIGHTS, SAFETENSORS = "config.json", "model.weights.h5", "model.safetensors"


@dataclass(frozen=True)
class PresetKind:
    """What a chapter's presets are.

    Attributes:
        backbone: KerasHub's class of the network.
        tokenizer: KerasHub's class of its tokenizer, downloaded with it; None for images.
        kaggle: the Kaggle model whose variations are the presets: `<owner>/<model>/<framework>`.
        files: what a preset's folder must hold.
        example: a preset's name, for messages.
        other_format: what else than a Keras preset's folder is read, for messages.
        written_by: the chapter whose finished runs write a preset into their workdir; None where a workdir is a preset
            itself.
    """

    backbone: str
    tokenizer: str | None
    kaggle: str
    files: tuple[str, ...]
    example: str
    other_format: str
    written_by: str | None


def find_preset(preset: str, kind: PresetKind, download: bool = False, key: str = "model.preset") -> Path:
    """The folder that a configuration means.

    Args:
        preset: a folder, local or remote, which may be the workdir of a finished run, or the name of a KerasHub preset,
            which is looked up among those that KerasHub has downloaded before.
        kind: what is looked for.
        download: let KerasHub download a preset that is given by name and is not there.
        key: the configuration's key, for messages.

    Returns:
        An absolute path.

    Raises:
        MissingFileError: there is no such folder; the message says how to get it.
    """
    if is_remote(preset):
        return _remote_preset(preset, kind)
    path = Path(preset).expanduser()
    if path.is_dir():
        written = path / "preset"
        is_workdir = not (path / CONFIG).exists() and (path / "config.yaml").exists()
        if not is_workdir or kind.written_by is None:
            return path.absolute()
        if not written.is_dir():
            raise MissingFileError(
                f"{key}: {path} is a run that has written no preset; let a {kind.written_by} run finish there"
            )
        return written.absolute()
    if path.exists() or os.sep in preset:
        what = "is no folder" if path.exists() else "does not exist"
        other = re.sub(r" \(.*?\)", "", kind.other_format)
        raise MissingFileError(
            f"{key}: {path} {what}; expected a Keras preset folder, {other}, or the name of a KerasHub "
            f"preset such as {kind.example}"
        )
    folder = _downloaded(preset, kind)
    if folder is None and download:
        folder = _download(preset, kind, key)
    if folder is None:
        allow = "set model.download: true to let KerasHub download it, or " if key == "model.preset" else ""
        raise MissingFileError(
            f"{key}: there is no folder {preset} here and no preset of that name in {_cache()}; {allow}"
            f"{_fetched_elsewhere(f'{kind.kaggle}/{preset}/1', kind, key)}"
        )
    return folder


def lasting_name(preset: str, folder: Path) -> Path | str:
    """How a workdir's configuration names a preset: by its absolute path, or by its URL.

    Args:
        preset: as the configuration named it.
        folder: what `find_preset` found.
    """
    if not is_remote(preset):
        return folder
    return preset if preset.rstrip("/").endswith(f"/{folder.name}") else join(preset, folder.name)


def is_gone(preset: str) -> bool:
    """Whether a path that was made absolute before is gone, as it may be once a run has started.

    A remote preset counts as gone: looking for it takes time, and a network.
    """
    return is_remote(preset) or (Path(preset).is_absolute() and not Path(preset).exists())


def read_object(path: Path, key: str, kind: PresetKind) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{key}: {path} is missing; expected a Keras preset folder (files {', '.join(kind.files)}) or "
            f"{kind.other_format}"
        )
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{key}: {path} holds no object")
    return value


def require(path: Path, what: str) -> None:
    """Checks that a file is there.

    Raises:
        MissingFileError: it is not.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: {what} should be there")


def load_keras_weights(backbone: keras.Model, weights: Path) -> None:
    """Gives a network the weights of a `model.weights.h5`.

    Raises:
        ValueError: it lacks one, or has NaN; and whatever Keras and h5py raise for a file that does not fit.
    """
    import numpy as np

    # Keras only warns of some weights that a file does not have; left as they are, these would pass for pretrained.
    for variable in backbone.weights:
        variable.assign(np.full(variable.shape, np.nan, np.float32))
    with warnings.catch_warnings(action="ignore"):
        backbone.load_weights(str(weights))
    for variable in backbone.weights:
        if np.isnan(variable.numpy()).any():
            raise ValueError(f"it has no {variable.path}, or NaN in it")


def one_line(error: Exception) -> str:
    """What an exception says, in one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} …"


def _remote_preset(preset: str, kind: PresetKind) -> Path:
    if kind.written_by is not None and not exists(join(preset, CONFIG)) and exists(join(preset, f"preset/{CONFIG}")):
        preset = join(preset, "preset")
    return local(preset)


def _cache() -> Path:
    return Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub") / "models"


def _fetched_elsewhere(handle: str, kind: PresetKind, key: str) -> str:
    """How to give a preset to a machine without a network."""
    return (
        f"fetch the Kaggle model {handle.rpartition('/')[0]} on another machine (files {', '.join(kind.files)}) and "
        f"put them into {_cache() / handle}, or into any folder and set {key} to that"
    )


def _downloaded(name: str, kind: PresetKind) -> Path | None:
    """The newest whole preset of a name that KerasHub has downloaded: <owner>/<model>/keras/<name>/<version>."""
    folders = [path for path in _cache().glob(f"*/*/keras/{glob.escape(name)}/*") if path.name.isdecimal()]
    whole = [path for path in folders if all((path / file).is_file() for file in kind.files)]
    return max(whole, key=lambda path: int(path.name), default=None)


def _download(name: str, kind: PresetKind, key: str) -> Path:
    models = import_keras_hub(texts=kind.tokenizer is not None).models
    backbone = getattr(models, kind.backbone)
    known = backbone.presets
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"it has {', '.join(sorted(known)[:5])} …"
        what = kind.backbone.removesuffix("Backbone")
        raise UserError(f"{key}: KerasHub has no {'BERT' if what == 'Bert' else what} preset {name}; {hint}")
    try:
        if kind.tokenizer is not None:
            getattr(models, kind.tokenizer).from_preset(name)
        backbone.from_preset(name)
    except Exception as error:  # of kagglehub, requests, and what they use
        raise UserError(
            f"{key}: KerasHub could not download {name}: {one_line(error)}; "
            f"{_fetched_elsewhere(known[name]['kaggle_handle'].removeprefix('kaggle://'), kind, key)}"
        ) from error
    folder = _downloaded(name, kind)
    if folder is None:
        raise UserError(f"{key}: KerasHub has downloaded {name}, but not to {_cache()}; set {key} to its folder")
    return folder
