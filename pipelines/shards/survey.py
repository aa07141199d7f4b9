"""Files of examples, read once from beginning to end: what is wrong is named, and what training needs is kept.

What is found (where the blocks are, every label, counts, statistics) is kept in the user's cache until a file changes
its size or time, or another question is asked. A label takes four bytes there.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.config import ShardsConfig
from pipelines.data import SPLITS, Split
from pipelines.errors import UserError
from pipelines.files import read_json, sha256, user_cache, write_json
from pipelines.names import input_names
from pipelines.shards.changed import CheckedFiles
from pipelines.shards.checks import ImageCheck, LabelCheck, TextCheck
from pipelines.shards.files import FORMATS, FileSet
from pipelines.shards.form import Form
from pipelines.shards.order import Division
from pipelines.shards.statistics import CategoryCounts, Moments, NumericStatistics
from pipelines.shards.values import Blocks, Chunk, numbers_of, texts_of
from pipelines.stateless import random_keys
from pipelines.tables.cells import WHITESPACE, check_finite, missing_error
from pipelines.tables.preprocess import TablePreprocessor
from pipelines.text.store import cached_folder

_VERSION = 2
_SURVEY, _PREPROCESSOR = "survey.json", "preprocessor"
# The key of the sample that median and most frequent values are taken from.
_SAMPLE = 5


@dataclasses.dataclass(frozen=True)
class Surveyed:
    """The files of one configuration key, surveyed.

    Attributes:
        blocks: where their records are.
        counts: examples of each split in each block, `(num_blocks, 3)`.
        labels: class codes, int32, or targets, float32, of all records, mapped from disk.
    """

    blocks: Blocks
    counts: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        folder: where it is kept.
        sets: the files, by the split that they are given for.
        classes: the labels that occur, as they are written, in the order of their codes; empty for regression.
        class_counts: how often each occurs in each split, `(3, num_classes)`.
        target: mean and standard deviation of the training targets.
        digest: of all files' content.
        cleaning: what cleaning changed; empty where there are no texts.
        image: height, width and channels of the first image; None where there are none.
        bytes_per_example: in memory, of the columns that are used, on average.
    """

    folder: Path
    sets: Mapping[Split, Surveyed]
    classes: tuple[str, ...]
    class_counts: np.ndarray
    target: tuple[float, float]
    digest: str
    cleaning: Mapping[str, int]
    image: tuple[int, int, int] | None
    bytes_per_example: float

    def table_preprocessor(self) -> TablePreprocessor:
        """The preprocessor that was fitted on the way."""
        folder = self.folder / _PREPROCESSOR
        return TablePreprocessor.load(folder, read_json(folder / "preprocessor.json"))


def survey(
    files: Mapping[Split, FileSet], form: Form, format_name: str, division: Division, config: ShardsConfig
) -> Survey:
    """Reads the files, or finds in the cache what was found in them.

    Args:
        files: `train`, and `validation` and `test` where they are given.
        form: the columns that are used.
        format_name: the files' format.
        division: of the training files.
        config: the run's configuration.

    Raises:
        UserError: anything that is wrong in the files; the message names file and record.
    """
    folder = config.cache_dir if config.cache_dir is not None else user_cache("shards")
    key = _key(files, form, format_name, division, config)
    content = cached_folder(
        folder / key, lambda into: _Pass(files, form, format_name, division, config, into).run(), "survey of the files"
    )
    return _open(content, files, form)


def _key(files: Mapping[Split, FileSet], form: Form, format_name: str, division: Division, config: ShardsConfig) -> str:
    options = ("task", "missing", "normalization", "classes", "cleaning")
    question = {
        "version": [_VERSION, tf.__version__],
        "files": {split: each.stamps() for split, each in files.items()},
        "form": dataclasses.asdict(form),
        "format": format_name,
        "division": dataclasses.asdict(division),
        "same_size": form.image is not None and (config.images is None or config.images.size is None),
        **config.model_dump(mode="json", include=set(options)),
    }
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]


def _open(folder: Path, files: Mapping[Split, FileSet], form: Form) -> Survey:
    found = read_json(folder / _SURVEY)
    sets: dict[Split, Surveyed] = {}
    for split, each in files.items():
        table = np.load(folder / f"{split}_blocks.npy")
        first = np.concatenate([[0], np.cumsum(table[:, 2])]).astype(np.int64)
        labels = folder / f"{split}_labels.bin"
        dtype = np.dtype(found["label_dtype"])
        sets[split] = Surveyed(
            Blocks(each.paths, table[:, 0], table[:, 1], first),
            table[:, 3:],
            np.memmap(labels, dtype, mode="r") if labels.stat().st_size else np.zeros(0, dtype),
        )
    return Survey(
        folder,
        sets,
        tuple(found["classes"]),
        np.array(found["class_counts"], np.int64).reshape(len(SPLITS), -1),
        tuple(found["target"]),
        found["digest"],
        found["cleaning"],
        None if found["image"] is None else tuple(found["image"]),
        found["bytes_per_example"],
    )


