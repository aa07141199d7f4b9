"""The contract between data and models: `DatasetInfo`, `Preprocessor` and `Data`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import tensorflow as tf

from pipelines.errors import UserError

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# What `Preprocessor.save` writes beside vocabulary files, with the key `kind` that says which class reads it.
PREPROCESSOR_FILE = "preprocessor.json"


Task: TypeAlias = Literal[
    "classification", "regression", "masked_language_model", "language_model", "sequence_to_sequence"
]


@dataclass(frozen=True)
class TextInfo:
    """What a model needs to know of texts.

    Attributes:
        vocabulary_size: different token ids, the special ones included.
        sequence_length: tokens of a text at most, special ones included.
        special_ids: the ids of `pad`, `unknown`, `start` ([CLS]), `end` ([SEP]) and `mask`.
        bigram_vocabulary_size: different ids of pairs of characters; 0 where the model does not see any.
        mean_tokens: mean number of predicted tokens in a training example (language models); 0 elsewhere.
        cleaning: what cleaning did: step → number of texts that it changed or left out.
    """

    vocabulary_size: int
    sequence_length: int
    special_ids: Mapping[str, int]
    bigram_vocabulary_size: int = 0
    mean_tokens: float = 0.0
    cleaning: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageInfo:
    """What is to be known of images.

    Attributes:
        num_skipped: broken files that were left out (`data.broken: skip`), in all splits.
        skipped: the first of them, each with what is wrong with it.
    """

    num_skipped: int = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """What a model and a report need to know of the data; written to `info.json` in a workdir.

    Attributes:
        task: `classification`, `regression`, or one of the language tasks of a corpus.
        inputs: the model's inputs, name → shape without the batch dimension (None where it varies).
        input_dtypes: the model's inputs, name → dtype name, such as `float32`.
        class_names: the classes in the order of their indices; empty for regression.
        counts: examples in each split.
        class_counts: training examples of each class, in the order of `class_names`; empty for regression.
        label_name: the name of what is predicted.
        target_mean, target_scale: regression labels were divided as (label - mean) / scale for training; 0 and 1
            where they were not.
        fingerprint: changes when the examples or their division change; a resumed run must find the same.
        text: what is to be known of texts; None for other data.
        images: what is to be known of images; None for other data.
    """

    task: Task
    inputs: Mapping[str, tuple[int | None, ...]]
    input_dtypes: Mapping[str, str]
    counts: Mapping[str, int]
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    label_name: str = "label"
    target_mean: float = 0.0
    target_scale: float = 1.0
    fingerprint: str = ""
    text: TextInfo | None = None
    images: ImageInfo | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for regression."""
        return len(self.class_names)

    def to_json(self) -> dict[str, Any]:
        """This object as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DatasetInfo":
        """The object that `to_json` made `value` of.

        Raises:
            UserError: `value` is something else.
        """
        try:
            return cls(
                **{
                    **value,
                    "inputs": {name: tuple(shape) for name, shape in value["inputs"].items()},
                    "class_names": tuple(value["class_names"]),
                    "class_counts": tuple(value["class_counts"]),
                    "text": None if value.get("text") is None else TextInfo(**value["text"]),
                    "images": None if value.get("images") is None else _image_info(value["images"]),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"this is not a description of a dataset, as info.json holds it: {error}") from error


def _image_info(value: Mapping[str, Any]) -> ImageInfo:
    return ImageInfo(**{**value, "skipped": tuple(value["skipped"])})


class Preprocessor(Protocol):
    """Raw features → model inputs, for a batch, in graph operations only.

    One object maps the training data and is put inside the exported SavedModel, so that what is served is what was
    trained. Implementations are `tf.Module`s, so that an export tracks their tables.
    """

    @property
    def signatures(self) -> Mapping[str, Mapping[str, tf.TensorSpec]]:
        """The raw inputs that `__call__` accepts: signature name → input name → spec, batch dimension None.

        `serving_default` is always there: one input per column for a table, `image` (encoded bytes) for images, which
        also have `pixels` (uint8).
        """
        ...

    @property
    def served_names(self) -> Mapping[str, str]:
        """What clients call an input, where that is no name for a graph: the input's name → a column's, of any text."""
        ...

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Maps the raw inputs of one of the `signatures`, `(batch_size, …)` each, to model inputs."""
        ...

    def save(self, folder: Path) -> None:
        """Writes configuration and vocabulary files into `folder`, which exists and is empty."""
        ...


@dataclass(frozen=True)
class Examples:
    """Raw examples, in memory or in files that are read when they are needed, by index.

    Attributes:
        features: raw inputs as one of the preprocessor's signatures takes them, name → array `(num_examples, …)`; or
            `ImageFiles`, which is one that reads what is asked for.
        labels: int32 class indices or float32 targets (in their own units), `(num_examples,)`; None where unlabelled.
        origin: where they come from, for messages and error analysis: a file's name, or a dataset's and its split's.
        rows: each example's place in its origin, `(num_examples,)`: the data row of a table, from 1; an index, from 0.
    """

    features: Mapping[str, Any]
    labels: Any
    origin: str
    rows: Any

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))


class Data(Protocol):
    """A dataset that is divided into splits and comes as model-ready batches.

    Attributes:
        info: what a model needs to know.
        preprocess: maps raw features to model inputs, in training and in serving alike.
        batch_size: examples in one batch over all replicas.
        steps_per_epoch: full batches in the training split; the rest is dropped, another part each epoch if shuffled.
    """

    info: DatasetInfo
    preprocess: Preprocessor
    batch_size: int
    steps_per_epoch: int

    def train(
        self,
        epoch: int = 0,
        step: int = 0,
        input_context: tf.distribute.InputContext | None = None,
        epochs: int = 1,
    ) -> tf.data.Dataset:
        """The training batches from `step` of `epoch` on: `(features, label)`, features a dict with fixed keys.

        Labels are class indices or targets, `(batch_size,)`; or shares of the classes, float32 `(batch_size,
        num_classes)`, in every split's batches, where `data.augmentation` mixes images.

        They end after `epochs` epochs, the first one included: one iterator for a whole run spares making one for each
        epoch, which takes 0.2 s under a strategy. Starting late costs no more than starting at 0. The batches depend on
        the configured seed and on the epoch only; with an `input_context` a worker gets its replicas' shares of each
        batch, one element per replica.
        """
        ...

    def evaluation(self, split: Split, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """All examples of a split once, in order, not augmented: `(features, label, weight)`, every weight 1.0.

        With an `input_context` the last batch is filled up with examples of weight 0.0, so that every batch has one
        shape and can be divided among replicas; without one it is as small as it is, as Keras expects it.
        """
        ...

    def validation(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("validation")`."""
        ...

    def test(self, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        """`evaluation("test")`."""
        ...

    def examples(self, split: Split) -> Examples:
        """The raw examples of a split, in the order of `evaluation(split)`.

        Raises:
            UserError: they are not held in memory, as those of a corpus.
        """
        ...
