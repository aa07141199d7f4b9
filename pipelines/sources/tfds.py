"""TensorFlow Datasets that are prepared on disk: images, texts or numbers; nothing is fetched unasked."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import TfdsConfig
from pipelines.data import SPLITS, Data, Examples, Split
from pipelines.errors import UserError
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.labels import sorted_class_names
from pipelines.names import did_you_mean, listing
from pipelines.sources.arrays import (
    classification_data,
    fitted_pixels,
    image_data,
    image_preprocessor,
    refuse_image_options,
    regression_data,
)
from pipelines.sources.texts import TextRows, TextSource, refuse_text_options, text_data
from pipelines.sources.tfds_features import Plan, plan
from pipelines.sources.tfds_prepared import prepared_builder
from pipelines.splits import divide
from pipelines.tables.cells import check_finite
from pipelines.tables.fitting import fit

# Read at a time: enough to decode images in parallel, little beside the dataset itself.
_ROWS = 512


@dataclasses.dataclass(frozen=True)
class _Part:
    """The examples of one split: feature → array, labels, and where they come from."""

    features: dict[str, np.ndarray]
    labels: np.ndarray
    origin: str
    rows: np.ndarray

    def at(self, index: np.ndarray) -> "_Part":
        features = {name: values[index] for name, values in self.features.items()}
        return _Part(features, self.labels[index], self.origin, self.rows[index])


def load(config: TfdsConfig) -> Data:
    """Reads a prepared TFDS dataset into memory and divides it as configured.

    Raises:
        UserError: it is not prepared (and `download` is not set), a split does not exist, its features are neither an
            image nor a text nor numbers, it does not fit in `max_memory_gb`, or a file is damaged.
    """
    builder = prepared_builder(config)
    wanted: dict[Split, str | None] = {
        "train": config.train_split,
        "validation": config.validation_split,
        "test": config.test_split,
    }
    sizes = {split: _num_examples(builder, text, split) for split, text in wanted.items() if text is not None}
    scheme = plan(builder.info, config)
    _check_memory(scheme, sum(sizes.values()), config)
    if scheme.text is None:
        refuse_text_options(config, f"{scheme.dataset} holds none")
    preprocess = None
    if scheme.image_shape is None:
        refuse_image_options(config, f"{scheme.dataset} holds none")
    else:
        preprocess = image_preprocessor(scheme.image_shape, config.images)
    memory = _Memory(scheme.dataset, config.max_memory_gb)
    given = {
        split: _read(builder, text, scheme, memory, preprocess) for split, text in wanted.items() if text is not None
    }
    class_names = _class_names(scheme, given["train"])
    labels = {split: _labels(part, scheme, class_names) for split, part in given.items()}
    if scheme.text is not None:
        texts = {split: _text_rows(part, scheme.text, labels[split]) for split, part in given.items()}
        source = TextSource(texts, scheme.label, scheme.task, class_names or None, config.normalize_target)
        return text_data(source, config)
    division = divide(
        sizes["train"],
        config.split,
        origin=given["train"].origin,
        classes=labels["train"] if class_names else None,
        class_names=class_names,
        with_validation="validation" not in given,
        with_test="test" not in given,
        train_examples=config.train_examples,
    )
    parts: dict[str, _Part] = {}
    for split in SPLITS:
        whole = given[split if split in given else "train"]
        whole = dataclasses.replace(whole, labels=labels[split if split in given else "train"])
        parts[split] = whole if split in given and split != "train" else whole.at(division[split])
    if preprocess is not None:
        examples = {split: _examples(part, scheme) for split, part in parts.items()}
        return image_data(examples, class_names, scheme.label, config, preprocess)
    return _table_data(parts, scheme, class_names, config)


def _num_examples(builder: Any, text: str, split: str) -> int:
    known = list(builder.info.splits)
    try:
        number = int(builder.info.splits[text].num_examples)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f'{builder.info.full_name} has no split "{text}" (data.{split}_split); {did_you_mean(text, known)} '
            f"(a part is written train[:10%]; null takes a share of the training split)"
        ) from error
    if not number:
        raise UserError(f'{builder.info.full_name}: split "{text}" (data.{split}_split) is empty; choose a larger part')
    return number


def _check_memory(scheme: Plan, num_examples: int, config: TfdsConfig) -> None:
    size = num_examples * scheme.bytes_per_example / 2**30
    if size > config.max_memory_gb:
        raise UserError(
            f"{scheme.dataset} takes {size:.3g} GiB in memory ({num_examples:,} examples), and data.max_memory_gb is "
            f"{config.max_memory_gb:g}; raise it if the machine has more, or take a part: data.train_split: train[:10%]"
        )


class _Memory:
    """Counts what texts and encoded images take, whose size is known only when they have been read."""

    def __init__(self, dataset: str, max_memory_gb: float) -> None:
        self.dataset = dataset
        self.max_memory_gb = max_memory_gb
        self.size = 0

    def add(self, values: np.ndarray) -> None:
        self.size += sum(sys.getsizeof(value) for value in values)
        if self.size > self.max_memory_gb * 2**30:
            raise UserError(
                f"{self.dataset} takes more than {self.max_memory_gb:g} GiB in memory (data.max_memory_gb); raise it "
                "if the machine has more, or take a part: data.train_split: train[:10%]"
            )


def _read(builder: Any, text: str, scheme: Plan, memory: _Memory, preprocess: ImagePreprocessor | None) -> _Part:
    """Reads a split in the order in which it is stored."""
    import tensorflow_datasets as tfds

    # One file after the other: interleaving files would make the order depend on how many there are.
    order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    origin = f"{scheme.dataset} {text}"
    names = [*scheme.features, scheme.label]
    number = int(builder.info.splits[text].num_examples)
    columns: dict[str, np.ndarray] = {}
    filled = 0
    try:
        decoders = {scheme.image: tfds.decode.SkipDecoding()} if scheme.encoded else None
        dataset = builder.as_dataset(split=text, shuffle_files=False, read_config=order, decoders=decoders)
        chosen = dataset.map(lambda example: {name: example[name] for name in names})
        for batch in chosen.batch(_ROWS).prefetch(2).as_numpy_iterator():
            for name, values in batch.items():
                if preprocess is not None and name == scheme.image and not scheme.encoded:
                    values = fitted_pixels(values, preprocess)
                if name not in columns:
                    columns[name] = np.empty((number, *values.shape[1:]), values.dtype)
                columns[name][filled : filled + len(values)] = values
                if values.dtype == object:
                    memory.add(values)
            filled += len(values)
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
        reason = str(error.message).splitlines()[0]
        raise UserError(
            f"{origin}: a file in {builder.data_dir} is missing or damaged ({reason:.200}); "
            "remove the folder and prepare the dataset again"
        ) from error
    if filled != number:
        raise UserError(f"{origin} has {filled} examples where dataset_info.json says {number}; prepare it again")
    labels = columns.pop(scheme.label)
    return _Part(columns, labels, origin, np.arange(number))


def _class_names(scheme: Plan, train: _Part) -> tuple[str, ...]:
    if scheme.task == "regression":
        return ()
    return scheme.class_names or sorted_class_names([str(label) for label in np.unique(train.labels)])


def _labels(part: _Part, scheme: Plan, class_names: tuple[str, ...]) -> np.ndarray:
    if scheme.task == "regression":
        targets = part.labels.astype(np.float64)
        check_finite(targets, scheme.label, missing="refuse", place=lambda i: f"{part.origin} example {part.rows[i]}")
        return targets.astype(np.float32)
    if scheme.class_names:
        labels = part.labels.astype(np.int64)
    else:
        index_of = {name: index for index, name in enumerate(class_names)}
        labels = np.array([index_of.get(str(label), -1) for label in part.labels])
    unknown = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(unknown):
        place = unknown[0]
        raise UserError(
            f'{part.origin} example {part.rows[place]}: label "{part.labels[place]}" is none of the training classes '
            f"({listing(class_names)}); TFDS marks unlabelled examples with -1: choose a split that has labels"
        )
    return labels.astype(np.int32)


def _table_data(parts: Mapping[str, _Part], scheme: Plan, class_names: tuple[str, ...], config: TfdsConfig) -> Data:
    raw = {split: _table_columns(part, scheme) for split, part in parts.items()}
    categorical = set(scheme.categories)
    preprocess = fit(
        {name: values for name, values in raw["train"].items() if name not in categorical},
        {name: values for name, values in raw["train"].items() if name in categorical},
        missing="refuse",
        normalization=config.normalization,
        origin=parts["train"].origin,
    )
    splits = {}
    for split, part in parts.items():
        columns = {preprocess.input_of[name]: _as_served(values) for name, values in raw[split].items()}
        splits[split] = Examples(columns, part.labels, part.origin, part.rows)
    shape = {"features": (len(preprocess.feature_names),)}
    if scheme.task == "regression":
        return regression_data(splits, scheme.label, preprocess, shape, config.normalize_target, config)
    return classification_data(splits, class_names, scheme.label, preprocess, shape, config)


def _table_columns(part: _Part, scheme: Plan) -> dict[str, np.ndarray]:
    """Numbers as float64, checked; categories by their names."""
    columns: dict[str, np.ndarray] = {}
    for name, values in part.features.items():
        if name in scheme.categories:
            names = np.array(["", *scheme.categories[name]], object)  # index -1 is TFDS's mark for "unknown"
            columns[name] = names[values + 1]
            unknown = np.flatnonzero(values < 0)
            if len(unknown):
                raise UserError(f"{part.origin} example {part.rows[unknown[0]]}: feature {name} has no value")
            continue
        numbers = values.astype(np.float64)
        for component in numbers.reshape(len(numbers), -1).T:
            check_finite(component, name, missing="refuse", place=lambda i: f"{part.origin} example {part.rows[i]}")
        columns[name] = numbers
    return columns


def _text_rows(part: _Part, text: str, labels: np.ndarray) -> TextRows:
    texts = part.features[text].tolist()
    return TextRows(texts, labels, part.rows, part.origin, lambda i: f"{part.origin} example {part.rows[i]}")


def _examples(part: _Part, scheme: Plan) -> Examples:
    (images,) = part.features.values()
    return Examples({"image" if scheme.encoded else "pixels": images}, part.labels, part.origin, part.rows)


def _as_served(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == object else values.astype(np.float32)
