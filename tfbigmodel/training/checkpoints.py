"""Checkpoints: written whole or not at all, with checksums; the last k kept, and the best.

A checkpoint is a folder `step-<updates>` with the tensors of the model, of the optimizer and, where there are any, of
the host (safetensors, which cannot hold code), `state.json` (where training stands) and `manifest.json` (the SHA-256 of
each file).
"""

import collections
import errno
import itertools
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipelines.errors import MissingFileError, UserError
from pipelines.files import atomic_folder, read_json, remove_folder, verify_manifest, write_json, write_manifest

MODEL_FILE, OPTIMIZER_FILE, HOST_FILE, STATE_FILE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "host.safetensors",
    "state.json",
    "manifest.json",
)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been verified.

    Attributes:
        folder: where it is.
        state: where training stood, as it was given to `save_checkpoint`.
    """

    folder: Path
    state: dict[str, Any]

    def model_arrays(self) -> dict[str, np.ndarray]:
        """The model's tensors, by variable path."""
        return _load_arrays(self.folder / MODEL_FILE)

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        """The optimizer's tensors, by variable path."""
        return _load_arrays(self.folder / OPTIMIZER_FILE)

    def host_arrays(self) -> dict[str, np.ndarray]:
        """What was kept besides, such as callbacks' arrays; empty where nothing was."""
        return _load_arrays(self.folder / HOST_FILE) if (self.folder / HOST_FILE).exists() else {}


def save_checkpoint(
    root: Path, step: int, model: Arrays, optimizer: Arrays, state: Mapping[str, Any], host: Arrays | None = None
) -> Path:
    """Writes a checkpoint as `root/step-<step>`; it appears whole or not at all.

    Args:
        root: the folder of all checkpoints of a run.
        step: updates done.
        model: the model's tensors, as `read_variables` gives them.
        optimizer: the optimizer's tensors.
        state: where training stands, JSON values; `monitor` (float, lower is better) makes it a candidate for the best.
        host: more tensors to keep.

    Raises:
        UserError: a tensor is not finite, so that the checkpoint would be of no use, or it cannot be written.
    """
    for name, array in model.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise UserError(f"weight {name} is not finite after update {step}; the checkpoint is not written")
    folder = root / f"step-{step:010d}"
    with atomic_folder(folder) as temporary:
        try:
            save_file(dict(model), temporary / MODEL_FILE)
            save_file(dict(optimizer), temporary / OPTIMIZER_FILE)
            if host:
                save_file(dict(host), temporary / HOST_FILE)
        except SafetensorError as error:  # what it makes of a full disk
            number = errno.ENOSPC if "No space left" in str(error) else errno.EIO
            raise OSError(number, os.strerror(number) if number == errno.ENOSPC else str(error)) from error
        write_json(temporary / STATE_FILE, dict(state))
        write_manifest(temporary, MANIFEST)
    return folder


def latest_checkpoint(root: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint whose files are whole.

    Returns:
        The checkpoint (None where there is none), and each newer folder that was passed over with what is wrong.
    """
    return _first_whole(reversed(_folders(root)))


def best_checkpoint(root: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The whole checkpoint with the lowest `monitor` in its state.

    Returns:
        The checkpoint (None where no state has a `monitor`), and each better folder that was passed over with what is
        wrong.
    """
    return _first_whole(_best_first(_folders(root)))


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that it is neither counted, nor in the way of the next one; returns the name."""
    aside = folder.with_name(f"{folder.name.replace('step-', 'damaged-')}-{uuid.uuid4().hex[:8]}")
    os.rename(folder, aside)
    return aside


def prune_checkpoints(root: Path, keep: int) -> None:
    """Removes all but the `keep` newest checkpoints and the best one."""
    folders = _folders(root)
    best = _best_first(folders)[:1]
    for folder in folders[:-keep]:
        if folder not in best:
            remove_folder(folder)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a checkpoint after verifying every file's checksum.

    Raises:
        UserError: a file is missing or damaged; the message names it.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no checkpoint {folder}")
    verify_manifest(folder, MANIFEST)
    return Checkpoint(folder, read_json(folder / STATE_FILE))


def read_variables(variables: Sequence[keras.Variable], buffers: Arrays | None = None) -> dict[str, np.ndarray]:
    """Copies variables to the host, by path.

    Every worker must call this, since reading a variable that replicas hold parts of is a collective operation.

    Args:
        variables: of a model or an optimizer.
        buffers: what an earlier call returned and nobody needs any more: its memory is written over and returned.

    Raises:
        ValueError: two variables have one path (layers must have names of their own).
    """
    arrays = {}
    for name, variable in zip(_names(variables), variables, strict=True):
        value = np.asarray(tf.convert_to_tensor(variable.value))  # on the CPU the tensor's own memory
        buffer = None if buffers is None else buffers.get(name)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = np.empty(value.shape, value.dtype)
        np.copyto(buffer, value)
        arrays[name] = buffer
    return arrays


def write_variables(variables: Sequence[keras.Variable], arrays: Arrays, origin: str) -> None:
    """Sets variables to what `read_variables` read.

    Raises:
        UserError: names or shapes differ from the model's.
    """
    names = _names(variables)
    unmatched = sorted(set(names) ^ set(arrays))
    if unmatched:
        raise UserError(f"{origin} does not fit the model: {', '.join(unmatched[:3])} is in one of them only")
    for name, variable in zip(names, variables, strict=True):
        if tuple(variable.shape) != arrays[name].shape:
            raise UserError(
                f"{origin} does not fit the model: {name} has shape {arrays[name].shape} there, "
                f"{tuple(variable.shape)} here"
            )
        variable.assign(arrays[name])


def _names(variables: Sequence[keras.Variable]) -> list[str]:
    # Keras numbers seed generators through the life of a process, so their paths mean nothing in the next one; their
    # order in the model does.
    seeds = itertools.count()
    names = [
        f"seed_generator_state_{next(seeds)}" if variable.path.endswith("/seed_generator_state") else variable.path
        for variable in variables
    ]
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise ValueError(f"{count} variables are called {name}; give the model's layers different names")
    return names


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"))


def _first_whole(folders: Iterable[Path]) -> tuple[Checkpoint | None, dict[Path, str]]:
    problems: dict[Path, str] = {}
    for folder in folders:
        try:
            return open_checkpoint(folder), problems
        except (UserError, FileNotFoundError) as error:
            if folder.is_dir():  # else another process has pruned it, or set it aside, while this one read it
                problems[folder] = str(error)
    return None, problems


def _best_first(folders: list[Path]) -> list[Path]:
    rated = []
    for folder in folders:
        try:
            monitor = read_json(folder / STATE_FILE).get("monitor")
        except (OSError, ValueError, AttributeError):  # damaged: found and named when it is opened
            continue
        if isinstance(monitor, float):
            rated.append((monitor, folder))
    return [folder for _, folder in sorted(rated)]


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
