"""A corpus on disk: documents of sentences of values (bytes of text, or token ids), read by index from a memory map."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.files import (
    atomic_folder,
    locked_in_turn,
    read_json,
    remove_folder,
    remove_temporaries,
    verify_manifest,
    write_json,
    write_manifest,
)

MANIFEST = "manifest.json"
DESCRIPTION = "store.json"
FORMAT_VERSION = 1
"""Part of every key: a store of another version is left alone, and a new one is made."""
_OFFSETS = np.dtype("<i8")


@dataclasses.dataclass(frozen=True)
class Store:
    """Documents of sentences of values; nothing is read before it is asked for.

    Attributes:
        folder: where it is.
        arrays: name → values one after the other, `(num_values,)`; all arrays are divided in the same way.
        sentence_offsets: where each sentence begins among the values, `(num_sentences + 1,)`.
        document_offsets: where each document begins among the sentences, `(num_documents + 1,)`.
        description: what was written with it.
    """

    folder: Path
    arrays: dict[str, np.ndarray]
    sentence_offsets: np.ndarray
    document_offsets: np.ndarray
    description: dict[str, Any]

    def __len__(self) -> int:
        return len(self.document_offsets) - 1

    def bounds(self, document: int) -> tuple[int, int]:
        """Where a document's values begin and end."""
        first, last = self.document_offsets[document], self.document_offsets[document + 1]
        return int(self.sentence_offsets[first]), int(self.sentence_offsets[last])

    def sentence_bounds(self, document: int) -> np.ndarray:
        """Where a document's sentences begin, and the last one ends: `(num_sentences + 1,)`."""
        return np.asarray(
            self.sentence_offsets[self.document_offsets[document] : self.document_offsets[document + 1] + 1]
        )

    def lengths(self) -> np.ndarray:
        """The number of values of every document, `(num_documents,)`."""
        return np.diff(self.sentence_offsets[self.document_offsets])


class StoreWriter:
    """Writes a `Store` document by document; what is in memory is what the files' buffers hold.

    Args:
        folder: where the files are made; it exists.
        dtypes: array name → type of its values.

        **description: JSON values for `Store.description`; more may be added to the attribute of this name.

    Example:
        >>> with StoreWriter(folder, {"tokens": np.uint16}) as writer:
        ...     writer.add([2, 1], tokens=[7, 8, 9])  # a document of two sentences
    """

    def __init__(self, folder: Path, dtypes: dict[str, Any], **description: Any) -> None:
        self.description = description
        self._dtypes = {name: np.dtype(dtype).newbyteorder("<") for name, dtype in dtypes.items()}
        self._folder = folder
        self._files = {name: open(folder / f"{name}.bin", "wb") for name in dtypes}  # noqa: SIM115 (closed in __exit__)
        self._sentences = open(folder / "sentence_offsets.bin", "wb")  # noqa: SIM115
        self._documents = open(folder / "document_offsets.bin", "wb")  # noqa: SIM115
        self._num_values = self._num_sentences = 0
        self._write_offsets(self._sentences, [0])
        self._write_offsets(self._documents, [0])

    def add(self, sentence_lengths: Sequence[int] | np.ndarray, **values: Any) -> None:
        """Adds a document.

        Args:
            sentence_lengths: the number of values of each of its sentences.
            **values: for each array the values of all sentences.
        """
        ends = self._num_values + np.cumsum(np.asarray(sentence_lengths, np.int64))
        self._write_offsets(self._sentences, ends)
        self._num_values = int(ends[-1]) if len(ends) else self._num_values
        self._num_sentences += len(ends)
        self._write_offsets(self._documents, [self._num_sentences])
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(values[name], self._dtypes[name]).data)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (*self._files.values(), self._sentences, self._documents):
            file.close()
        arrays = {name: dtype.str for name, dtype in self._dtypes.items()}
        write_json(self._folder / DESCRIPTION, {**self.description, "arrays": arrays})

    def _write_offsets(self, file: Any, offsets: Any) -> None:
        file.write(np.asarray(offsets, _OFFSETS).tobytes())


def cached(folder: Path, build: Callable[[Path], None]) -> Store:
    """The store in a folder; made there first where it is not, or is damaged.

    Args:
        folder: its name is the key of the content: nothing is compared but the checksums of its files.
        build: writes into the folder that it is given, with a `StoreWriter`, and may put other files there too.

    Raises:
        UserError: the folder cannot be written; or what `build` raises.
    """
    return _open(cached_folder(folder, build))


def cached_folder(folder: Path, build: Callable[[Path], None], what: str = "corpus") -> Path:
    """The folder that holds what `build` wrote; written first where it is not there, or is damaged.

    Processes that want the same folder wait for the one that makes it.

    Args:
        folder: its name is the key of the content: nothing is compared but the checksums of its files.
        build: writes into the folder that it is given.
        what: what is kept there, for messages.

    Returns:
        A folder below `folder`.

    Raises:
        UserError: the folder cannot be written; or what `build` raises.
    """
    content = folder / "store"
    if not _is_whole(content):
        with _alone(folder):
            if not _is_whole(content, tell=what):
                remove_temporaries(folder)
                remove_folder(content)
                with atomic_folder(content) as temporary:
                    build(temporary)
                    write_manifest(temporary, MANIFEST)
    return content


def _open(folder: Path) -> Store:
    description = read_json(folder / DESCRIPTION)
    arrays = {name: _mapped(folder / f"{name}.bin", np.dtype(dtype)) for name, dtype in description["arrays"].items()}
    sentences, documents = (_mapped(folder / f"{name}_offsets.bin", _OFFSETS) for name in ("sentence", "document"))
    return Store(folder, arrays, sentences, documents, description)


def _is_whole(folder: Path, tell: str = "") -> bool:
    if not folder.exists():
        return False
    try:
        verify_manifest(folder, MANIFEST)
    except (UserError, OSError) as error:
        if tell:
            print(f"warning: the cached {tell} is made again: {error}", file=sys.stderr)
        return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; set data.cache_dir to a folder of your own"
        ) from error
    with locked_in_turn(folder / "lock"):
        yield


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
