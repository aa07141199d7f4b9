"""Data that ships with a package this project needs anyway."""

import numpy as np

from pipelines.config import BuiltinConfig
from pipelines.data import Data, Examples
from pipelines.sources.arrays import image_data
from pipelines.splits import divide


def load(config: BuiltinConfig) -> Data:
    """scikit-learn's 1,797 handwritten digits, divided by `config.split`.

    The pixels, 0 … 16 in the original, become 0 … 255: rounded, and still 17 different values.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    origin = "builtin digits"
    class_names = tuple(str(name) for name in digits.target_names)
    division = divide(len(labels), config.split, origin=origin, classes=labels, class_names=class_names)
    splits = {
        split: Examples({"pixels": pixels[index]}, labels[index], origin, index) for split, index in division.items()
    }
    return image_data(splits, class_names, "label", config)
