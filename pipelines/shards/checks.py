"""What is checked of labels, texts and images when files are read for the first time; errors name file and record."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipelines.config import CleaningConfig, ShardsConfig
from pipelines.data import SPLITS
from pipelines.errors import UserError
from pipelines.images.checking import check_image_bytes
from pipelines.names import did_you_mean, shorten
from pipelines.shards.form import Form
from pipelines.shards.values import NO_INTEGER, numbers_of, texts_of
from pipelines.tables.cells import WHITESPACE
from pipelines.tables.labels import target_labels
from pipelines.text.cleaning import add_counts, clean_rows

# More labels than this are identifiers.
_MOST_CLASSES = 100_000

Place = Callable[[int], str]


class LabelCheck:
    """Labels → codes in the order in which classes are seen, or of `data.classes`; or targets.

    Args:
        form: the columns.
        config: the run's configuration.

    Attributes:
        names: the classes, by code; empty for regression.
        dtype: of what `read` returns.
    """

    def __init__(self, form: Form, config: ShardsConfig) -> None:
        self._column = form.label
        self._regression = config.task == "regression"
        self._given = config.classes
        self._as_indices = config.classes is not None and form.kinds[form.label] == "int"
        self._codes = {name: code for code, name in enumerate(config.classes or ())}
        self._counts = np.zeros((len(SPLITS), len(self._codes)), np.int64)
        self.dtype = np.dtype("<f4" if self._regression else "<i4")

    @property
    def names(self) -> list[str]:
        """The classes that have a code."""
        return list(self._codes)

    def counts(self) -> np.ndarray:
        """Examples of each class in each split, `(3, num_classes)`."""
        return self._counts

    def read(self, values: np.ndarray, splits: np.ndarray, place: Place) -> np.ndarray:
        """The labels of some records.

        Args:
            values: the label column.
            splits: the split of each record.
            place: from a record to its file and number.

        Raises:
            UserError: a label is missing, none of the given classes, or no finite number.
        """
        if self._regression:
            return target_labels(numbers_of(values).tolist(), self._column, place).astype(self.dtype)
        codes = self._indices(values, place) if self._as_indices else self._names(values, place)
        if len(self._codes) > self._counts.shape[1]:
            more = len(self._codes) - self._counts.shape[1]
            self._counts = np.concatenate([self._counts, np.zeros((len(SPLITS), more), np.int64)], axis=1)
        np.add.at(self._counts, (splits, codes), 1)
        return codes.astype(self.dtype)

    def _names(self, values: np.ndarray, place: Place) -> np.ndarray:
        labels = [text.strip(WHITESPACE) for text in texts_of(values)]
        for at, label in enumerate(labels):
            if label in self._codes:
                continue
            if not label:
                raise UserError(
                    f"{place(at)}, column {self._column}: the label is empty; give it or leave the record out"
                )
            if "\ufffd" in label:  # it would be no class in the graph, which takes bytes as they are
                raise UserError(f"{place(at)}, column {self._column}: the label is no text in UTF-8; write it as one")
            if self._given is not None:
                raise UserError(
                    f'{place(at)}, column {self._column}: label "{shorten(label)}" is none of data.classes; '
                    f"{did_you_mean(label, self._given)}"
                )
            self._codes[label] = len(self._codes)
        if len(self._codes) > _MOST_CLASSES:
            raise UserError(
                f"{place(0)}: column {self._column} has more than {_MOST_CLASSES:,} different labels; is it "
                "data.task: regression, or another column?"
            )
        return np.fromiter((self._codes[label] for label in labels), np.int64, len(labels))

    def _indices(self, values: np.ndarray, place: Place) -> np.ndarray:
        wrong = np.flatnonzero((values < 0) | (values >= len(self._codes)))
        if len(wrong):
            value = int(values[wrong[0]])
            said = "the label is empty" if value == NO_INTEGER else f"label {value} is no index of data.classes"
            raise UserError(
                f"{place(int(wrong[0]))}, column {self._column}: {said}, which has {len(self._codes)} classes (0 to "
                f"{len(self._codes) - 1})"
            )
        return values


class TextCheck:
    """Refuses texts that are empty after cleaning, and counts what cleaning changes.

    Raises:
        UserError: cleaning is to leave out rows, for which all texts would have to be held together.
    """

    def __init__(self, config: CleaningConfig) -> None:
        for key, value in (("empty", config.empty), ("duplicates", config.duplicates)):
            if value == "drop":
                raise UserError(
                    f"data.cleaning.{key}: drop is not for data.source: shards, whose records are counted as they are; "
                    "leave such records out when the files are written (python -m pipelines.prepare)"
                )
        self._config = config
        self.counts: dict[str, int] = {}

    def read(self, texts: Sequence[bytes], place: Place) -> None:
        """Checks the texts of some records."""
        if texts:
            self.counts = add_counts(self.counts, clean_rows(texts, self._config, place).counts)


class ImageCheck:
    """Decodes images once, so that a broken one is named before anything is made of them.

    Args:
        same_size: whether all must have one size.

    Attributes:
        shape: height, width and channels of the first image.
    """

    def __init__(self, same_size: bool) -> None:
        self._same_size = same_size
        self._first = ""
        self.shape: tuple[int, int, int] | None = None

    def read(self, images: Sequence[bytes], column: str, place: Place) -> None:
        """Checks the images of some records.

        Raises:
            UserError: one is missing, broken, or of another size where all must have one.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for at, found in enumerate(pool.map(check_image_bytes, images)):
                if found.problem:
                    said = "is empty" if not images[at] else found.problem
                    raise UserError(f"{place(at)}, column {column}: the image {said}; replace it or leave it out")
                if self.shape is None:
                    self.shape, self._first = (found.height, found.width, found.channels), place(at)
                if self._same_size and (found.height, found.width) != self.shape[:2]:
                    raise UserError(
                        f"{self._first} has an image of {self.shape[1]} × {self.shape[0]} pixels and {place(at)} one "
                        f"of {found.width} × {found.height}; a model needs one size: set data.images.size, such as 224"
                    )
