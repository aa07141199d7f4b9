"""Images as the model takes them: one size, one number of channels, values from 0 to 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.data import PREPROCESSOR_FILE
from pipelines.files import write_json
from pipelines.images.decoding import decode_images


class ImagePreprocessor(tf.Module):
    """Encoded images or pixels → `image`, float32 `(batch_size, height, width, channels)` in 0 … 1.

    Args:
        height: of the model's input, in pixels.
        width: of the model's input, in pixels.
        channels: 1 (greyscale) or 3 (red, green, blue).

    Example:
        >>> ImagePreprocessor(8, 8, 1)({"pixels": tf.zeros([2, 8, 8, 1], tf.uint8)})["image"].shape
        TensorShape([2, 8, 8, 1])
    """

    kind = "image"

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__(name="image_preprocessor")
        self.height = height
        self.width = width
        self.channels = channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)`."""
        return self.height, self.width, self.channels

    @property
    def signatures(self) -> Mapping[str, Mapping[str, tf.TensorSpec]]:
        """`serving_default` takes encoded `image`s, `pixels` takes uint8 pixels of exactly the model's size."""
        return {
            "serving_default": {"image": tf.TensorSpec([None], tf.string, name="image")},
            "pixels": {"pixels": tf.TensorSpec([None, *self.shape], tf.uint8, name="pixels")},
        }

    @property
    def served_names(self) -> Mapping[str, str]:
        """Nothing: clients call the inputs what they are called here."""
        return {}

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Maps `image` (encoded bytes, `(batch_size,)`) or `pixels` (uint8) to the model's input.

        Raises:
            tf.errors.InvalidArgumentError: an image cannot be decoded or is too large; it names the element.
        """
        if set(raw) not in ({"image"}, {"pixels"}):
            raise ValueError(f'an image preprocessor takes "image" or "pixels", not {sorted(raw)}')
        pixels = raw["pixels"] if "pixels" in raw else decode_images(raw["image"], *self.shape)
        # Times the reciprocal: TensorFlow's optimiser would rewrite a division so, but only in some graphs, and what is
        # served must equal what was trained to the last bit.
        return {"image": tf.cast(pixels, tf.float32) * (1 / 255)}

    def save(self, folder: Path) -> None:
        """Writes the configuration into `folder`."""
        size = {"height": self.height, "width": self.width, "channels": self.channels}
        write_json(Path(folder, PREPROCESSOR_FILE), {"kind": self.kind, **size})

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "ImagePreprocessor":
        """The preprocessor whose `save` wrote `config` into `folder`."""
        size = [config[key] for key in ("height", "width", "channels")]
        if not all(type(value) is int and value > 0 for value in size):
            raise ValueError("height, width and channels must be positive whole numbers")
        return cls(*size)
