"""Image files, decoded once before anything is made of them: what is broken is known, and remembered."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeAlias

import tensorflow as tf

from pipelines.errors import UserError
from pipelines.files import atomic_file
from pipelines.images.decoding import MAX_PIXELS, MAX_SIDE, inspect_image

Stamp: TypeAlias = tuple[int, int]
"""A file's size in bytes and the time of its last change in nanoseconds."""

# What was found depends on these: with others, everything is looked at anew.
_MADE_BY = {"format": 1, "limits": [MAX_SIDE, MAX_PIXELS], "tensorflow": tf.__version__}
# Files that are waited for together; that many results are in memory besides, however many files there are.
_CHUNK = 2_048


@dataclass(frozen=True)
class Checked:
    """What was found in a file.

    Attributes:
        digest: the SHA-256 of its content in hexadecimal; "" where it cannot be read.
        height: in pixels; 0 where it is broken, as the next two are.
        width: in pixels.
        channels: 1 (greyscale) or 3 (colour).
        problem: what is wrong with it, to be read after its name; "" where nothing is.
    """

    digest: str
    height: int = 0
    width: int = 0
    channels: int = 0
    problem: str = ""


def check_images(paths: Sequence[str]) -> Iterator[Checked]:
    """Reads and decodes files in parallel.

    Args:
        paths: of files that are there.

    Yields:
        What was found in each, in their order.
    """
    inspect_image.get_concrete_function()  # traced once, before the threads would do so at the same time
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _CHUNK):
            yield from pool.map(check_image, paths[start : start + _CHUNK])


def check_image(path: str) -> Checked:
    """Reads and decodes one file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return Checked("", problem=reading_problem(error))
    return check_image_bytes(content)


def check_image_bytes(content: bytes) -> Checked:
    """Decodes the content of one file."""
    digest = hashlib.sha256(content).hexdigest()
    try:
        height, width, channels = inspect_image(tf.constant(content)).numpy().tolist()
    except tf.errors.InvalidArgumentError as error:
        return Checked(digest, problem=_decoding_problem(error))
    return Checked(digest, height, width, channels)


def reading_problem(error: OSError) -> str:
    """Why a file cannot be read, to be read after its name."""
    if isinstance(error, PermissionError):
        return "cannot be read: no permission"
    return f"cannot be read: {error.strerror or error}"


def check_images_of(folder: Path, stamps: Mapping[str, Stamp], cache_dir: Path) -> dict[str, Checked]:
    """As `check_images`, but looks only at files that changed since the last time.

    Args:
        folder: where the files are.
        stamps: the files' names below `folder`, each with its size and time.
        cache_dir: a folder for what was found; made if missing. What is damaged there counts for nothing, and where
            nothing can be written, everything is looked at each time.

    Returns:
        What was found in each file, by name.
    """
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    cache = cache_dir / f"{place}.json"
    remembered = _read_cache(cache)
    found: dict[str, Checked] = {}
    for name, stamp in stamps.items():
        if name in remembered and remembered[name][0] == stamp:
            found[name] = remembered[name][1]
    missing = [name for name in stamps if name not in found]
    try:
        results = check_images([os.path.join(folder, name) for name in missing])
        for name, checked in zip(missing, results, strict=True):
            found[name] = checked
    finally:  # also when someone interrupts a long check: the next one goes on from here
        # What cannot be read may be readable next time, without a change of its time.
        known = {name: (stamps[name], checked) for name, checked in found.items() if checked.digest}
        if known != remembered:
            _write_cache(cache, known)
    return {name: found[name] for name in stamps}


def _read_cache(path: Path) -> dict[str, tuple[Stamp, Checked]]:
    try:
        content = json.loads(path.read_bytes())
        if content["made_by"] != _MADE_BY:
            return {}
        return {
            name: ((int(size), int(time)), Checked(str(digest), int(height), int(width), int(channels), str(problem)))
            for name, (size, time, digest, height, width, channels, problem) in content["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write_cache(path: Path, known: Mapping[str, tuple[Stamp, Checked]]) -> None:
    files = {name: [*stamp, *astuple(checked)] for name, (stamp, checked) in known.items()}
    try:
        with atomic_file(path) as file:
            file.write(json.dumps({"made_by": _MADE_BY, "files": files}).encode())
    except UserError:
        pass  # no place for it: the next run takes as long as this one


def _decoding_problem(error: tf.errors.InvalidArgumentError) -> str:
    # Our own checks say what is wrong; the decoders' messages speak of nodes and buffers.
    said = re.search(r"image: element \d+ ([^'\"\]\n]*)", error.message)
    return said[1].strip() if said else "is damaged or cut off and cannot be decoded"
