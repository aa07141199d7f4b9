"""What is shown of images: what a model sees in training, and what it gets wrong.

For other data there is nothing to show, and these functions answer with nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipelines.data import Data, DatasetInfo, Examples, Preprocessor
from pipelines.images.files import ImageFiles
from pipelines.images.preprocess import ImagePreprocessor
from tfbigmodel.config import RunConfig
from tfbigmodel.evaluation.errors import worst_errors
from tfbigmodel.evaluation.figures import confusion_matrix_image, image_grid, shown_names
from tfbigmodel.measuring import SplitResults, taken

_GRID_IMAGES = 25
_THUMBNAIL_SIDE = 96
# Of mixed images two classes have a share; more would not fit below one.
_CAPTION_CLASSES = 2


def image_paths(examples: Examples) -> list[str] | None:
    """The files that the examples' images are in; None where they are not read from files, or are no images."""
    values = examples.features.get("image")
    return values.paths if isinstance(values, ImageFiles) else None


def with_errors(examples: Examples, errors: Sequence[Mapping[str, Any]]) -> Examples:
    """The examples that errors are about, in their order.

    Args:
        examples: what was measured on.
        errors: what `worst_errors` found in them.
    """
    places = {row: index for index, row in enumerate(np.asarray(examples.rows).tolist())}
    return taken(examples, np.array([places[error["row"]] for error in errors], np.int64))


def inputs_grid(data: Data) -> NDArray[np.uint8] | None:
    """The first images of the first training batch, augmented as the model sees them, with their labels.

    Args:
        data: the splits.

    Returns:
        RGB pixels, `(height, width, 3)`; None where the data is not about images.
    """
    if not isinstance(data.preprocess, ImagePreprocessor):
        return None
    features, labels = next(iter(data.train().take(1)))[:2]
    images = data.preprocess.denormalised(features["image"][:_GRID_IMAGES]).numpy()
    return image_grid(list(images), _label_captions(labels[:_GRID_IMAGES].numpy(), data.info))


def split_figures(results: SplitResults, data: Data, config: RunConfig) -> dict[str, NDArray[np.uint8]]:
    """What TensorBoard shows of a split that was measured.

    Args:
        results: of `measure_split`.
        data: the splits.
        config: the run's configuration.

    Returns:
        `confusion_matrix` for a classification, `worst_errors` where there are any of images: RGB pixels, `(height,
        width, 3)`.
    """
    info, preprocess = data.info, data.preprocess
    figures = {}
    if "confusion_matrix" in results.metrics:
        figures["confusion_matrix"] = confusion_matrix_image(results.metrics["confusion_matrix"], info.class_names)
    examples = results.examples
    if examples is not None and results.predictions is not None and isinstance(preprocess, ImagePreprocessor):
        limit = min(config.evaluation.worst_errors, _GRID_IMAGES)
        errors = worst_errors(
            examples.labels, results.predictions, info.class_names, examples.origin, examples.rows, limit,
            config.evaluation.threshold,
        )  # fmt: skip
        if errors:
            images = _pixels(preprocess, with_errors(examples, errors)).numpy()
            figures["worst_errors"] = image_grid(list(images), _error_captions(errors, info))
    return figures


def thumbnails(
    preprocess: Preprocessor, examples: Examples, errors: Sequence[Mapping[str, Any]]
) -> list[NDArray[np.uint8]]:
    """Small pictures of the images that errors are about.

    Args:
        preprocess: the run's preprocessor.
        examples: what was measured on.
        errors: what `worst_errors` found in them.

    Returns:
        For each error uint8 pixels of the model's input, `(height, width, channels)`, shrunk to at most 96 a side; none
        where the data is not about images.
    """
    if not errors or not isinstance(preprocess, ImagePreprocessor):
        return []
    images = tf.cast(_pixels(preprocess, with_errors(examples, errors)), tf.float32)
    scale = min(1.0, _THUMBNAIL_SIDE / max(preprocess.height, preprocess.width))
    if scale < 1.0:
        size = [max(1, round(side * scale)) for side in (preprocess.height, preprocess.width)]
        images = tf.image.resize(images, size, tf.image.ResizeMethod.AREA)
    return list(tf.cast(tf.round(images), tf.uint8).numpy())


def _pixels(preprocess: ImagePreprocessor, examples: Examples) -> tf.Tensor:
    raw = {name: tf.constant(values) for name, values in examples.features.items()}
    return tf.cast(preprocess.pixels(raw), tf.uint8)


def _label_captions(labels: NDArray[Any], info: DatasetInfo) -> list[str]:
    if info.task != "classification":
        return [f"{label * info.target_scale + info.target_mean:.4g}" for label in labels]
    names = shown_names(info.class_names)
    if labels.ndim == 1:
        return [names[label] for label in labels]
    largest = np.argsort(-labels, axis=1, kind="stable")[:, :_CAPTION_CLASSES]
    return [
        "\n".join(f"{names[index]} {shares[index]:.2f}" for index in indices if shares[index] > 0)
        for shares, indices in zip(labels, largest, strict=True)
    ]


def _error_captions(errors: Sequence[Mapping[str, Any]], info: DatasetInfo) -> list[str]:
    if info.task != "classification":
        return [f"true: {error['target']:.4g}\npredicted: {error['prediction']:.4g}" for error in errors]
    names = dict(zip(info.class_names, shown_names(info.class_names), strict=True))
    return [
        f"true: {names[error['label']]} ({error['probability_label']:.2f})\n"
        f"predicted: {names[error['predicted']]} ({error['probability_predicted']:.2f})"
        for error in errors
    ]
