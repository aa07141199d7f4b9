"""Tables: CSV, TSV, JSON Lines and Parquet files of numbers and categories, or of texts."""

import dataclasses
from collections.abc import Callable

import numpy as np

from pipelines.config import TableConfig
from pipelines.data import SPLITS, Data, Examples, Split
from pipelines.errors import UserError
from pipelines.labels import encode_classes, sorted_class_names
from pipelines.remote import join, local
from pipelines.sources.arrays import classification_data, regression_data
from pipelines.sources.texts import TextRows, TextSource, refuse_text_options, text_data
from pipelines.splits import divide
from pipelines.tables.cells import categorical_column, numeric_column
from pipelines.tables.columns import Columns, choose_columns, require_column
from pipelines.tables.fitting import fit
from pipelines.tables.labels import class_labels, target_labels
from pipelines.tables.reading import Table, read


@dataclasses.dataclass(frozen=True)
class _Part:
    """The rows of a table that make a split, with their labels as text or numbers."""

    table: Table
    index: np.ndarray
    labels: np.ndarray

    def cells(self, column: str) -> list:
        return self.table.frame[column].iloc[self.index].tolist()

    def place(self, i: int) -> str:
        return self.table.place(int(self.index[i]))


def load(config: TableConfig) -> Data:
    """Reads the table(s), divides them, and learns everything else from the training split.

    Raises:
        UserError: anything that is wrong in the files; the message names file, row and column.
    """
    if config.text is not None:
        return text_data(text_source(config), config)
    refuse_text_options(config, "data.text names no column of texts")
    parts = _divided(config)
    train = parts["train"]
    columns = choose_columns(list(train.table.frame.columns), train.cells, config, train.table.origin, train.place)
    class_names: tuple[str, ...] = ()
    if config.task == "classification":
        class_names = sorted_class_names(list(train.labels))
    raw = {split: _feature_columns(part, columns, config) for split, part in parts.items()}
    preprocess = fit(
        {column: raw["train"][column] for column in columns.numeric},
        {column: raw["train"][column] for column in columns.categorical},
        missing=config.missing,
        normalization=config.normalization,
        origin=train.table.origin,
    )
    inputs = preprocess.input_of
    splits = {
        split: Examples(
            {inputs[column]: _as_served(values) for column, values in raw[split].items()},
            _encoded(part, class_names, config),
            part.table.origin,
            part.index + 1,
        )
        for split, part in parts.items()
    }
    shape = {"features": (len(preprocess.feature_names),)}
    if config.task == "regression":
        return regression_data(splits, config.label, preprocess, shape, config.normalize_target, config)
    return classification_data(splits, class_names, config.label, preprocess, shape, config)


def text_source(config: TableConfig) -> TextSource:
    """The column of texts, with its labels.

    Raises:
        UserError: a column is missing, or a label is; an option is for columns of numbers.
    """
    column = config.text or "text"
    if config.numeric is not None or config.categorical is not None:
        key = "numeric" if config.numeric is not None else "categorical"
        raise UserError(f"data.{key} and data.text cannot be used together: a model reads columns or texts; remove one")
    if column == config.label:
        raise UserError(f'data.text and data.label are both "{column}"; a text cannot be its own label')
    given: dict[Split, TextRows] = {}
    for split, table in _tables(config).items():
        require_column(column, list(table.frame.columns), table.origin, "data.text")
        labels = _labels(table, config)
        texts = ["" if isinstance(cell, float) else cell for cell in table.cells(column)]
        given[split] = TextRows(texts, labels, np.arange(1, len(table) + 1), table.origin, table.place)
    return TextSource(given, config.label, config.task, normalize_target=config.normalize_target)


def _tables(config: TableConfig) -> dict[Split, Table]:
    """The files that are given, by the split they are for."""
    paths: dict[Split, str | None] = {
        "train": config.path,
        "validation": config.validation_path,
        "test": config.test_path,
    }
    return {
        split: read(
            local(join(config.data_dir, path)),
            delimiter=config.delimiter,
            encoding=config.encoding,
            max_memory_gb=config.max_memory_gb,
            key="data.path" if split == "train" else f"data.{split}_path",
        )
        for split, path in paths.items()
        if path is not None
    }


def _divided(config: TableConfig) -> dict[str, _Part]:
    """The given files as splits, and the training file divided into those that are not given."""
    tables = _tables(config)
    labels = {split: _labels(table, config) for split, table in tables.items()}
    names = sorted_class_names(list(labels["train"])) if config.task == "classification" else ()
    index_of = {name: index for index, name in enumerate(names)}
    division = divide(
        len(tables["train"]),
        config.split,
        origin=tables["train"].origin,
        classes=np.array([index_of[label] for label in labels["train"]]) if names else None,
        class_names=names,
        with_validation="validation" not in tables,
        with_test="test" not in tables,
        train_examples=config.train_examples,
    )
    parts: dict[str, _Part] = {}
    for split in SPLITS:
        source = split if split in tables else "train"
        index = np.arange(len(tables[split])) if split in tables and split != "train" else division[split]
        parts[split] = _Part(tables[source], index, labels[source][index])
    return parts


def _labels(table: Table, config: TableConfig) -> np.ndarray:
    require_column(config.label, list(table.frame.columns), table.origin, "data.label")
    cells = table.cells(config.label)
    if config.task == "classification":
        return class_labels(cells, config.label, table.place)
    return target_labels(cells, config.label, table.place)


def _encoded(part: _Part, class_names: tuple[str, ...], config: TableConfig) -> np.ndarray:
    if config.task == "regression":
        return part.labels.astype(np.float32)
    return encode_classes(list(part.labels), class_names, column=config.label, place=part.place)


def _feature_columns(part: _Part, columns: Columns, config: TableConfig) -> dict[str, np.ndarray]:
    return read_columns(
        part.cells, list(part.table.frame.columns), columns, config.missing, part.place, part.table.origin
    )


def read_columns(
    cells: Callable[[str], list],
    present: list[str],
    columns: Columns,
    missing: str,
    place: Callable[[int], str],
    origin: str,
) -> dict[str, np.ndarray]:
    """Feature columns as arrays: float64 (NaN where missing) or objects of `str` ("" where missing).

    Args:
        cells: from a column to its cells.
        present: the table's columns.
        columns: the feature columns wanted.
        missing: `data.missing`.
        place: from a row's index to file and row, for messages.
        origin: the file, for messages.

    Raises:
        UserError: a column is not there, or a cell is wrong.
    """
    for column in (*columns.numeric, *columns.categorical):
        require_column(column, present, origin, "a feature of this run")
    return {
        **{c: numeric_column(cells(c), c, missing=missing, place=place) for c in columns.numeric},
        **{c: categorical_column(cells(c), c, missing=missing, place=place) for c in columns.categorical},
    }


def _as_served(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == object else values.astype(np.float32)
