"""Examples from files that were not part of training: for `evaluate` and `predict`."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.config import DataConfig, ShardsConfig, TableConfig, TfdsConfig
from pipelines.data import DatasetInfo, Examples, Preprocessor
from pipelines.errors import UserError
from pipelines.images.checking import check_images
from pipelines.images.files import ImageFiles
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.labels import encode_classes
from pipelines.lookup import require_file
from pipelines.names import shorten
from pipelines.remote import join, local, local_files
from pipelines.tables.cells import categorical_column, check_finite, numeric_column
from pipelines.tables.columns import require_column
from pipelines.tables.labels import class_labels, target_labels
from pipelines.tables.preprocess import NumericColumn, TablePreprocessor
from pipelines.tables.reading import Table, read
from pipelines.text.cleaning import encoded
from pipelines.text.preprocess import TextPreprocessor

TEXT_COLUMN = "text"
"""The column of texts in a table for a run whose configuration names none."""
IMAGE_COLUMN = "image"
"""The column of paths in a table for an image run."""


def read_table(path: Path | str, config: DataConfig) -> pd.DataFrame:
    """A table file as text, every cell as it is written.

    Args:
        path: a CSV, TSV, JSON Lines or Parquet file, local or remote.
        config: the run's configuration, for the delimiter, the encoding, and the memory allowed.

    Returns:
        One row per data row, with the index 1, 2, …; NaN where JSON or Parquet has null, "" for a CSV file's empty
        cell.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    return _read(path, config).frame


def read_examples(
    path: Path | str, config: DataConfig, preprocess: Preprocessor, info: DatasetInfo, labelled: bool
) -> Examples:
    """Raw examples from a table file, as the run's preprocessor takes them, in the order of the file.

    A run on images reads a table with a column `image` of paths, relative to the table's folder; a run on texts the
    column that its configuration names, or `text`.

    Args:
        path: a CSV, TSV, JSON Lines or Parquet file, local or remote, with the run's feature columns; others are left
            alone.
        config: the run's configuration.
        preprocess: the run's preprocessor.
        info: the run's dataset info.
        labelled: whether the label column must be there; otherwise it is not looked at.

    Raises:
        UserError: a column is missing, a cell is wrong, or a label was not seen in training; it names the place.
    """
    table = _read(path, config)
    columns = list(table.frame.columns)
    labels = None
    features: Mapping[str, Any]
    if labelled:
        require_column(info.label_name, columns, table.origin, "the label of this run")
        labels = _labels(table, info)
    if isinstance(preprocess, ImagePreprocessor):
        require_column(IMAGE_COLUMN, columns, table.origin, "the paths of this run's images")
        features = {IMAGE_COLUMN: _images(table, os.path.dirname(path))}
    elif isinstance(preprocess, TablePreprocessor):
        features = _columns(
            table, preprocess, config.missing if isinstance(config, TableConfig | ShardsConfig) else "refuse"
        )
    elif isinstance(preprocess, TextPreprocessor):
        column = (config.text if isinstance(config, TableConfig | TfdsConfig | ShardsConfig) else None) or TEXT_COLUMN
        require_column(column, columns, table.origin, "the texts of this run")
        # An empty text may be asked about, though none is trained on.
        features = {"text": _objects([encoded(_filled(cell)) for cell in table.cells(column)])}
    else:
        raise UserError(f"{path}: a run of kind {type(preprocess).__name__} cannot be given a table")
    return Examples(features, labels, table.origin, np.arange(1, len(table) + 1))


def read_image_files(paths: Sequence[Path | str], preprocess: Preprocessor) -> Examples:
    """Image files as unlabelled examples with the feature `image`, `ImageFiles`.

    Args:
        paths: PNG, JPEG, BMP or GIF files, local or remote. Each is decoded once, so that a broken one is named.
        preprocess: the run's preprocessor.

    Raises:
        UserError: a file is missing, is no image or a damaged one, or the run is not about images.
    """
    if not isinstance(preprocess, ImagePreprocessor):
        raise UserError("this run was not trained on images; give it a table with --input")
    if not paths:
        raise UserError("no image file was given")
    files = _checked_files([require_file(path) for path in local_files(paths)], lambda index: str(paths[index]))
    origin = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"
    return Examples({IMAGE_COLUMN: files}, None, origin, np.arange(len(paths)))


