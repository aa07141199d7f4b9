"""The first training examples: as they are in the data, and as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.data import Data, DatasetInfo, Examples
from pipelines.images.files import ImageFiles
from pipelines.text.preprocess import TextPreprocessor
from tfbigmodel.cost.figures import Sample
from tfbigmodel.measuring import LABELLED

# The names of what the model sees begin with it.
SEEN = "→ "
_EXAMPLES = 3
_TOKENS = 40
_NUMBERS = 8
# What is longer is an encoded image.
_SHORT_BYTES = 200


def take_sample(data: Data, batch: Sequence[Any]) -> Sample:
    """Looks at a few examples of the training split.

    Args:
        data: the splits.
        batch: a training batch, `(features, labels)`.
    """
    features, labels = batch[:2]
    if data.info.task in LABELLED:
        raw = data.examples("train")
        seen = next(iter(data.evaluation("train").take(1)))[0]
        rows = [
            {**_raw(raw, row, data), **_label(raw.labels[row], data.info), **_seen(seen, row, data)}
            for row in range(min(_EXAMPLES, len(raw), *(len(values) for values in seen.values())))
        ]
    else:
        targets = labels if isinstance(labels, Mapping) else {"label": labels}
        count = min(_EXAMPLES, *(len(values) for values in features.values()))
        rows = [{**_seen(features, row, data), **_seen(targets, row, data, "target: ")} for row in range(count)]
    parts = {**features, **(labels if isinstance(labels, Mapping) else {"label": labels})}
    return Sample(tuple(rows), {name: _range(values) for name, values in parts.items()})


def _raw(examples: Examples, row: int, data: Data) -> dict[str, str]:
    shown = {}
    for key, values in examples.features.items():
        name = data.preprocess.served_names.get(key, key)  # what a column is called in the data
        if isinstance(values, ImageFiles):
            shown[name] = values.paths[row]
            continue
        value = np.asarray(values[row : row + 1])[0]
        if isinstance(value, bytes):
            is_text = name == "text" or len(value) < _SHORT_BYTES
            shown[name] = value.decode("utf-8", "replace") if is_text else f"{len(value):,} bytes"
        elif np.ndim(value):
            shown[name] = _range(value)
        else:
            shown[name] = _number(np.asarray(value))
    return shown


def _label(value: Any, info: DatasetInfo) -> dict[str, str]:
    return {info.label_name: info.class_names[int(value)] if info.class_names else f"{float(value):.6g}"}


def _seen(parts: Mapping[str, tf.Tensor], row: int, data: Data, prefix: str = SEEN) -> dict[str, str]:
    return {f"{prefix}{name}": _value(name, np.asarray(values[row]), data) for name, values in parts.items()}


def _value(name: str, value: np.ndarray, data: Data) -> str:
    if value.ndim == 0:
        return _number(value)
    preprocess = data.preprocess
    if value.ndim == 1 and isinstance(preprocess, TextPreprocessor) and name in ("token_ids", "masked_ids"):
        tokens = [preprocess.tokenizer.vocabulary[index] for index in value[:_TOKENS]]
        return " ".join(tokens) + (" …" if len(value) > _TOKENS else "")
    if value.ndim == 1:
        numbers = " ".join(_number(number) for number in value[:_NUMBERS])
        return numbers + (" …" if len(value) > _NUMBERS else "")
    return _range(value)


def _range(values: Any) -> str:
    """Shape, type, and the numbers from the least to the largest."""
    array = np.asarray(values)
    shape = " × ".join(map(str, array.shape))
    if not array.size:
        return f"{shape} {array.dtype}"
    if not np.issubdtype(array.dtype, np.number):
        return f"{shape} {array.dtype}"
    least, most, mean = _number(array.min()), _number(array.max()), array.mean(dtype=np.float64)
    return f"{shape} {array.dtype}, {least} to {most}, mean {mean:.4g}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if np.issubdtype(value.dtype, np.floating) else f"{value}"
