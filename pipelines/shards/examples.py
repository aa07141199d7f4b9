"""Examples in files that look like arrays, and are read when their values are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Examples that are read together where all are wanted, one after the other.
_CHUNK = 1_024


class ShardReading:
    """Reads the raw inputs of examples; keeps the last ones, because a table's columns are asked for one by one.

    Args:
        read: from places in the split, int64 `(rows,)`, to raw inputs, in graph operations.
    """

    def __init__(self, read: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]) -> None:
        self._read = tf.function(read, input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
        self._last: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None

    def __call__(self, places: np.ndarray, name: str) -> np.ndarray:
        """The values of a raw input, `(rows,)`."""
        if self._last is None or not np.array_equal(self._last[0], places):
            values = {key: value.numpy() for key, value in self._read(tf.constant(places, tf.int64)).items()}
            self._last = places, values
        return self._last[1][name]


class ShardColumn:
    """A raw input of a split's examples, in the place of an array of its values.

    Where an array is wanted (`np.asarray(column)`, `tf.constant(column[index])`) values are read: take a part first.

    Args:
        reading: reads the values.
        name: the raw input.
        places: of the examples in their split, int64 `(num_examples,)`.
        dtype: of the values; object for texts and images.

    Example:
        >>> texts = data.examples("test").features["text"]
        >>> np.asarray(texts[:2])  # reads two examples
    """

    ndim = 1

    def __init__(self, reading: ShardReading, name: str, places: np.ndarray, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._reading = reading
        self._name = name
        self._places = places

    @property
    def shape(self) -> tuple[int]:
        """`(num_examples,)`."""
        return (len(self._places),)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> ShardColumn:
        if not isinstance(index, slice):
            index = np.asarray(index)
            if not index.ndim:
                raise TypeError("examples are taken by a slice or an array of indices")
            index = index if index.size else np.zeros(0, np.int64)
        return ShardColumn(self._reading, self._name, self._places[index], self.dtype)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _CHUNK):
            yield from self._reading(self._places[start : start + _CHUNK], self._name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("examples must be read to become an array, which cannot be done without a copy")
        parts = [
            self._reading(self._places[start : start + _CHUNK], self._name) for start in range(0, len(self), _CHUNK)
        ]
        array = np.concatenate(parts) if parts else np.zeros(0, self.dtype)
        return array if dtype is None else array.astype(dtype)
