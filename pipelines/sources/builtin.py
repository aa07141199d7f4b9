"""Data that ships with this package, or with one that it needs anyway."""

from pathlib import Path

import numpy as np

from pipelines.config import BuiltinConfig
from pipelines.data import Data, Examples
from pipelines.errors import UserError
from pipelines.sources.arrays import fitted_pixels, image_data, image_preprocessor
from pipelines.sources.texts import TextRows, TextSource, refuse_text_options, text_data
from pipelines.splits import divide
from pipelines.tables.reading import read

REVIEWS = Path(__file__).parents[1] / "datasets" / "reviews_zh.csv"
"""The reviews of `builtin: reviews_zh`, columns text and label; their licence is beside them."""
_REVIEW_CLASSES = ("negative", "positive")


def load(config: BuiltinConfig) -> Data:
    """The data that `config.name` names, divided by `config.split`.

    Raises:
        UserError: an option does not fit the data.
    """
    return _digits(config) if config.name == "digits" else text_data(text_source(config), config)


def text_source(config: BuiltinConfig) -> TextSource:
    """12,006 Chinese reviews of books, hotels, laptops and other things."""
    table = read(REVIEWS)
    origin = f"builtin {config.name}"
    rows = TextRows(
        texts=table.cells("text"),
        labels=np.array(table.cells("label")).astype(np.int32),
        rows=np.arange(1, len(table) + 1),
        origin=origin,
        place=lambda index: f"{origin} row {index + 1}",
    )
    return TextSource({"train": rows}, "label", class_names=_REVIEW_CLASSES)


def _digits(config: BuiltinConfig) -> Data:
    """scikit-learn's 1,797 handwritten digits, in the configured form.

    The pixels, 0 … 16 in the original, become 0 … 255: rounded, and still 17 different values.
    """
    from sklearn.datasets import load_digits

    refuse_text_options(config, "builtin digits are images")
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    preprocess = image_preprocessor(pixels.shape[1:], config.images)
    size = len(pixels) * int(np.prod(preprocess.shape)) / 2**30
    if size > config.max_memory_gb:
        raise UserError(
            f"builtin digits of data.images.size {preprocess.height} take {size:.3g} GiB in memory, and "
            f"data.max_memory_gb is {config.max_memory_gb:g}; choose a smaller size, or raise the limit"
        )
    pixels = fitted_pixels(pixels, preprocess)
    labels = digits.target.astype(np.int32)
    origin = "builtin digits"
    class_names = tuple(str(name) for name in digits.target_names)
    division = divide(
        len(labels),
        config.split,
        origin=origin,
        classes=labels,
        class_names=class_names,
        train_examples=config.train_examples,
    )
    splits = {
        split: Examples({"pixels": pixels[index]}, labels[index], origin, index) for split, index in division.items()
    }
    return image_data(splits, class_names, "label", config, preprocess)
