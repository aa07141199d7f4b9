"""From arrays of raw examples to `Data`: what all sources that read whole datasets into memory share."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipelines.batching import MemoryData
from pipelines.config import BatchingConfig, ImagesConfig
from pipelines.data import Data, DatasetInfo, Examples, ImageInfo, Preprocessor, Split, TextInfo
from pipelines.errors import UserError
from pipelines.images.config import AugmentationConfig, ImageConfig
from pipelines.images.decoding import resize_images, to_channels
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.labels import check_classes, target_scaling

# Images that are resized together: they take a few times their memory on the way.
_CHUNK = 64


def image_data(
    splits: Mapping[str, Examples],
    class_names: Sequence[str],
    label_name: str,
    config: BatchingConfig,
    preprocess: ImagePreprocessor | None = None,
    images: ImageInfo | None = None,
) -> Data:
    """`Data` of images.

    Args:
        splits: examples with `pixels`, uint8 `(num_examples, height, width, channels)`, or `image`, encoded.
        class_names: the classes in the order of their indices.
        label_name: the name of what is predicted.
        config: batches, and how training images are varied.
        preprocess: decodes and normalises; for `pixels` the size they have and the configured normalisation where it is
            None.
        images: what else is to be known of them.

    Raises:
        UserError: as `classification_data`.
    """
    if preprocess is None:
        options = config.images if isinstance(config, ImagesConfig) else None
        preprocess = image_preprocessor(splits["train"].features["pixels"].shape[1:], options)
    inputs = {"image": preprocess.shape}
    info = images or ImageInfo()
    return classification_data(splits, class_names, label_name, preprocess, inputs, config, images=info)


def image_preprocessor(shape: Sequence[int], options: ImageConfig | None) -> ImagePreprocessor:
    """The preprocessor for images.

    Args:
        shape: height, width and channels that they have; options that are set come before it.
        options: the configured form.

    Raises:
        UserError: ImageNet's normalisation is wanted for greyscale.
    """
    options = options or ImageConfig()
    height, width = (options.size, options.size) if options.size else shape[:2]
    channels = options.channels or shape[2]
    if options.normalization == "imagenet" and channels != 3:
        raise UserError(
            "data.images.normalization: imagenet is for three colours, and the images are greyscale; set "
            "data.images.channels: 3, or normalization: zero_to_one"
        )
    return ImagePreprocessor(int(height), int(width), int(channels), options.resize, options.normalization)


def fitted_pixels(pixels: np.ndarray, preprocess: ImagePreprocessor) -> np.ndarray:
    """Pixels as the preprocessor makes them of the same images in a file.

    Args:
        pixels: uint8 `(num_images, image_height, image_width, image_channels)`.
        preprocess: of the size and channels wanted.

    Returns:
        uint8 `(num_images, height, width, channels)`.
    """
    if pixels.shape[1:] == preprocess.shape:
        return pixels
    fitted = np.empty((len(pixels), *preprocess.shape), np.uint8)
    for start in range(0, len(pixels), _CHUNK):
        part = to_channels(tf.constant(pixels[start : start + _CHUNK]), preprocess.channels)
        if pixels.shape[1:3] != preprocess.shape[:2]:
            part = resize_images(part, preprocess.height, preprocess.width, preprocess.resize)
        fitted[start : start + _CHUNK] = part
    return fitted


def refuse_image_options(config: BatchingConfig, what: str) -> None:
    """Refuses options about images for data of another kind.

    Args:
        config: of the source.
        what: the data, for the message.

    Raises:
        UserError: such an option is set.
    """
    if not isinstance(config, ImagesConfig):
        return
    for name, is_set in (
        ("images", config.images is not None),
        ("augmentation", config.augmentation != AugmentationConfig()),
    ):
        if is_set:
            raise UserError(f"data.{name} is for images, and {what}; remove it")


def classification_data(
    splits: Mapping[str, Examples],
    class_names: Sequence[str],
    label_name: str,
    preprocess: Preprocessor,
    inputs: Mapping[str, tuple[int | None, ...]],
    config: BatchingConfig,
    text: TextInfo | None = None,
    lengths: np.ndarray | None = None,
    images: ImageInfo | None = None,
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
        images=images,
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
