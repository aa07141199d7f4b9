"""The `data` section of a run's configuration: where the examples are and how they become batches."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from pipelines.images.config import AugmentationConfig, ImageConfig
from pipelines.section import LocalPath, Location, Section
from pipelines.text.config import CleaningConfig, MaskingConfig, TokenizerConfig

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
_ADDRESS = r"^grpc://[^/]+:[0-9]+$"


class SplitConfig(Section):
    """How examples are divided when the source does not come divided."""

    validation: Share = 0.1
    """Share of all examples (of the training file's, where the test set is given) held out to choose the epoch on."""
    test: Share = 0.2
    """Share of all examples held out to measure on; not used where the source has a test set of its own."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Fixes which example falls into which split; keep it while `training.seed` changes."""
    stratify: bool = True
    """Keep each class's share equal in all splits (classification only)."""

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "SplitConfig":
        if self.validation + self.test >= 1.0:
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave nothing to train on; "
                "their sum must be below 1"
            )
        return self


class ServiceConfig(Section):
    """A tf.data service that makes the training batches in processes of its own, on other machines if need be.

    `python -m pipelines.data_service` starts them. Batches and their order are those of a training without it.
    """

    address: Annotated[str, Field(pattern=_ADDRESS)]
    """The dispatcher: `grpc://host:5050`."""
    workers: PositiveInt = 1
    """tf.data workers that the training waits for before it begins; it uses all that are there then."""
    timeout_seconds: PositiveFloat = 60.0
    """How long a dispatcher or worker may not answer, at the start and in between, before the training ends."""

    @field_validator("address", mode="before")
    @classmethod
    def _is_an_address(cls, address: object) -> object:
        if not isinstance(address, str) or not re.match(_ADDRESS, address):
            raise ValueError(f"expected an address such as grpc://host:5050, received {address!r}")
        return address


class BatchingConfig(Section):
    """What every source has: the batch, the order, the split, the place."""

    data_dir: Location = Path(".")
    """The folder that relative paths (and TFDS names) are looked up in; relative to the current directory, or
    `gs://bucket/folder` or `s3://bucket/folder`, of which a local copy is kept in the user's cache folder."""
    batch_size: PositiveInt = 64
    """Examples in one batch over all replicas and workers."""
    shuffle: bool = True
    """Show the training examples in another order each epoch."""
    shuffle_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Fixes the order of the training examples; `training.seed` where it is not given."""
    split: SplitConfig = SplitConfig()
    max_memory_gb: PositiveFloat = 4.0
    """Gibibytes that the examples held in memory may take; a larger dataset is refused with its size."""
    service: ServiceConfig | None = None
    """A tf.data service that makes the training batches; made in the training's own process where it is not given."""


class TextConfig(BatchingConfig):
    """What sources of texts have besides."""

    cleaning: CleaningConfig = CleaningConfig()
    tokenizer: TokenizerConfig | None = None
    """How texts become numbers; `characters` (or what the model's preset needs) where it is not given."""
    bucket_batches: NonNegativeInt = 50
    """Training batches are made of texts of similar length, within windows of so many batches; 0 for any length."""
    train_examples: PositiveInt | None = None
    """Train on so many examples only, drawn with `split.seed` from the training split, classes in equal shares."""


class ImagesConfig(BatchingConfig):
    """What sources of images have besides."""

    images: ImageConfig | None = None
    """The form in which the model sees images; what the chapter needs, or as they are, where it is not given."""
    augmentation: AugmentationConfig = AugmentationConfig()


class BuiltinConfig(TextConfig, ImagesConfig):
    """Data that ships with the packages this project needs: nothing to fetch."""

    source: Literal["builtin"]
    name: Literal["digits", "reviews_zh"]
    """`digits`: scikit-learn's 1,797 handwritten digits, 8 × 8 pixels, 10 classes. `reviews_zh`: 12,006 Chinese reviews
    of books, hotels, laptops and other things, `positive` or `negative`."""


