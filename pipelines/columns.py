"""Raw examples as columns: on the CPU, or in files; read by index in a graph."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.data import SPLITS, Examples, Split
from pipelines.images.files import ImageFiles


@dataclasses.dataclass(frozen=True)
class Column:
    """A feature: its values on the CPU, or the paths of the files that hold them."""

    values: tf.Tensor
    files: ImageFiles | None = None

    def rows(self, index: tf.Tensor) -> tf.Tensor:
        """Some values, in a graph."""
        rows = tf.gather(self.values, index)
        if self.files is None:
            return rows
        return tf.map_fn(tf.io.read_file, rows, fn_output_signature=tf.TensorSpec([], tf.string))

    def array(self) -> Any:
        """All values."""
        return np.asarray(self.values) if self.files is None else self.files


def columns_of(features: Mapping[str, Any]) -> dict[str, Column]:
    """The columns of `Examples.features`."""
    return {
        name: Column(on_cpu(_encoded_paths(values)), values)
        if isinstance(values, ImageFiles)
        else Column(on_cpu(values))
        for name, values in features.items()
    }


def _encoded_paths(files: ImageFiles) -> np.ndarray:
    paths = np.empty(len(files), object)
    paths[:] = [os.fsencode(path) for path in files.paths]  # names need not be UTF-8
    return paths


def on_cpu(values: Any) -> tf.Tensor:
    """Values as a tensor that stays in the computer's own memory."""
    # A GPU would otherwise take the whole dataset, and give it back row by row.
    with tf.device("CPU:0"):
        if isinstance(values, np.ndarray) and values.dtype == object and not len(values):
            return tf.zeros([0], tf.string)
        return tf.convert_to_tensor(values)


def fingerprint(splits: Mapping[Split, Examples]) -> str:
    """SHA-256 over every raw feature and label, in the order of the splits; of files, over their digests."""
    digest = hashlib.sha256()
    for split in SPLITS:
        examples = splits[split]
        columns = {**{f"feature {name}": examples.features[name] for name in sorted(examples.features)}}
        columns["label"] = examples.labels
        for name, values in columns.items():
            array = np.array(values.digests, object) if isinstance(values, ImageFiles) else np.asarray(values)
            kind = "text" if array.dtype == object else array.dtype.str
            digest.update(f"{split}\0{name}\0{kind}\0{array.shape}\0".encode())
            if array.dtype == object:
                for value in array.ravel():
                    content = value if isinstance(value, bytes) else str(value).encode()
                    digest.update(len(content).to_bytes(8, "little") + content)
            else:
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
