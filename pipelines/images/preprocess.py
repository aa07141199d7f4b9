"""Images as the model takes them: one size, one number of channels, values around or from 0 to 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import tensorflow as tf

from pipelines.data import PREPROCESSOR_FILE
from pipelines.files import write_json
from pipelines.images.decoding import Resize, decode_images

Normalization: TypeAlias = Literal["zero_to_one", "imagenet"]

# Mean and standard deviation of the colours of ImageNet's images, as all models trained on them have it.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class ImagePreprocessor(tf.Module):
    """Encoded images or pixels → `image`, float32 `(batch_size, height, width, channels)`.

    It is `pixels`, which decodes and resizes, and then `normalised`; training varies images between the two.

    Args:
        height: of the model's input, in pixels.
        width: of the model's input, in pixels.
        channels: 1 (greyscale) or 3 (red, green, blue).
        resize: what is done with images of other proportions; see `resize_images`.
        normalization: `zero_to_one`: pixels divided by 255; `imagenet`: then less ImageNet's mean, divided by its
            standard deviation.

    Raises:
        ValueError: an argument is none of those, or `imagenet` is to be used on greyscale.

    Example:
        >>> ImagePreprocessor(8, 8, 1)({"pixels": tf.zeros([2, 8, 8, 1], tf.uint8)})["image"].shape
        TensorShape([2, 8, 8, 1])
    """

    kind = "image"

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        resize: Resize = "stretch",
        normalization: Normalization = "zero_to_one",
    ) -> None:
        super().__init__(name="image_preprocessor")
        if not all(type(value) is int and value > 0 for value in (height, width, channels)):
            raise ValueError("height, width and channels must be positive whole numbers")
        if resize not in get_args(Resize):
            raise ValueError(f"resize must be one of {get_args(Resize)}, not {resize!r}")
        if normalization not in get_args(Normalization):
            raise ValueError(f"normalization must be one of {get_args(Normalization)}, not {normalization!r}")
        if normalization == "imagenet" and channels != 3:
            raise ValueError(f"normalization imagenet is for 3 channels, not {channels}")
        self.height = height
        self.width = width
        self.channels = channels
        self.resize: Resize = resize
        self.normalization: Normalization = normalization

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
        return {"image": self.normalised(self.pixels(raw))}

    def pixels(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The first part: `image` or `pixels` → float32 whole numbers 0 … 255 `(batch_size, height, width, channels)`.

        Raises:
            tf.errors.InvalidArgumentError: an image cannot be decoded or is too large; it names the element.
        """
        if set(raw) not in ({"image"}, {"pixels"}):
            raise ValueError(f'an image preprocessor takes "image" or "pixels", not {sorted(raw)}')
        (given,) = raw.values()
        pixels = given if "pixels" in raw else decode_images(given, *self.shape, self.resize)
        # A decoder traced for any number of images does not say how many these are.
        return tf.ensure_shape(tf.cast(pixels, tf.float32), [given.shape[0], *self.shape])

    def normalised(self, pixels: tf.Tensor) -> tf.Tensor:
        """The second part: pixels, float32 in 0 … 255 → the model's input, float32 of the same shape."""
        # Times the reciprocal: TensorFlow's optimiser would rewrite a division so, but only in some graphs, and what is
        # served must equal what was trained to the last bit. The mean is subtracted first, because a compiler may make
        # one operation of a product and a sum, which rounds once less.
        mean, factor = self._scaling()
        return pixels * (1 / 255) if self.normalization == "zero_to_one" else (pixels - mean) * factor

    def denormalised(self, image: tf.Tensor) -> tf.Tensor:
        """What the model sees, to be looked at: the model's input → uint8 pixels of the same shape."""
        mean, factor = self._scaling()
        return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32) / factor + mean), 0.0, 255.0), tf.uint8)

    def save(self, folder: Path) -> None:
        """Writes the configuration into `folder`."""
        config = {
            "kind": self.kind,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "resize": self.resize,
            "normalization": self.normalization,
        }
        write_json(Path(folder, PREPROCESSOR_FILE), config)

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "ImagePreprocessor":
        """The preprocessor whose `save` wrote `config` into `folder`; earlier versions wrote the size alone."""
        return cls(
            config["height"],
            config["width"],
            config["channels"],
            config.get("resize", "stretch"),
            config.get("normalization", "zero_to_one"),
        )

    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """The input is `(pixels - mean) * factor`: float32 `(channels,)` each."""
        if self.normalization == "zero_to_one":
            return np.zeros(self.channels, np.float32), np.full(self.channels, 1 / 255, np.float32)
        mean = np.array(_IMAGENET_MEAN) * 255
        return mean.astype(np.float32), (1 / (255 * np.array(_IMAGENET_DEVIATION))).astype(np.float32)