class TfdsConfig(TextConfig, ImagesConfig):
    """A TensorFlow Datasets dataset, already prepared in `data_dir` unless `download` is set."""

    source: Literal["tfds"]
    name: str
    """The TFDS name, with configuration and version where wanted: `mnist`, `fashion_mnist:3.0.1`."""
    download: bool = False
    """Let TFDS download and prepare the dataset into `data_dir`. Nothing is ever downloaded otherwise."""
    train_split: str = "train"
    """The TFDS split to train on, in TFDS's own notation (`train`, `train[:10%]`)."""
    validation_split: str | None = None
    """The TFDS split to validate on; a share of the training split (`split.validation`) where it is not given."""
    test_split: str | None = "test"
    """The TFDS split to test on; null takes a share of the training split (`split.test`)."""
    label: str | None = None
    """The feature to predict; the one TFDS declares as supervised target where it is not given."""
    text: str | None = None
    """The feature that holds the texts that the model reads, where there are several features."""
    task: Literal["classification", "regression"] = "classification"
    normalization: Literal["none", "min_max", "z_score"] = "z_score"
    """For numeric features; images are scaled to 0 … 1."""
    normalize_target: bool = True
    """Regression: train on the target's z-score (predictions and metrics are in the target's own units)."""


class TableConfig(TextConfig):
    """A table with a header: CSV, TSV, JSON Lines or Parquet, by the file's suffix."""

    source: Literal["table"]
    path: str
    """The file to train on (and to split, where no other is given)."""
    validation_path: str | None = None
    """A file of the same columns to validate on."""
    test_path: str | None = None
    """A file of the same columns to test on."""
    label: str
    """The column to predict."""
    text: str | None = None
    """The column of texts that the model reads; the other columns are left alone then."""
    task: Literal["classification", "regression"] = "classification"
    numeric: list[str] | None = None
    """Numeric feature columns; where neither this nor `categorical` is given, every column that holds numbers only."""
    categorical: list[str] | None = None
    """Categorical feature columns, one-hot encoded; where neither list is given, every other column."""
    ignore: list[str] = []
    """Columns that are not features: identifiers, free text."""
    missing: Literal["refuse", "mean", "median", "most_frequent"] = "refuse"
    """Empty cells and NaN: refuse with row and column, or fill in from the training split. Mean and median fill
    numeric columns; a categorical column is filled with its most frequent value under all three."""
    normalization: Literal["none", "min_max", "z_score"] = "z_score"
    """Numeric columns: as they are, to 0 … 1, or to mean 0 and standard deviation 1, fitted on the training split."""
    normalize_target: bool = True
    """Regression: train on the target's z-score (predictions and metrics are in the target's own units)."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """The character between cells; by suffix (`,` for .csv, tab for .tsv) where it is not given."""
    encoding: Literal["utf-8", "gb18030"] = "utf-8"
    """The text's encoding; a byte-order mark is accepted in UTF-8."""


class ImageFolderConfig(ImagesConfig):
    """A folder of images, one sub-folder per class."""

    source: Literal["image_folder"]
    path: str
    """The folder, relative to `data_dir`: `train/`, and if there are any `validation/` and `test/`, with a sub-folder
    for each class in them; or the classes' sub-folders themselves, which are then divided by `split`."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """The sub-folders to use, in this order; all of them, sorted by name, where it is not given."""
    broken: Literal["refuse", "skip"] = "refuse"
    """Files that are no images, damaged or too large: an error that names them, or left out and counted."""
    train_examples: PositiveInt | None = None
    """Train on so many images only, drawn with `split.seed` from the training split, classes in equal shares."""
    cache_dir: LocalPath | None = None
    """Where the result of checking the images is kept, so that only changed files are checked again; `tfbigmodel` in
    the user's cache folder if null."""


