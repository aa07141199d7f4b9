"""Table columns → one tensor of features, in the graph: fill in, normalise, one-hot encode."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.data import PREPROCESSOR_FILE
from pipelines.errors import MissingFileError, UserError
from pipelines.files import read_json, write_json

VOCABULARY_FILE = "vocabulary.json"


@dataclasses.dataclass(frozen=True)
class NumericColumn:
    """A number, or a vector of numbers, and how it is normalised: `(value - center) / scale`.

    Attributes:
        column: its name in the file.
        input: its name as an input of the served model.
        center, scale: one for each component.
        fill: what takes the place of a missing component; empty where missing values are refused.
        vector: whether the input has a second dimension.
    """

    column: str
    input: str
    center: tuple[float, ...]
    scale: tuple[float, ...]
    fill: tuple[float, ...] = ()
    vector: bool = False


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """A category, one-hot encoded.

    Attributes:
        column: its name in the file.
        input: its name as an input of the served model.
        categories: those seen in training, in the order of their features. Another one at serving gives zeros only: a
            slot of its own would carry a weight that was never trained.
        fill: the category that takes the place of an empty cell; None where missing values are refused.
    """

    column: str
    input: str
    categories: tuple[str, ...]
    fill: str | None = None


class TablePreprocessor(tf.Module):
    """One input per column → `features`, float32 `(batch_size, num_features)`.

    Numbers come first, then the categories' indicators. A missing value (NaN, or an empty string) is filled in or
    refused, as was configured in training; infinite numbers are always refused. White space around a category does not
    count.

    Args:
        numeric: the numeric columns.
        categorical: the categorical columns.
    """

    kind = "table"

    def __init__(self, numeric: tuple[NumericColumn, ...], categorical: tuple[CategoricalColumn, ...]) -> None:
        super().__init__(name="table_preprocessor")
        # Not as attributes of their own type: a module wraps lists and dicts, and would walk through every category.
        self._columns = _Untracked((numeric, categorical))
        self._tables = [
            tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    tf.constant(column.categories, tf.string), tf.range(len(column.categories), dtype=tf.int64)
                ),
                default_value=-1,
            )
            for column in categorical
        ]

    @property
    def numeric(self) -> tuple[NumericColumn, ...]:
        """The numeric columns."""
        return self._columns.value[0]

    @property
    def categorical(self) -> tuple[CategoricalColumn, ...]:
        """The categorical columns."""
        return self._columns.value[1]

    @property
    def input_of(self) -> dict[str, str]:
        """Column in the file → input of the served model, in the order of the features."""
        pairs = [(column.column, column.input) for column in self.numeric]
        return dict(pairs + [(column.column, column.input) for column in self.categorical])

    @property
    def served_names(self) -> Mapping[str, str]:
        """Input in the graph → column in the file, which is what clients call it."""
        return {name: column for column, name in self.input_of.items()}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each of the features is: `age`, `position[2]`, `colour=red`."""
        names = []
        for number in self.numeric:
            many = len(number.center)
            names += [f"{number.column}[{i}]" for i in range(many)] if number.vector else [number.column]
        for category in self.categorical:
            names += [f"{category.column}={value}" for value in category.categories]
        return tuple(names)

    @property
    def signatures(self) -> Mapping[str, Mapping[str, tf.TensorSpec]]:
        """`serving_default`: float32 for a number, string for a category, `[batch]` (`[batch, size]` for a vector)."""
        specs = {}
        for number in self.numeric:
            shape = [None, len(number.center)] if number.vector else [None]
            specs[number.input] = tf.TensorSpec(shape, tf.float32, name=number.input)
        for category in self.categorical:
            specs[category.input] = tf.TensorSpec([None], tf.string, name=category.input)
        return {"serving_default": specs}

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Maps the columns to the model's input.

        Raises:
            tf.errors.InvalidArgumentError: a value is missing and may not be, or infinite; it names the column.
        """
        expected = set(self.input_of.values())
        if set(raw) != expected:
            raise ValueError(f"a table preprocessor takes {sorted(expected)}, not {sorted(raw)}")
        parts = []
        if self.numeric:
            parts.append(self._numbers(raw))
        for column, table in zip(self.categorical, self._tables, strict=True):
            value = _category(raw[column.input], column)
            parts.append(tf.one_hot(table.lookup(value), len(column.categories), dtype=tf.float32))
        return {"features": tf.concat(parts, axis=1)}

    def _numbers(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        columns = self.numeric
        widths = [len(column.center) for column in columns]
        values = tf.concat(
            [tf.reshape(raw[column.input], [-1, width]) for column, width in zip(columns, widths, strict=True)], axis=1
        )
        names = np.repeat([column.column for column in columns], widths)
        allowed = np.repeat([bool(column.fill) for column in columns], widths)
        absent = tf.math.is_nan(values)
        refused = tf.math.is_inf(values) | (absent & ~allowed)
        values = _refusing(refused, names, "is infinite, or missing (NaN) and may not be,", values)
        # In float64: a column of time stamps minus their mean would lose all its digits in float32.
        exact = tf.cast(values, tf.float64)
        if allowed.any():
            fill = np.concatenate([column.fill or np.zeros(len(column.center)) for column in columns])
            exact = tf.where(absent, tf.constant(fill, tf.float64), exact)
        center = tf.constant(np.concatenate([column.center for column in columns]), tf.float64)
        # Times the reciprocal: TensorFlow's optimiser would rewrite a division so, but only in some graphs.
        factor = tf.constant(1 / np.concatenate([column.scale for column in columns]), tf.float64)
        return tf.cast((exact - center) * factor, tf.float32)

    def save(self, folder: Path) -> None:
        """Writes the configuration and the categories into `folder`."""
        config = {
            "kind": self.kind,
            "numeric": [dataclasses.asdict(column) for column in self.numeric],
            "categorical": [
                {"column": column.column, "input": column.input, "fill": column.fill} for column in self.categorical
            ],
        }
        write_json(Path(folder, VOCABULARY_FILE), {column.column: column.categories for column in self.categorical})
        write_json(Path(folder, PREPROCESSOR_FILE), config)

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "TablePreprocessor":
        """The preprocessor whose `save` wrote `config` into `folder`."""
        path = Path(folder, VOCABULARY_FILE)
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: the preprocessor is not complete; train the run again")
        vocabulary = read_json(path)
        numeric = tuple(_numeric_from_json(column) for column in config["numeric"])
        categorical = []
        for column in config["categorical"]:
            categories = vocabulary.get(column["column"]) if isinstance(vocabulary, dict) else None
            if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
                raise UserError(f"{path} is damaged: it has no categories of column {column['column']}")
            categorical.append(CategoricalColumn(categories=tuple(categories), **column))
        return cls(numeric, tuple(categorical))


class _Untracked:
    """Hides a value from `tf.Module`, which would wrap the containers it finds."""

    def __init__(self, value: tuple[tuple[NumericColumn, ...], tuple[CategoricalColumn, ...]]) -> None:
        self.value = value


def _numeric_from_json(value: Mapping[str, Any]) -> NumericColumn:
    numbers = {key: tuple(float(number) for number in value[key]) for key in ("center", "scale", "fill")}
    if not len(numbers["center"]) == len(numbers["scale"]) > 0 or len(numbers["fill"]) not in (
        0,
        len(numbers["center"]),
    ):
        raise ValueError(f"center, scale and fill of column {value['column']} differ in length")
    return NumericColumn(**{**value, **numbers})


def _category(value: tf.Tensor, column: CategoricalColumn) -> tf.Tensor:
    stripped = tf.strings.strip(tf.reshape(value, [-1]))
    absent = tf.equal(stripped, "")
    if column.fill is not None:
        return tf.where(absent, column.fill, stripped)
    return _refusing(absent[:, tf.newaxis], np.array([column.column]), "is missing (empty) and may not be", stripped)


def _refusing(refused: tf.Tensor, names: np.ndarray, what: str, values: tf.Tensor) -> tf.Tensor:
    """The values, unless one is refused: then the graph stops with the columns' names."""

    def stop() -> tf.Tensor:
        wrong = tf.unique(tf.boolean_mask(tf.constant(names, tf.string), tf.reduce_any(refused, axis=0)))[0]
        row = tf.argmax(tf.reduce_any(refused, axis=1))
        message = tf.strings.format(
            f"column {{}} {what} in element {{}} of the batch; numbers must be finite, and no value may be missing "
            "where the model was trained with data.missing: refuse",
            (tf.strings.reduce_join(wrong, separator=", "), row),
        )
        with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
            return tf.constant(False)

    # The message is put together in a branch of its own: a good batch pays for one reduction only.
    check = tf.cond(tf.reduce_any(refused), stop, lambda: tf.constant(True))
    with tf.control_dependencies([check]):
        return tf.identity(values)
