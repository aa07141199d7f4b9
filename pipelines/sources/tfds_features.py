"""What of a TFDS dataset can be learned from: one image, one text, or numbers and classes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from pipelines.config import TfdsConfig
from pipelines.errors import UserError
from pipelines.images.config import ImageConfig
from pipelines.names import did_you_mean, listing

_USABLE = (
    "usable are one uint8 image, one text (data.text names it where there are other features), or scalars and vectors "
    "of numbers and classes"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a dataset's features become inputs and label.

    Attributes:
        dataset: its full name, with version, for messages.
        features: the input features.
        image: the name of the image feature; None where there is none.
        image_shape: the height, width and channels that the model sees; None where there is no image.
        encoded: whether images are held as they are stored and decoded for each batch, because they have different
            sizes, or would take more memory than that as pixels.
        text: the name of the text feature; None where there is none.
        categories: the input features that are classes, with the classes' names.
        label: the feature to predict.
        class_names: the label's names as TFDS declares them; empty where it declares none.
        task: `classification` or `regression`.
        bytes_per_example: that an example takes in memory.
    """

    dataset: str
    features: tuple[str, ...]
    image: str | None
    image_shape: tuple[int, int, int] | None
    encoded: bool
    text: str | None
    categories: Mapping[str, tuple[str, ...]]
    label: str
    class_names: tuple[str, ...]
    task: Literal["classification", "regression"]
    bytes_per_example: int


def plan(info: Any, config: TfdsConfig) -> Plan:
    """Decides what the inputs and the label are.

    Args:
        info: the dataset's `tfds.core.DatasetInfo`.
        config: the run's configuration.

    Raises:
        UserError: a feature cannot be used; the message has its name and kind, and says what can be used.
    """
    import tensorflow_datasets as tfds

    dataset = f"tfds {info.full_name}"
    if not isinstance(info.features, tfds.features.FeaturesDict):
        raise UserError(f"{dataset} has no named features; {_USABLE}")
    features = dict(info.features.items())
    inputs, label = _roles(info, features, config, dataset)
    class_names = _label_names(features[label], label, config, dataset)
    images = [name for name in inputs if isinstance(features[name], tfds.features.Image)]
    texts = [name for name in inputs if isinstance(features[name], tfds.features.Text)]
    if len(texts) > 1:
        raise UserError(f"{dataset} has the texts {listing(texts)}; set data.text to the one to learn from")
    for name in inputs:
        if not _is_usable(features[name], alone=len(inputs) == 1):
            raise UserError(f"{dataset}: feature {name} ({_kind(features[name])}) cannot be used; {_USABLE}")
    categories = {
        name: tuple(features[name].names) for name in inputs if isinstance(features[name], tfds.features.ClassLabel)
    }
    if images and config.task == "regression":
        raise UserError(f"{dataset}: data.task: regression works on numbers, and {images[0]} is an image")
    shape, encoded = _image_form(features[images[0]], images[0], config, dataset) if images else (None, False)
    # How long texts and files are is known when they have been read.
    if shape is None:
        sizes = [int(np.prod(features[name].shape)) * 4 for name in inputs]
    else:
        sizes = [0 if encoded else int(np.prod(shape))]
    return Plan(
        dataset=dataset,
        features=inputs,
        image=images[0] if images else None,
        image_shape=shape,
        encoded=encoded,
        text=texts[0] if texts else None,
        categories=categories,
        label=label,
        class_names=class_names,
        task=config.task,
        bytes_per_example=sum(sizes) + 4,
    )


