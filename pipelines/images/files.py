"""Image files that look like an array of their bytes, and are read only when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipelines.files import sha256


class ImageFiles:
    """A sequence of image files, in the place of an array of their encoded bytes.

    Where an array is wanted (`np.asarray(files)`, `tf.constant(files[index])`) the files are read: take a part first.

    Args:
        paths: the files.
        digests: the SHA-256 of each, in hexadecimal, where they are known; read from the files when asked for
            otherwise.

    Example:
        >>> files = ImageFiles(["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"])
        >>> files[1:].paths
        ['cat/2.jpg', 'dog/1.jpg']
        >>> tf.constant(files[[0, 2]])  # reads two files
    """

    ndim = 1
    dtype = np.dtype(object)

    def __init__(self, paths: Iterable[str | os.PathLike[str]], digests: Iterable[str] | None = None) -> None:
        self._paths = _objects([os.fspath(path) for path in paths])
        self._digests = None if digests is None else _objects(list(digests))
        if self._digests is not None and len(self._digests) != len(self._paths):
            raise ValueError(f"{len(self._digests)} digests for {len(self._paths)} paths")

    @property
    def paths(self) -> list[str]:
        """The files' paths, as they were given."""
        return list(self._paths)

    @property
    def shape(self) -> tuple[int]:
        """`(num_files,)`."""
        return (len(self),)

    @property
    def digests(self) -> list[str]:
        """The SHA-256 of every file's content, in hexadecimal."""
        if self._digests is None:
            self._digests = _objects([sha256(path) for path in self._paths])
        return list(self._digests)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> ImageFiles:
        if not isinstance(index, slice):
            index = np.asarray(index)
            if not index.ndim:
                raise TypeError("files are taken by a slice or an array of indices; paths[index] is one path")
            index = index if index.size else np.zeros(0, np.int64)
        return ImageFiles(self._paths[index], None if self._digests is None else self._digests[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != object:
            raise TypeError(f"files are read as bytes, dtype object, not {dtype}")
        if copy is False:
            raise ValueError("files must be read to become an array, which cannot be done without a copy")
        return _objects([_content(path) for path in self._paths])


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array
