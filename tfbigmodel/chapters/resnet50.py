"""The resnet50 chapter: a residual network of 50 layers with a new head, from scratch or fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from pipelines.config import ImagesConfig
from pipelines.errors import UserError
from pipelines.images.config import ImageConfig
from pipelines.remote import is_remote, local
from pipelines.section import Section
from tfbigmodel.chapters.hub import import_keras_hub, seeded_layers
from tfbigmodel.chapters.resnet_presets import absolute_preset, check_normalization, load_weights

if TYPE_CHECKING:
    import keras

    from pipelines.data import DatasetInfo
    from tfbigmodel.config import RunConfig
    from tfbigmodel.tasks import Task

# KerasHub's arguments for ResNet50 in the v1.5 layout, whose 3 × 3 convolutions have the strides.
ARCHITECTURE: dict[str, Any] = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [3, 4, 6, 3],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "bottleneck_block",
    "use_pre_activation": False,
}
NUM_STAGES = 4
# Height and width that the network can make smallest: each stem and stage halves them.
_LEAST_SIZE = {"imagenet": 32, "small_image": 8}
_USUAL_SIZE = {"imagenet": 224, "small_image": 32}


class ResNet50Config(Section):
    """Where the network's weights come from, and its two ends."""

    chapter: Literal["resnet50"]
    preset: str | None = None
    """A Keras preset folder, a timm folder, the workdir of another resnet50 run, or a preset's name such as
    `resnet_50_imagenet`, which must have been downloaded before unless `download` is set; random weights where it is
    not given."""
    download: bool = False
    """Let KerasHub download a preset that is given by name. Nothing is ever downloaded otherwise."""
    stem: Literal["imagenet", "small_image"] = "imagenet"
    """The first layers: 7 × 7 with stride 2 and pooling, which make an image of 224 × 224 one of 56 × 56; or 3 × 3 with
    stride 1 and no pooling, for images of 32 × 32 such as CIFAR's."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the pooled features set to zero before the head in training."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each training label that is spread evenly over all classes; 0.1 is usual."""
    top_k: PositiveInt = 5
    """How many of the likeliest classes an answer names."""


def prefers_xla(config: ResNet50Config) -> bool:
    """No: on the CPU the convolutions are oneDNN's, which XLA does not call."""
    return False


def resolve(config: RunConfig) -> RunConfig:
    """Fills in the form of the images that the network reads, and makes the preset's path absolute.

    Raises:
        UserError: the data has no images, or they are brought to a form that the network cannot read.
    """
    model, data = config.model, config.data
    assert isinstance(model, ResNet50Config)
    if not isinstance(data, ImagesConfig):
        raise UserError(
            f"model.chapter: resnet50 reads images, and data.source: {data.source} has none; use image_folder, tfds or "
            "builtin digits"
        )
    given = data.images or ImageConfig()
    wanted: dict[str, Any] = {"size": _USUAL_SIZE[model.stem], "channels": 3, "normalization": "imagenet"}
    images = ImageConfig.model_validate({**wanted, **given.model_dump(exclude_unset=True, exclude_none=True)})
    if images.channels != 3:
        raise UserError(
            f"data.images.channels: resnet50 reads 3 (red, green, blue), received {images.channels}; leave it out: "
            "greyscale images become 3 equal ones"
        )
    least = _LEAST_SIZE[model.stem]
    if images.size is not None and images.size < least:
        raise UserError(
            f"data.images.size: resnet50 with model.stem: {model.stem} reads images from {least} pixels on, received "
            f"{images.size}" + ("; use model.stem: small_image" if model.stem == "imagenet" else "")
        )
    if model.preset is not None:
        model = model.model_copy(update={"preset": absolute_preset(model.preset, model.download)})
        # A remote preset is fetched here once only: a workdir's configuration has the normalisation filled in.
        if not is_remote(model.preset) or "normalization" not in given.model_fields_set:
            check_normalization(local(model.preset or ""), images.normalization)
    return config.model_copy(update={"data": data.model_copy(update={"images": images}), "model": model})


def task(config: ResNet50Config, info: DatasetInfo) -> Task:
    """Classification of images.

    Raises:
        UserError: the data has no classes, or no images.
    """
    from tfbigmodel.tasks.classification import Classification

    if info.task != "classification" or set(info.inputs) != {"image"}:
        what = "texts" if info.text is not None else ", ".join(info.inputs)
        raise UserError(
            f"model.chapter: resnet50 sorts images into classes, and this data is {info.task} of {what}; choose "
            "another chapter"
        )
    return Classification(info.class_names, label_smoothing=config.label_smoothing, top_k=config.top_k)


