"""What a column of any format holds: numbers, whole numbers, or bytes; and what stands for a missing value."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

Kind: TypeAlias = Literal["float", "int", "bytes"]
Columns: TypeAlias = Mapping[str, np.ndarray]

NO_INTEGER = np.iinfo(np.int64).min
"""Stands for a missing whole number; NaN for a missing number, and nothing at all for missing bytes."""

WORDS: Mapping[Kind, str] = {"float": "numbers", "int": "whole numbers", "bytes": "texts or bytes"}
"""What the kinds are called in messages."""

DTYPES: Mapping[Kind, tf.DType] = {"float": tf.float32, "int": tf.int64, "bytes": tf.string}
"""What the kinds are in a graph."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some consecutive records of a file, all of one block.

    Attributes:
        columns: column → float64, int64 or `bytes` objects, `(num_records,)`.
        count: how many records.
        size: bytes that they take in memory when they are read, about.
        block: the size of the block that begins here, and where it is in the file (what that means, the format knows);
            None where a block goes on.
    """

    columns: Columns
    count: int
    size: int
    block: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Where the records of some files are: in blocks, of which each is read by itself.

    Attributes:
        paths: the files.
        file: the file of each block, `(num_blocks,)`.
        place: where in its file each block is, `(num_blocks,)`.
        first: the index of each block's first record among those of all files, and their number, `(num_blocks + 1,)`.
    """

    paths: tuple[str, ...]
    file: np.ndarray
    place: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    @property
    def num_records(self) -> int:
        """Records in all files."""
        return int(self.first[-1])


class Reader(Protocol):
    """Reads any records of some files."""

    blocks: Blocks

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """The records of these indices, int64 `(rows,)`, in a graph, as they are stored: `(rows, …)` each."""
        ...

    def columns(self, stored: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """What `read` read as columns: float32, int64 or string, `(rows,)` each."""
        ...


def as_numbers(values: tf.Tensor) -> tf.Tensor:
    """A column of numbers, of either kind: float32, NaN where one is missing."""
    if values.dtype == tf.int64:
        return tf.where(tf.equal(values, NO_INTEGER), np.float32(np.nan), tf.cast(values, tf.float32))
    return tf.cast(values, tf.float32)


def as_texts(values: tf.Tensor) -> tf.Tensor:
    """A column of texts, or of whole numbers, which are written out: string, "" where one is missing."""
    if values.dtype == tf.int64:
        return tf.where(tf.equal(values, NO_INTEGER), "", tf.strings.as_string(values))
    return values


def numbers_of(values: np.ndarray) -> np.ndarray:
    """`as_numbers` for arrays, to float64."""
    if values.dtype == np.int64:
        return np.where(values == NO_INTEGER, np.nan, values.astype(np.float64))
    return values.astype(np.float64)


def texts_of(values: np.ndarray) -> list[str]:
    """`as_texts` for arrays; what is no UTF-8 becomes U+FFFD."""
    if values.dtype == np.int64:
        return ["" if value == NO_INTEGER else str(value) for value in values.tolist()]
    return [value.decode("utf-8", "replace") for value in values.tolist()]
