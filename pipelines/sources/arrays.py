"""From arrays of raw examples to `Data`: what all sources that read whole datasets into memory share."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.batching import MemoryData
from pipelines.config import BatchingConfig
from pipelines.data import Data, DatasetInfo, Examples, Preprocessor, Split, TextInfo
from pipelines.errors import UserError
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.labels import check_classes, target_scaling


def image_data(
    splits: Mapping[str, Examples], class_names: Sequence[str], label_name: str, config: BatchingConfig
) -> Data:
    """`Data` of images that are held as `pixels`, uint8 `(num_examples, height, width, channels)`."""
    height, width, channels = splits["train"].features["pixels"].shape[1:]
    preprocess = ImagePreprocessor(height, width, channels)
    return classification_data(splits, class_names, label_name, preprocess, {"image": preprocess.shape}, config)


def classification_data(
    splits: Mapping[str, Examples],
    class_names: Sequence[str],
    label_name: str,
    preprocess: Preprocessor,
    inputs: Mapping[str, tuple[int | None, ...]],
    config: BatchingConfig,
    text: TextInfo | None = None,
    lengths: np.ndarray | None = None,
) -> Data:
    """`Data` whose labels are class indices; with `text`, of texts, whose training examples have these `lengths`.

    Raises:
        UserError: training has fewer than two classes, or another split has a class that training has not.
    """
    class_counts = np.bincount(splits["train"].labels, minlength=len(class_names))
    check_classes(class_counts, class_names, origin=splits["train"].origin, label_name=label_name)
    for split, examples in splits.items():
        unseen = np.flatnonzero(class_counts[examples.labels] == 0)
        if len(unseen):
            place = unseen[0]
            raise UserError(
                f"{examples.origin} row {examples.rows[place]}: the {split} split has label "
                f'"{class_names[examples.labels[place]]}", of which there is no training example'
            )
    info = DatasetInfo(
        task="classification",
        inputs=inputs,
        input_dtypes=dict.fromkeys(inputs, "int32" if text else "float32"),
        counts={},
        class_names=tuple(class_names),
        class_counts=tuple(int(count) for count in class_counts),
        label_name=label_name,
        text=text,
    )
    return MemoryData(info, preprocess, _typed(splits), config, lengths)


def regression_data(
    splits: Mapping[str, Examples],
    label_name: str,
    preprocess: Preprocessor,
    inputs: Mapping[str, tuple[int | None, ...]],
    normalize_target: bool,
    config: BatchingConfig,
    text: TextInfo | None = None,
    lengths: np.ndarray | None = None,
) -> Data:
    """`Data` whose labels are numbers; with `text`, of texts, whose training examples have these `lengths`."""
    mean, scale = target_scaling(splits["train"].labels, normalize_target)
    info = DatasetInfo(
        task="regression",
        inputs=inputs,
        input_dtypes=dict.fromkeys(inputs, "int32" if text else "float32"),
        counts={},
        label_name=label_name,
        target_mean=mean,
        target_scale=scale,
        text=text,
    )
    return MemoryData(info, preprocess, _typed(splits), config, lengths)


def _typed(splits: Mapping[str, Examples]) -> dict[Split, Examples]:
    return {"train": splits["train"], "validation": splits["validation"], "test": splits["test"]}