def build(config: ResNet50Config, info: DatasetInfo, dtype: str, seed: int) -> keras.Model:
    """Builds the network, with random weights.

    Args:
        config: the `model` section.
        info: the data's image size and classes.
        dtype: the Keras dtype policy of the layers, such as `mixed_bfloat16`; pooled features and logits are float32.
        seed: fixes initial weights and dropout.

    Returns:
        A functional model from `image`, normalised float32 `(batch_size, height, width, 3)`, to logits
        `(batch_size, num_classes)`. Its layer `backbone` has KerasHub's layers, by KerasHub's names.

    Raises:
        UserError: the images are too small, or not of three channels.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2016; the layout is "v1.5" of NVIDIA and torchvision.
    """
    import keras

    height, width, channels = info.inputs["image"]
    if channels != 3 or min(height or 0, width or 0) < _LEAST_SIZE[config.stem]:
        raise UserError(
            f"resnet50 with model.stem: {config.stem} reads images of 3 channels from {_LEAST_SIZE[config.stem]} "
            f"pixels on, and the data's are {height} × {width} × {channels}; set data.images"
        )
    image = keras.Input((height, width, 3), name="image")
    x = _backbone(config, dtype, seed)(image)
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(x)
    if config.dropout:
        x = keras.layers.Dropout(config.dropout, seed=seed + 1, dtype="float32", name="dropout")(x)
    initializer = keras.initializers.GlorotUniform(seed=seed + 2)
    outputs = keras.layers.Dense(info.num_classes, kernel_initializer=initializer, dtype="float32", name="logits")(x)
    return keras.Model({"image": image}, outputs, name="resnet50")


def load_pretrained(model: keras.Model, config: ResNet50Config, info: DatasetInfo) -> str:
    """Gives the network its preset's weights, if it has a preset; the head stays new.

    Args:
        model: what `build` made.
        config: the `model` section.
        info: not used: the head is new whatever the classes.

    Returns:
        One line that says what was loaded; nothing without a preset.

    Raises:
        UserError: the preset is missing, damaged, or another network's.
    """
    return "" if config.preset is None else load_weights(model.get_layer("backbone"), config)


def set_trainable(model: keras.Model, part: str | int) -> None:
    """Freezes the network but for a part of it.

    A frozen layer's weights do not change; batch normalisation that is frozen uses its moving statistics, and does not
    move them.

    Args:
        model: what `build` made.
        part: `head`; the head and so many of the last stages; or `all`.

    Raises:
        UserError: there are not so many stages.
    """
    if isinstance(part, int) and part > NUM_STAGES:
        raise UserError(
            f"training.phases: resnet50 has {NUM_STAGES} stages, received train: {part}; use 1 to {NUM_STAGES}, or all"
        )
    first = {"head": NUM_STAGES, "all": -1}[part] if isinstance(part, str) else NUM_STAGES - part
    for layer, stage in _stages(model.get_layer("backbone")):
        layer.trainable = stage >= first


def _stages(backbone: keras.Model) -> Iterator[tuple[keras.layers.Layer, int]]:
    """Each layer with the stage that it is in, from 0; -1 for the stem."""
    import keras

    for layer in backbone.layers:
        if isinstance(layer, keras.Model):  # all that follows a stem of our own
            yield from _stages(layer)
        else:
            name = layer.name
            yield layer, int(name.removeprefix("stack").partition("_")[0]) if name.startswith("stack") else -1


def _backbone(config: ResNet50Config, dtype: str, seed: int) -> keras.Model:
    """KerasHub's network with batch normalisation in one operation, and with the stem that is asked for."""
    import keras

    from tfbigmodel.layers.batch_normalization import FusedBatchNormalization

    hub = import_keras_hub(texts=False)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return FusedBatchNormalization(layer.momentum, layer.epsilon, dtype=dtype, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    with seeded_layers(seed):  # a clone draws its seeds anew
        source = hub.models.ResNetBackbone(**ARCHITECTURE, dtype=dtype)
        # KerasHub's stem cannot be chosen; what comes after it is the same for both.
        first = source.inputs[0] if config.stem == "imagenet" else source.get_layer("pool1_pool").output
        stages = keras.models.clone_model(keras.Model(first, source.outputs[0]), clone_function=clone)
    if config.stem == "imagenet":
        stages.name = "backbone"
        return stages
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(
        64, 3, padding="same", use_bias=False, kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 3),
        dtype=dtype, name="conv1_conv",
    )(image)  # fmt: skip
    x = FusedBatchNormalization(0.9, 1e-5, dtype=dtype, name="conv1_bn")(x)
    x = keras.layers.Activation("relu", dtype=dtype, name="conv1_relu")(x)
    return keras.Model(image, stages(x), name="backbone")
