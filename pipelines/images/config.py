"""The `images` and `augmentation` sections: what a model sees of an image, and how training varies it."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from pipelines.section import Section

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PartOfOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class ImageConfig(Section):
    """The form in which a model sees images, in serving as in training."""

    size: Annotated[int, Field(ge=1, le=2048)] | None = None
    """Height and width in pixels that every image is brought to; as they are where it is not given, which takes images
    of one size."""
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    """How an image of other proportions becomes a square: stretched; its middle cut out; or whole, with black bars."""
    channels: Literal[1, 3] | None = None
    """Greyscale or red, green, blue; what the first image has where it is not given."""
    normalization: Literal["zero_to_one", "imagenet"] = "zero_to_one"
    """Pixels divided by 255; then, for `imagenet`, less the mean and divided by the standard deviation of ImageNet's
    colours (0.485, 0.456, 0.406 and 0.229, 0.224, 0.225)."""


class RandAugmentConfig(Section):
    """Some operations out of fourteen, of one strength (Cubuk et al., "RandAugment", 2020)."""

    num_ops: PositiveInt = 2
    """Operations that each image goes through, one after the other."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Their strength, from 0 (nothing) to 30 (the strongest)."""


class AugmentationConfig(Section):
    """How training images are varied, anew each epoch; nothing of it is done to images that are measured or served.

    In this order: one warp (flip, rotation, crop, zoom and translation together, with one interpolation),
    brightness, contrast, RandAugment, erasing; then mixup or cutmix of neighbours in the batch.
    """

    horizontal_flip: bool = False
    """Show every other image, at random, as in a mirror."""
    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Largest rotation in degrees, to either side."""
    crop_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Least share of the image's area that a random crop keeps (of proportions from 3:4 to 4:3), which then fills the
    image; 1 for no crop (Szegedy et al., "Going Deeper with Convolutions", 2015)."""
    zoom: PartOfOne = 0.0
    """Largest enlargement and reduction: 0.1 for a side of 0.9 to 1.1 times what it was."""
    translation: PartOfOne = 0.0
    """Largest shift in each direction as a share of the side; 0.125 is the usual 4 of 32 pixels."""
    brightness: PartOfOne = 0.0
    """Pixels times 1 ± this, at most."""
    contrast: PartOfOne = 0.0
    """Distance from the image's mean grey times 1 ± this, at most."""
    rand_augment: RandAugmentConfig | None = None
    random_erasing: Probability = 0.0
    """Share of images of which a rectangle, 2 to 33 % of the area, becomes noise (Zhong et al., "Random Erasing",
    2020)."""
    mixup: NonNegativeFloat = 0.0
    """Mix each image and its label with another of the batch, by shares drawn from Beta(this, this); 0.2 is usual, 0
    for none (Zhang et al., "mixup", 2018)."""
    cutmix: NonNegativeFloat = 0.0
    """Fill a rectangle with another image of the batch, its area by Beta(this, this); 1 is usual, 0 for none (Yun et
    al., "CutMix", 2019). With `mixup` too, each image goes through one of them, at random."""

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become shares of the classes, float32 `(batch_size, num_classes)`, in every split."""
        return self.mixup > 0 or self.cutmix > 0
