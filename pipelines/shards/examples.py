"""Examples in files that look like arrays, and are read when their values are wanted."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.shards.changed import told

# Neighbours that are read together, at most; and how many bytes of them.
_CHUNK, _CHUNK_BYTES = 1_024, 2**24
# Chunks that are kept: those of the texts that `predict` sorts by length together, and one.
_KEPT = 5


class ShardReading:
    """Reads the raw inputs of examples; keeps the last ones, because a table's columns are asked for one by one.

    Args:
        read: from places in the split, int64 `(rows,)`, to raw inputs, in graph operations.
        num_examples: of the split.
        bytes_per_example: about.
    """

    def __init__(
        self, read: Callable[[tf.Tensor], Mapping[str, tf.Tensor]], num_examples: int, bytes_per_example: float
    ) -> None:
        self.chunk = int(np.clip(_CHUNK_BYTES // max(1, int(bytes_per_example)), 16, _CHUNK))
        self._read = tf.function(read, input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
        self._num_examples = num_examples
        self._chunks: collections.OrderedDict[int, Mapping[str, np.ndarray]] = collections.OrderedDict()
        self._scattered: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None

    def __call__(self, places: np.ndarray, name: str) -> np.ndarray:
        """The values of a raw input, `(rows,)`."""
        chunk = places // self.chunk
        wanted = np.unique(chunk)
        if len(wanted) <= _KEPT:
            parts = [self._neighbours(number)[name] for number in wanted.tolist()]
            starts = np.cumsum([0, *map(len, parts)])[:-1]
            rows = starts[np.searchsorted(wanted, chunk)] + places % self.chunk
            return np.concatenate(parts)[rows]
        if self._scattered is None or not np.array_equal(self._scattered[0], places):
            self._scattered = places, self._values(places)
        return self._scattered[1][name]

    def _neighbours(self, number: int) -> Mapping[str, np.ndarray]:
        """The values of a chunk."""
        if number in self._chunks:
            self._chunks.move_to_end(number)
        else:
            first = number * self.chunk
            self._chunks[number] = self._values(np.arange(first, min(first + self.chunk, self._num_examples)))
            while len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
        return self._chunks[number]

    def _values(self, places: np.ndarray) -> Mapping[str, np.ndarray]:
        with told():
            return {name: values.numpy() for name, values in self._read(tf.constant(places, tf.int64)).items()}


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
        for places in self._parts():
            yield from self._reading(places, self._name)

    def _parts(self) -> list[np.ndarray]:
        size = self._reading.chunk
        return [self._places[start : start + size] for start in range(0, len(self), size)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("examples must be read to become an array, which cannot be done without a copy")
        parts = [self._reading(places, self._name) for places in self._parts()]
        array = np.concatenate(parts) if parts else np.zeros(0, self.dtype)
        return array if dtype is None else array.astype(dtype)
