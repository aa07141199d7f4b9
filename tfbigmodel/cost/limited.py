"""A handful of batches of any data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.data import Data, Examples, Split
from tfbigmodel.measuring import taken


class LimitedData:
    """`Data` of which each split has but its first batches, and an epoch but its first ones.

    Args:
        data: any data; it is not changed.
        batches: batches of the validation and test splits at most.
        train_batches: batches of an epoch, and of the training split where it is measured, at most.

    Example:
        >>> LimitedData(load_data(config), batches=2, train_batches=2).steps_per_epoch
        2
    """

    def __init__(self, data: Data, batches: int, train_batches: int) -> None:
        self._data = data
        self._batches = {"train": train_batches, "validation": batches, "test": batches}
        self.preprocess = data.preprocess
        self.batch_size = data.batch_size
        self.steps_per_epoch = min(data.steps_per_epoch, train_batches)
        counts = {split: min(count, self._most(split)) for split, count in data.info.counts.items()}
        fingerprint = f"{data.info.fingerprint}, {batches} and {train_batches} batches"
        self.info = dataclasses.replace(data.info, counts=counts, fingerprint=fingerprint)

    def train(
        self,
        epoch: int = 0,
        step: int = 0,
        input_context: tf.distribute.InputContext | None = None,
        epochs: int = 1,
    ) -> tf.data.Dataset:
        """The first batches of each epoch, from `step` of `epoch` on."""
        parts = []
        for number in range(epoch, epoch + epochs):
            start = step if number == epoch else 0
            batches = self._data.train(number, start, input_context)
            parts.append(batches.take((self.steps_per_epoch - start) * _elements(input_context)))
        joined = parts[0]
        for part in parts[1:]:
            joined = joined.concatenate(part)
        return joined

    def evaluation(self, split: Split, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """The first batches of a split."""
        batches = -(-self.info.counts[split] // self.batch_size)
        return self._data.evaluation(split, input_context).take(batches * _elements(input_context))

    def validation(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("validation")`."""
        return self.evaluation("validation", input_context)

    def test(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("test")`."""
        return self.evaluation("test", input_context)

    def examples(self, split: Split) -> Examples:
        """The raw examples of these batches."""
        return taken(self._data.examples(split), np.arange(self.info.counts[split]))

    def __getattr__(self, name: str) -> Any:
        # What a chapter knows its own data to have besides, such as a corpus's texts.
        return getattr(self._data, name)

    def _most(self, split: str) -> int:
        return self._batches[split] * self.batch_size


def _elements(context: tf.distribute.InputContext | None) -> int:
    """Elements of a dataset that are one batch: one for each of the worker's replicas."""
    return 1 if context is None else context.num_replicas_in_sync // context.num_input_pipelines