def _roles(info: Any, features: Mapping[str, Any], config: TfdsConfig, dataset: str) -> tuple[tuple[str, ...], str]:
    """Input features and label: as TFDS declares them, or all others beside the label that the user names."""
    import tensorflow_datasets as tfds

    declared = info.supervised_keys
    if config.label is not None and config.label not in features:
        raise UserError(
            f'{dataset} has no feature "{config.label}" (data.label); {did_you_mean(config.label, features)}'
        )
    if declared is None and config.label is None:
        raise UserError(f"{dataset} declares no label; set data.label to one of its features: {listing(features)}")
    label = config.label
    inputs = tuple(name for name in features if name != label)
    images = [name for name in inputs if isinstance(features[name], tfds.features.Image)]
    if len(images) == 1:  # beside it stand a file's name, boxes, and the like
        inputs = (images[0],)
    if declared is not None and (label is None or label == declared[1]):
        label = declared[1]
        inputs = tuple(_leaves(declared[0]))
    if config.text is not None:
        inputs = (_text_feature(features, config.text, dataset),)
        if config.text == label:
            raise UserError(f'data.text and the label are both "{label}"; a text cannot be its own label')
    if not isinstance(label, str) or label not in features or not set(inputs) <= set(features):
        raise UserError(f"{dataset} declares a label that is no feature; set data.label to one of {listing(features)}")
    if not inputs:
        raise UserError(f"{dataset} has no feature beside the label {label}")
    return inputs, label


def _image_form(feature: Any, name: str, config: TfdsConfig, dataset: str) -> tuple[tuple[int, int, int], bool]:
    """The shape that the model sees, and whether images are held encoded."""
    options = config.images or ImageConfig()
    height, width, stored_channels = feature.shape
    fixed = None not in (height, width)
    if options.size is None and not fixed:
        raise UserError(
            f"{dataset}: the images of feature {name} have different sizes, and a model needs one; set "
            "data.images.size, such as 224"
        )
    # What is neither greyscale nor colour is colour with transparency, or not known.
    known = stored_channels in (1, 3)
    channels = options.channels or (stored_channels if known else 3)
    if options.size is None:
        return (height, width, channels), not known
    return (options.size, options.size, channels), not fixed or not known or options.size**2 > height * width


def _text_feature(features: Mapping[str, Any], name: str, dataset: str) -> str:
    import tensorflow_datasets as tfds

    if name not in features:
        raise UserError(f'{dataset} has no feature "{name}" (data.text); {did_you_mean(name, features)}')
    if not isinstance(features[name], tfds.features.Text):
        texts = [other for other, feature in features.items() if isinstance(feature, tfds.features.Text)]
        raise UserError(
            f"{dataset}: feature {name} (data.text; {_kind(features[name])}) is no text; texts are {listing(texts)}"
        )
    return name


def _leaves(keys: Any) -> list[str]:
    if isinstance(keys, str):
        return [keys]
    values = keys.values() if isinstance(keys, Mapping) else keys
    return [leaf for value in values for leaf in _leaves(value)]


def _label_names(feature: Any, label: str, config: TfdsConfig, dataset: str) -> tuple[str, ...]:
    import tensorflow_datasets as tfds

    is_class = isinstance(feature, tfds.features.ClassLabel)
    is_number = not is_class and _is_number(feature) and feature.shape == ()
    whole = is_number and not np.issubdtype(feature.np_dtype, np.floating)
    if config.task == "regression":
        if not is_number:
            raise UserError(
                f"{dataset}: label {label} ({_kind(feature)}) is no number; data.task: regression needs one"
            )
        return ()
    if is_class:
        return tuple(feature.names)
    if not whole:
        raise UserError(
            f"{dataset}: label {label} ({_kind(feature)}) is neither a class nor a whole number; set data.task: "
            "regression if it is a number, or data.label to another feature"
        )
    return ()


def _is_usable(feature: Any, alone: bool) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Text):
        return alone
    if isinstance(feature, tfds.features.Image):
        return alone and feature.np_dtype == np.uint8
    if isinstance(feature, tfds.features.ClassLabel):
        return True
    return _is_number(feature) and len(feature.shape) <= 1 and None not in feature.shape


def _is_number(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    # Exactly these kinds: text, sound, boxes and sequences are tensors too, and mean something else.
    if type(feature) not in (tfds.features.Scalar, tfds.features.Tensor):
        return False
    dtype = np.dtype(feature.np_dtype)
    return np.issubdtype(dtype, np.number) or np.issubdtype(dtype, np.bool_)


def _kind(feature: Any) -> str:
    return f"{type(feature).__name__} of shape {tuple(feature.shape)}" if hasattr(feature, "shape") else "nested"
