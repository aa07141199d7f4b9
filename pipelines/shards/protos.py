"""Records that are serialised `tf.train.Example`s: which features they have, and what they hold.

The schema that is written and read: one feature for each column; `float_list` for numbers, `int64_list` for whole
numbers, `bytes_list` for texts in UTF-8 and for encoded images; one value, or none where it is missing.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.shards.values import DTYPES, NO_INTEGER, WORDS, Kind

RECORDS_PER_BLOCK = 256
"""Records that are read together: enough to spare most seeks, few enough for a window to come from many places."""

_KINDS: Mapping[str, Kind] = {"float_list": "float", "int64_list": "int", "bytes_list": "bytes"}
_LISTS: Mapping[Kind, str] = {kind: name for name, kind in _KINDS.items()}
_DEFAULTS: Mapping[Kind, float | int | bytes] = {"float": float("nan"), "int": NO_INTEGER, "bytes": b""}


def kinds_of(records: Iterable[bytes], path: str) -> dict[str, Kind]:
    """The features of some records of a file.

    Raises:
        UserError: a record is no `tf.train.Example`, or a feature is of two kinds.
    """
    kinds: dict[str, Kind] = {}
    for number, record in enumerate(records, start=1):
        for name, feature in parsed(record, f"{path} record {number}").features.feature.items():
            filled = feature.WhichOneof("kind")
            if filled is not None:
                kind = kinds.setdefault(name, _KINDS[filled])
                if kind != _KINDS[filled]:
                    raise UserError(
                        f"{path} record {number}: feature {name} is a {filled}, and a {_LISTS[kind]} in a record "
                        "before it; write all records alike"
                    )
    return kinds


def parsed(record: bytes, place: str) -> tf.train.Example:
    """A record as a message.

    Raises:
        UserError: it is no `tf.train.Example`.
    """
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # protobuf's own DecodeError, whose module depends on its version
        raise UserError(f"{place} is no serialised tf.train.Example; other records cannot be read") from error
    return example


def parse(records: tf.Tensor, kinds: Mapping[str, Kind]) -> dict[str, tf.Tensor]:
    """Serialised examples, string `(rows,)` → columns `(rows,)`, in the graph.

    Raises:
        tf.errors.InvalidArgumentError: a feature is of another kind, or has several values; see `explain`.
    """
    # Sequences, because a list without a value is a missing value too; they are padded to the longest of the rows.
    features = {
        name: tf.io.FixedLenSequenceFeature([], DTYPES[kind], allow_missing=True, default_value=_DEFAULTS[kind])
        for name, kind in kinds.items()
    }
    values = tf.io.parse_example(records, features)
    longest = tf.reduce_max([tf.shape(each)[1] for each in values.values()])
    with tf.control_dependencies([tf.debugging.assert_less_equal(longest, 1, "a feature has several values")]):
        return {name: _first(values[name], _DEFAULTS[kind]) for name, kind in kinds.items()}


def _first(values: tf.Tensor, default: float | int | bytes) -> tf.Tensor:
    """The first value of each row, or the default where there are none at all."""
    padding = tf.fill([tf.shape(values)[0], 1], tf.constant(default, values.dtype))
    return tf.concat([values, padding], axis=1)[:, 0]


def explain(records: Sequence[bytes], first: int, kinds: Mapping[str, Kind], path: str) -> None:
    """Says which record `parse` cannot read.

    Args:
        records: those that it was given.
        first: the number of the first of them in its file, from 1.
        kinds: what was expected.
        path: the file.

    Raises:
        UserError: the message names the record; if none is wrong, nothing is raised.
    """
    for number, record in enumerate(records, start=first):
        place = f"{path} record {number}"
        features = parsed(record, place).features.feature
        for name, kind in kinds.items():
            filled = features[name].WhichOneof("kind") if name in features else None
            if filled is None:
                continue
            if _KINDS[filled] != kind:
                raise UserError(
                    f"{place}: feature {name} holds {WORDS[_KINDS[filled]]} ({filled}), and {WORDS[kind]} "
                    f"({_LISTS[kind]}) were expected, as in the first record"
                )
            values = len(getattr(features[name], filled).value)
            if values > 1:
                raise UserError(
                    f"{place}: feature {name} has {values} values, and one was expected; write each as a feature of "
                    "its own"
                )


def arrays(columns: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Parsed columns as a `Chunk` has them."""
    values = {name: tensor.numpy() if tf.is_tensor(tensor) else tensor for name, tensor in columns.items()}
    return {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in values.items()}