class _Pass:
    """One reading of all files."""

    def __init__(
        self,
        files: Mapping[Split, FileSet],
        form: Form,
        format_name: str,
        division: Division,
        config: ShardsConfig,
        into: Path,
    ) -> None:
        self._files = files
        self._form = form
        self._format = FORMATS[format_name]
        self._division = division
        self._config = config
        self._into = into
        self._labels = LabelCheck(form, config)
        self._texts = TextCheck(config.cleaning)
        self._images = ImageCheck(same_size=config.images is None or config.images.size is None)
        sampled = config.missing in ("median", "most_frequent")
        self._numeric = {name: NumericStatistics(sampled) for name in form.numeric}
        self._categories = {name: CategoryCounts() for name in form.categorical}
        self._target = Moments()
        self._bytes = self._records = 0

    def run(self) -> None:
        before = {split: CheckedFiles(files.paths) for split, files in self._files.items()}
        digests = []
        with ThreadPoolExecutor(1) as pool:  # the digests are made beside the reading, of what is in the cache then
            for split, files in self._files.items():
                digests += self._read_set(split, files, pool)
        content = hashlib.sha256()
        for split, future in digests:
            content.update(f"{split} {future.result()}\n".encode())
        for split, files in self._files.items():
            for path in files.paths:
                before[split].check(path)
        train = self._files["train"]
        if self._form.numeric or self._form.categorical:
            self._fitted(train.origin).save(_made(self._into / _PREPROCESSOR))
        write_json(
            self._into / _SURVEY,
            {
                "classes": self._labels.names,
                "class_counts": self._labels.counts().tolist(),
                "label_dtype": self._labels.dtype.str,
                "target": [self._target.mean, self._target.deviation],
                "digest": content.hexdigest(),
                "cleaning": self._texts.counts if self._form.text is not None else {},
                "image": self._images.shape,
                "bytes_per_example": self._bytes / max(1, self._records),
            },
        )

    def _read_set(self, split: Split, files: FileSet, pool: ThreadPoolExecutor) -> list[tuple[Split, Future]]:
        digests, tables = [], []
        index = 0
        with open(self._into / f"{split}_labels.bin", "wb") as labels:
            for number, path in enumerate(files.paths):
                digests.append((split, pool.submit(sha256, path)))
                first_of_file = index
                blocks: list[list[int]] = []
                for chunk in self._format.scan(path, self._form.kinds):
                    if chunk.block is not None:
                        blocks.append([number, chunk.block[1], chunk.block[0], 0, 0, 0])
                    codes = self._codes(split, np.arange(index, index + chunk.count))
                    counts = np.bincount(codes, minlength=len(SPLITS))
                    blocks[-1][3:] = [before + int(more) for before, more in zip(blocks[-1][3:], counts, strict=True)]
                    place = _Place(path, index - first_of_file + 1)
                    labels.write(self._read_chunk(chunk, codes, index, place).tobytes())
                    index += chunk.count
                tables.append(np.array(blocks, np.int64).reshape(-1, 6))
        if not index:
            raise UserError(f"{files.origin} ({files.key}) has no records; at least one example per class was expected")
        np.save(self._into / f"{split}_blocks.npy", np.concatenate(tables))
        return digests

    def _codes(self, split: Split, index: np.ndarray) -> np.ndarray:
        """The split of each record, by its place in `SPLITS`."""
        if split == "train" and self._division.divides:
            return self._division.codes(index)
        return np.full(len(index), SPLITS.index(split))

    def _read_chunk(self, chunk: Chunk, codes: np.ndarray, index: int, place: "_Place") -> np.ndarray:
        """Checks some records and learns from them; returns their labels."""
        form, config, columns = self._form, self._config, chunk.columns
        self._records += chunk.count
        self._bytes += chunk.size
        training = codes == 0
        labels = self._labels.read(columns[form.label], codes, place)
        if config.task == "regression":
            self._target.add(labels[training].astype(np.float64))
        keys = random_keys(_SAMPLE, np.arange(index, index + chunk.count))
        for name, statistics in self._numeric.items():
            values = numbers_of(columns[name])
            check_finite(values, name, missing=config.missing, place=place)
            statistics.add(values[training], keys[training])
        for name, counts in self._categories.items():
            texts = texts_of(columns[name])
            broken = next((at for at, text in enumerate(texts) if "\ufffd" in text), None)
            if broken is not None:  # it would be no category in the graph, which takes bytes as they are
                raise UserError(
                    f"{place(broken)}, column {name}: the category is no text in UTF-8; write it as one, or list the "
                    "column under data.ignore"
                )
            if config.missing == "refuse":
                empty = [at for at, text in enumerate(texts) if not text.strip(WHITESPACE)]
                if empty:
                    raise missing_error(place(empty[0]), name, len(empty))
            counts.add(
                [text for text, wanted in zip(texts, training.tolist(), strict=True) if wanted], name, place.path
            )
        if form.text is not None:
            self._texts.read(columns[form.text].tolist(), place)
        if form.image is not None:
            self._images.read(columns[form.image].tolist(), form.image, place)
        return labels

    def _fitted(self, origin: str) -> TablePreprocessor:
        config = self._config
        inputs = iter(input_names([*self._numeric, *self._categories]))
        return TablePreprocessor(
            tuple(
                statistics.fitted(name, next(inputs), config.missing, config.normalization, origin)
                for name, statistics in self._numeric.items()
            ),
            tuple(
                counts.fitted(name, next(inputs), config.missing, origin) for name, counts in self._categories.items()
            ),
        )


@dataclasses.dataclass(frozen=True)
class _Place:
    """From a record's place in a chunk to its file and number, for messages."""

    path: str
    first: int

    def __call__(self, at: int) -> str:
        return f"{self.path} record {self.first + at}"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
