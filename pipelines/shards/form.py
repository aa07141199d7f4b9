"""Which columns of the files are the label and the features, and how they become raw inputs and class indices."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipelines.config import ShardsConfig
from pipelines.errors import UserError
from pipelines.names import did_you_mean, shorten
from pipelines.shards.values import WORDS, Kind, as_numbers, as_texts


@dataclasses.dataclass(frozen=True)
class Form:
    """The columns that are used, in a role each.

    Attributes:
        kinds: all of them, and what they hold.
        label: the label.
        numeric, categorical: features of a table.
        text: the column of texts; None for other data.
        image: the column of encoded images; None for other data.
    """

    kinds: Mapping[str, Kind]
    label: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    text: str | None = None
    image: str | None = None


def choose(kinds: Mapping[str, Kind], config: ShardsConfig, origin: str, unusable: Mapping[str, str]) -> Form:
    """The columns that the configuration names, or else all that can be features.

    Args:
        kinds: the columns of the files, and what they hold.
        config: the run's configuration.
        origin: the first file, for messages.
        unusable: the columns that hold something else, and their types.

    Raises:
        UserError: a column is not there, cannot be used, is named twice, holds something else than its role needs; or
            no feature is left.
    """
    _check_names(kinds, config, origin, unusable)
    if config.task == "regression":
        _require_kind(config.label, kinds, ("float", "int"), origin, "data.task: regression needs numbers")
    else:
        _require_kind(
            config.label,
            kinds,
            ("int", "bytes"),
            origin,
            "classes are texts or whole numbers; is it data.task: regression?",
        )
    if config.text is not None or config.image is not None:
        column = config.text if config.text is not None else config.image
        assert column is not None
        _require_kind(column, kinds, ("bytes",), origin, f"data.{'text' if config.text is not None else 'image'}")
        return _form(kinds, config.label, text=config.text, image=config.image)
    if config.numeric is not None or config.categorical is not None:
        numeric, categorical = tuple(config.numeric or ()), tuple(config.categorical or ())
    else:
        others = [name for name in kinds if name != config.label and name not in config.ignore]
        numeric = tuple(name for name in sorted(others) if kinds[name] != "bytes")
        categorical = tuple(name for name in sorted(others) if kinds[name] == "bytes")
    for name in numeric:
        _require_kind(name, kinds, ("float", "int"), origin, "data.numeric")
    for name in categorical:
        _require_kind(name, kinds, ("int", "bytes"), origin, "categories are texts or whole numbers")
    if not numeric and not categorical:
        raise UserError(f"{origin}: no feature column is left beside the label {config.label}; see data.numeric")
    return _form(kinds, config.label, numeric, categorical)


def _form(
    kinds: Mapping[str, Kind],
    label: str,
    numeric: tuple[str, ...] = (),
    categorical: tuple[str, ...] = (),
    text: str | None = None,
    image: str | None = None,
) -> Form:
    used = [label, *numeric, *categorical, *(name for name in (text, image) if name is not None)]
    return Form({name: kinds[name] for name in used}, label, numeric, categorical, text, image)


def _check_names(kinds: Mapping[str, Kind], config: ShardsConfig, origin: str, unusable: Mapping[str, str]) -> None:
    """Every column that is named is there, and has one role."""
    if config.text is not None and config.image is not None:
        raise UserError("data.text and data.image cannot be used together: a model reads texts or images; remove one")
    reads = "text" if config.text is not None else "image" if config.image is not None else None
    named: dict[str, str] = {}
    for key in ("label", "text", "image", "numeric", "categorical", "ignore"):
        value = getattr(config, key)
        names = [] if value is None else [value] if isinstance(value, str) else value
        if reads and key in ("numeric", "categorical") and value is not None:
            raise UserError(
                f"data.{key} and data.{reads} cannot be used together: a model reads columns or {reads}s; remove one"
            )
        for name in names:
            if name in unusable and key != "ignore":
                raise UserError(
                    f"{origin}: column {name} (data.{key}) is of type {unusable[name]:.80}, which is neither numbers "
                    "nor texts nor bytes; write it as one of them"
                )
            if name not in kinds and key != "ignore":
                raise UserError(f'{origin} has no column "{shorten(name)}" (data.{key}); {did_you_mean(name, kinds)}')
            if name in named:
                raise UserError(
                    f'column "{shorten(name)}" is named in data.{named[name]} and in data.{key}; leave it in one'
                )
            named[name] = key


def _require_kind(name: str, kinds: Mapping[str, Kind], wanted: Sequence[Kind], origin: str, why: str) -> None:
    if kinds[name] not in wanted:
        raise UserError(
            f"{origin}: column {name} holds {WORDS[kinds[name]]}, and "
            f"{' or '.join(WORDS[kind] for kind in wanted)} were expected ({why})"
        )


class Mapper:
    """Columns → the preprocessor's raw inputs and labels, in graph operations without tables.

    Args:
        form: the columns.
        input_of: column → raw input.
        class_names: the classes; empty for regression.
        as_indices: whether labels are class indices already.
    """

    def __init__(self, form: Form, input_of: Mapping[str, str], class_names: Sequence[str], as_indices: bool) -> None:
        self.form = form
        self.input_of = dict(input_of)
        self._as_indices = as_indices
        hashes = tf.strings.to_hash_bucket_fast(tf.constant(list(class_names), tf.string), 2**62).numpy()
        self._classes = np.argsort(hashes).astype(np.int32)
        self._hashes = hashes[self._classes]
        if len(np.unique(hashes)) < len(class_names):
            raise RuntimeError("two class names have the same 62-bit hash")

    def features(self, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The preprocessor's raw inputs."""
        return {
            name: as_numbers(columns[column]) if column in self.form.numeric else as_texts(columns[column])
            for column, name in self.input_of.items()
        }

    def labels(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Class indices, int32 `(rows,)`; or targets, float32, as they are in the files."""
        values = columns[self.form.label]
        if not len(self._classes):
            return as_numbers(values)
        if self._as_indices:
            return tf.cast(values, tf.int32)
        hashes = tf.strings.to_hash_bucket_fast(tf.strings.strip(as_texts(values)), 2**62)
        return tf.gather(self._classes, tf.searchsorted(self._hashes, hashes))