class ShardsConfig(TextConfig, ImagesConfig):
    """Files of labelled examples that may be larger than memory: TFRecord, Parquet or ArrayRecord.

    `python -m pipelines.shards.write` makes such files of a table or a folder of images.
    """

    source: Literal["shards"]
    path: str
    """The file to train on, or a pattern such as `train-*.tfrecord`, relative to `data_dir`."""
    validation_path: str | None = None
    """A file or a pattern to validate on; a share of the training files' examples (`split.validation`, by a hash of
    each example's place, not stratified) where it is not given."""
    test_path: str | None = None
    """A file or a pattern to test on; a share of the training files' examples (`split.test`) where it is not given."""
    format: Literal["tfrecord", "parquet", "arrayrecord"] | None = None
    """What the files are; by their names' endings where it is not given. The records of TFRecord and ArrayRecord files
    are serialised `tf.train.Example`s, with one feature for each column."""
    label: str
    """The column to predict."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """The classes, in the order of their indices; whole-number labels are such indices then. Where it is not given,
    they are the training labels, sorted."""
    text: str | None = None
    """The column of texts that the model reads; the other columns are left alone then."""
    image: str | None = None
    """The column of encoded images that the model sees; the other columns are left alone then."""
    task: Literal["classification", "regression"] = "classification"
    numeric: list[str] | None = None
    """Numeric feature columns; where neither this nor `categorical` is given, every column of numbers."""
    categorical: list[str] | None = None
    """Categorical feature columns, one-hot encoded; where neither list is given, every column of texts."""
    ignore: list[str] = []
    """Columns that are not features: identifiers, free text."""
    missing: Literal["refuse", "mean", "median", "most_frequent"] = "refuse"
    """Missing values and NaN: as for a table. Median and most frequent number are those of 100,000 training examples at
    most."""
    normalization: Literal["none", "min_max", "z_score"] = "z_score"
    """Numeric columns: as they are, to 0 … 1, or to mean 0 and standard deviation 1, fitted on the training split."""
    normalize_target: bool = True
    """Regression: train on the target's z-score (predictions and metrics are in the target's own units)."""
    streams: PositiveInt | None = None
    """Parts of the training examples that every batch has an equal share of; each worker reads its own ones. Batches
    are the same for every number of replicas that divides it. 8, or the largest smaller number that divides
    `batch_size`, where it is not given."""
    shuffle_window: PositiveInt = 16_384
    """Training examples that are shuffled together, out of blocks that come in another order each epoch. Up to six
    times as many are in memory. Texts of similar length come together within it (unless `bucket_batches` is 0)."""
    vocabulary_examples: PositiveInt = 1_000_000
    """Training texts at most, evenly spread over the files, that a vocabulary is learned from."""
    cache_dir: LocalPath | None = None
    """Where the result of reading the files once (counts, classes, statistics, vocabulary) is kept, until a file
    changes; `tfbigmodel` in the user's cache folder if null."""


class CorpusPart(Section):
    """Files of documents."""

    path: str | None = None
    """A file or a pattern such as `news/*.txt`, relative to `data_dir`: text files, or tables with a text column."""
    builtin: Literal["reviews_zh"] | None = None
    """Shipped texts, in place of a path."""
    text: str | None = None
    """The column of a table that holds the documents."""
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    """What separates the documents of a text file: blank lines, line breaks, or nothing but the file's end."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """As for a table."""
    encoding: Literal["utf-8", "gb18030"] = "utf-8"
    """The text's encoding; a byte-order mark is accepted in UTF-8."""

    @model_validator(mode="after")
    def _one_place(self) -> "CorpusPart":
        if (self.path is None) == (self.builtin is None):
            raise ValueError("a part of a corpus has either a path or a builtin")
        return self


class KeepOut(Section):
    """Texts of another run's splits, which must not be in the corpus."""

    data: Annotated["BuiltinConfig | TableConfig", Field(discriminator="source")]
    """The other run's `data` section: what it holds out is found by dividing it in the same way."""
    splits: list[Literal["train", "validation", "test"]] = ["validation", "test"]
    """Its splits whose texts are kept out."""


class CorpusConfig(TextConfig):
    """Documents without labels, to learn the language from; may be larger than memory."""

    source: Literal["corpus"]
    parts: Annotated[list[CorpusPart], Field(min_length=1)]
    """Where the documents are."""
    task: Literal["masked_language_model", "language_model", "sequence_to_sequence"]
    """Guess masked tokens and whether a sentence follows another; the next token; or a document's second part, given
    its first."""
    keep_out: list[KeepOut] = []
    """Texts of other runs' splits: documents that are one of them are left out, and counted."""
    masking: MaskingConfig = MaskingConfig()
    cache_dir: LocalPath | None = None
    """Where the corpus is kept as numbers, by its content; `tfbigmodel` in the user's cache folder if null."""


DataConfig = Annotated[
    BuiltinConfig | TfdsConfig | TableConfig | ImageFolderConfig | ShardsConfig | CorpusConfig,
    Field(discriminator="source"),
]
