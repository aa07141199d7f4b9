"""The `data` section of a run's configuration: where the examples are and how they become batches."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values are not changed after validation."""

    # `strict` keeps "64" from passing for 64 and 1 for true; the docstring under a field is its description in the
    # JSON schema, which editors show.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


Share = Annotated[float, Field(ge=0.0, lt=1.0)]


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


class BatchingConfig(Section):
    """What every source has: the batch, the order, the split, the place."""

    data_dir: Annotated[Path, Field(strict=False)] = Path(".")
    """The folder that relative paths (and TFDS names) are looked up in; relative to the current directory."""
    batch_size: PositiveInt = 64
    """Examples in one batch over all replicas and workers."""
    shuffle: bool = True
    """Show the training examples in another order each epoch."""
    shuffle_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Fixes the order of the training examples; `training.seed` where it is not given."""
    split: SplitConfig = SplitConfig()
    max_memory_gb: PositiveFloat = 4.0
    """Gibibytes that the examples held in memory may take; a larger dataset is refused with its size."""


class BuiltinConfig(BatchingConfig):
    """Data that ships with the packages this project needs: nothing to fetch."""

    source: Literal["builtin"]
    name: Literal["digits"]
    """`digits`: scikit-learn's 1,797 handwritten digits, 8 × 8 pixels, 10 classes."""


class TfdsConfig(BatchingConfig):
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
    task: Literal["classification", "regression"] = "classification"
    normalization: Literal["none", "min_max", "z_score"] = "z_score"
    """For numeric features; images are scaled to 0 … 1."""
    normalize_target: bool = True
    """Regression: train on the target's z-score (predictions and metrics are in the target's own units)."""


class TableConfig(BatchingConfig):
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


DataConfig = Annotated[BuiltinConfig | TfdsConfig | TableConfig, Field(discriminator="source")]