def read_texts(texts: Sequence[str], preprocess: Preprocessor) -> Examples:
    """Texts as unlabelled examples with the feature `text`.

    Args:
        texts: as they were typed; an empty one is allowed.
        preprocess: the run's preprocessor.

    Raises:
        UserError: no text was given, or the run is not about texts.

    Example:
        >>> examples = read_texts(["我喜欢这本书"], data.preprocess)
        >>> features, weight = next(iter(batches(examples, data.preprocess, data.info, batch_size=1)))
    """
    if not isinstance(preprocess, TextPreprocessor):
        raise UserError("this run was not trained on texts; give it a table with --input")
    if not texts:
        raise UserError("no text was given")
    return Examples({"text": _objects([encoded(text) for text in texts])}, None, "text", np.arange(1, len(texts) + 1))


def _filled(cell: Any) -> str:
    return "" if isinstance(cell, float) else cell


def _read(path: Path | str, config: DataConfig) -> Table:
    path = local(path)
    table = config if isinstance(config, TableConfig) else None
    return read(
        path,
        # The delimiter was given for the training file; a file with another suffix has that suffix's own.
        delimiter=table.delimiter if table and path.suffix.lower() == Path(table.path).suffix.lower() else None,
        encoding=table.encoding if table else "utf-8",
        max_memory_gb=config.max_memory_gb,
    )


def _labels(table: Table, info: DatasetInfo) -> np.ndarray:
    cells = table.cells(info.label_name)
    if info.task == "regression":
        return target_labels(cells, info.label_name, table.place).astype(np.float32)
    labels = class_labels(cells, info.label_name, table.place)
    return encode_classes(list(labels), info.class_names, column=info.label_name, place=table.place)


def _columns(table: Table, preprocess: TablePreprocessor, missing: str) -> Mapping[str, np.ndarray]:
    features: dict[str, np.ndarray] = {}
    hint = "correct it; the column was numeric in training"
    for name in preprocess.input_of:
        require_column(name, list(table.frame.columns), table.origin, "a feature of this run")
    for category in preprocess.categorical:
        cells = table.cells(category.column)
        features[category.input] = categorical_column(cells, category.column, missing=missing, place=table.place)
    for column in preprocess.numeric:
        cells = table.cells(column.column)
        if column.vector:
            features[column.input] = _vectors(cells, column, table.place)
        else:
            values = numeric_column(cells, column.column, missing=missing, place=table.place, hint=hint)
            features[column.input] = values.astype(np.float32)
    return features


def _vectors(cells: Sequence[Any], column: NumericColumn, place: Callable[[int], str]) -> np.ndarray:
    """Cells that hold lists of numbers, written as JSON does."""
    size = len(column.center)
    values = np.empty((len(cells), size))
    for index, cell in enumerate(cells):
        try:
            numbers = json.loads(cell) if isinstance(cell, str) else [math.nan] * size
            if len(numbers) != size:  # NumPy would repeat a single number
                raise ValueError(f"{len(numbers)} numbers")
            values[index] = numbers
        except (ValueError, TypeError):
            raise UserError(
                f'{place(index)}, column {column.column}: "{shorten(str(cell))}" is no list of {size} numbers such as '
                "[0.5, 1, …]"
            ) from None
    for component in values.T:
        check_finite(component, column.column, missing="refuse", place=place)
    return values.astype(np.float32)


def _images(table: Table, folder: str) -> ImageFiles:
    paths, places = [], []
    for index, cell in enumerate(table.cells(IMAGE_COLUMN)):
        place = f"{table.place(index)}, column {IMAGE_COLUMN}"
        if not isinstance(cell, str) or not cell.strip():
            raise UserError(f"{place}: the cell is empty; the path of an image was expected")
        paths.append(join(folder, cell))
        places.append(place)
    files = [require_file(path, place) for path, place in zip(local_files(paths), places, strict=True)]
    return _checked_files(files, lambda index: f"{table.place(index)}, column {IMAGE_COLUMN}: {paths[index]}")


def _checked_files(paths: Sequence[Path], shown: Callable[[int], str]) -> ImageFiles:
    """Files that can all be decoded; the first that cannot is refused by what `shown` says of its index."""
    names = [str(path) for path in paths]
    digests = []
    for index, found in enumerate(check_images(names)):
        if found.problem:
            raise UserError(f"{shown(index)} {found.problem}; replace it or leave it out")
        digests.append(found.digest)
    return ImageFiles(names, digests)


def _objects(contents: list[bytes]) -> np.ndarray:
    array = np.empty(len(contents), object)
    array[:] = contents
    return array
