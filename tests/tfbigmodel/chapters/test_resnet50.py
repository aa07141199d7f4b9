"""ResNet50: its architecture, its ends, its parts, and what it says of data it cannot read."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from pipelines.data import TextInfo
from pipelines.errors import UserError
from tfbigmodel.chapters import resnet50
from tfbigmodel.chapters.resnet50 import ResNet50Config
from tfbigmodel.config import validate_config
from tfbigmodel.model import fill_in_preset, make_task


def chapter(**values):
    return ResNet50Config(chapter="resnet50", **values)


@pytest.fixture(scope="module")
def model(image_info):
    """For ImageNet: 1,000 classes; images of 64 × 64 are as good, and cheaper."""
    return resnet50.build(chapter(), image_info(64, 1000), dtype="float32", seed=1)


@pytest.fixture(scope="module")
def small_model(image_info):
    """For images of 32 × 32."""
    return resnet50.build(chapter(stem="small_image"), image_info(32), dtype="float32", seed=1)


def images(size):
    return {"image": np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)}


def copy_weights(source, target):
    """By path: a model's weights are those of its parts."""
    arrays = {variable.path: variable.numpy() for variable in source.weights}
    for variable in target.weights:
        if variable.path in arrays:
            variable.assign(arrays[variable.path])


def all_layers(model):
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def message_of(function, *arguments, **keywords):
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_it_has_as_many_parameters_as_torchvisions(model):
    assert sum(v.value.shape.num_elements() for v in model.trainable_variables) == 25_557_032
    assert model.output_shape == (None, 1000)


def test_outputs_are_those_of_keras_hub(model, plain_resnet):
    reference = keras_hub.models.ResNetImageClassifier(plain_resnet, num_classes=1000, pooling="avg")
    copy_weights(plain_resnet, model)
    head = reference.output_dense
    head.set_weights(model.get_layer("logits").get_weights())
    assert {v.path for v in model.get_layer("backbone").weights} == {v.path for v in plain_resnet.weights}
    expected = reference(images(64)["image"]).numpy()
    np.testing.assert_allclose(model(images(64)), expected, atol=1e-5 * np.abs(expected).max())


def test_the_layout_is_v1_5(model, small_model):
    """The 3 × 3 convolution of a stage's first block has the stride, and the shortcut; the 1 × 1 before it has none."""
    for each, stem in ((model, (2, 2)), (small_model, (1, 1))):
        strides = {layer.name: layer.strides for layer in all_layers(each) if isinstance(layer, keras.layers.Conv2D)}
        assert len(strides) == 53
        striding = {name for name, stride in strides.items() if stride == (2, 2)} - {"conv1_conv"}
        assert striding == {f"stack{stage}_block0_{number}_conv" for stage in (1, 2, 3) for number in (0, 2)}
        assert strides["conv1_conv"] == stem


def test_small_images_stay_large(small_model):
    layers = {layer.name: layer for layer in all_layers(small_model)}
    assert not any("pool1" in name for name in layers)
    assert layers["conv1_conv"].kernel.shape == (3, 3, 3, 64)
    assert small_model.get_layer("backbone").layers[-1].compute_output_shape((2, 32, 32, 64)) == (2, 4, 4, 2048)
    x, sides = images(32)["image"], []
    for layer in small_model.get_layer("backbone").layers[1:-1]:
        x = layer(x)
    assert x.shape == (2, 32, 32, 64)
    stages = small_model.get_layer("backbone").layers[-1]
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
        end = next(layer for layer in stages.layers if layer.name == f"stack{stage}_block{num_blocks - 1}_out")
        sides.append(keras.Model(stages.inputs, end.output)(x).shape[1])
    assert sides == [32, 16, 8, 4]


def test_the_largest_image_is_not_the_only_one(small_model):
    assert small_model.get_layer("backbone")(images(8)["image"]).shape == (2, 1, 1, 2048)


def test_seeds_fix_all_weights_and_are_all_different(small_model, image_info):
    keras.utils.set_random_seed(99)  # of the process, which must not matter
    config, info = chapter(stem="small_image"), image_info(32)
    again, other = (resnet50.build(config, info, dtype="float32", seed=seed) for seed in (1, 2))
    kernels = []
    for weight, same, different in zip(small_model.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), same.numpy(), err_msg=weight.path)
        if weight.path.endswith("kernel"):
            assert not np.array_equal(weight.numpy(), different.numpy()), weight.path
            kernels.append(weight.numpy().ravel()[:64].tobytes())
    assert len(set(kernels)) == len(kernels) == 54, "two layers started alike"


def test_dropout_is_before_the_head(image_info, small_model):
    model = resnet50.build(chapter(stem="small_image", dropout=0.5), image_info(32), dtype="float32", seed=1)
    assert [layer.name for layer in model.layers[-3:]] == ["pooled", "dropout", "logits"]
    assert model.get_layer("dropout").rate == 0.5
    np.testing.assert_array_equal(model(images(32)), small_model(images(32)))


@pytest.mark.parametrize("stem", ["imagenet", "small_image"])
def test_bfloat16_is_close_to_float32(stem, model, small_model, image_info):
    exact, size = (model, 64) if stem == "imagenet" else (small_model, 32)
    half = resnet50.build(chapter(stem=stem), image_info(size, exact.output_shape[-1]), dtype="mixed_bfloat16", seed=3)
    assert {v.dtype for v in half.weights} == {"float32"}
    computing = {layer.compute_dtype for layer in all_layers(half) if layer.name.startswith(("conv1", "stack"))}
    assert computing == {"bfloat16"}
    copy_weights(exact, half)
    outputs, expected = half(images(size)), exact(images(size)).numpy()
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, expected, atol=0.05 * np.abs(expected).max())


def parts(model):
    """Which stages (`head`, 0 … 3, `stem`) have trainable weights, and which have frozen ones."""

    def part(path):
        return "head" if path.startswith("logits") else "stem" if path.startswith("conv1") else int(path[5])

    trainable = {part(v.path) for v in model.trainable_variables}
    names = ("gamma", "beta", "kernel", "bias")
    frozen = {part(v.path) for v in model.non_trainable_variables if v.path.endswith(names)}
    return trainable, frozen


@pytest.mark.parametrize("stem", ["imagenet", "small_image"])
def test_parts_freeze_what_they_say(stem, model, small_model):
    each = model if stem == "imagenet" else small_model
    everything = {"head", "stem", 0, 1, 2, 3}
    for part, expected in (
        ("head", {"head"}), (2, {"head", 2, 3}), (1, {"head", 3}), (4, {"head", 0, 1, 2, 3}),
        (3, {"head", 1, 2, 3}), ("all", everything),
    ):  # fmt: skip
        resnet50.set_trainable(each, part)
        assert parts(each) == (expected, everything - expected), part
        layers = [layer for layer in all_layers(each) if layer.name.endswith("_bn")]
        assert len(layers) == 53
        for layer in layers:
            stage = "stem" if layer.name == "conv1_bn" else int(layer.name[5])
            assert layer.trainable == (stage in expected), layer.name


def test_there_are_four_stages(small_model):
    assert message_of(resnet50.set_trainable, small_model, 5) == (
        "training.phases: resnet50 has 4 stages, received train: 5; use 1 to 4, or all"
    )


def configured(model=None, images=None, source="builtin", **data):
    values = {
        "builtin": {"name": "digits"},
        "image_folder": {"path": "photos"},
        "table": {"path": "x.csv", "label": "y"},
    }
    data = {"source": source, **values[source], **data}
    if images is not None:
        data["images"] = images
    return validate_config({"data": data, "model": {"chapter": "resnet50", **(model or {})}}, "test")


SMALL = {"stem": "small_image"}


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ({}, None, (224, 3, "imagenet", "stretch")),
        (SMALL, None, (32, 3, "imagenet", "stretch")),
        ({}, {"size": 96}, (96, 3, "imagenet", "stretch")),
        (SMALL, {"resize": "pad", "size": None}, (32, 3, "imagenet", "pad")),
        (SMALL, {"size": 8, "normalization": "zero_to_one", "channels": 3}, (8, 3, "zero_to_one", "stretch")),
        ({}, {"size": 32, "resize": "crop", "channels": None}, (32, 3, "imagenet", "crop")),
    ],
)
@pytest.mark.parametrize("source", ["builtin", "image_folder"])
def test_the_images_form_is_filled_in(model, given, expected, source):
    filled = fill_in_preset(configured(model, given, source))
    found = filled.data.images
    assert (found.size, found.channels, found.normalization, found.resize) == expected
    assert fill_in_preset(filled) == filled


def test_data_that_cannot_be_read_is_refused_before_it_is():
    assert message_of(fill_in_preset, configured(source="table")) == (
        "model.chapter: resnet50 reads images, and data.source: table has none; use image_folder, tfds or builtin "
        "digits"
    )
    assert message_of(fill_in_preset, configured(images={"channels": 1})) == (
        "data.images.channels: resnet50 reads 3 (red, green, blue), received 1; leave it out: greyscale images become "
        "3 equal ones"
    )
    assert message_of(fill_in_preset, configured(images={"size": 31})) == (
        "data.images.size: resnet50 with model.stem: imagenet reads images from 32 pixels on, received 31; use "
        "model.stem: small_image"
    )
    assert message_of(fill_in_preset, configured(SMALL, {"size": 7})) == (
        "data.images.size: resnet50 with model.stem: small_image reads images from 8 pixels on, received 7"
    )


def test_images_that_are_too_small_are_not_built_for(image_info):
    assert message_of(resnet50.build, chapter(), image_info(28), dtype="float32", seed=1) == (
        "resnet50 with model.stem: imagenet reads images of 3 channels from 32 pixels on, and the data's are 28 × 28 × "
        "3; set data.images"
    )
    info = image_info(inputs={"image": (None, None, 1)})
    assert message_of(resnet50.build, chapter(**SMALL), info, dtype="float32", seed=1) == (
        "resnet50 with model.stem: small_image reads images of 3 channels from 8 pixels on, and the data's are None × "
        "None × 1; set data.images"
    )


def test_the_task_is_classification_with_smoothing_and_several_answers(image_info):
    task = resnet50.task(chapter(label_smoothing=0.1, top_k=2), image_info())
    assert task.class_names == ("class 0", "class 1", "class 2")
    logits = np.float32([[2.0, 0.0, -1.0]])
    log = logits[0] - np.log(np.exp(logits[0]).sum())
    smoothed = -(0.9 * log[0] + 0.1 * log.mean())
    np.testing.assert_allclose(task.loss(tf.constant([0]), tf.constant(logits), training=True), [smoothed], rtol=1e-6)
    np.testing.assert_allclose(task.loss(tf.constant([0]), tf.constant(logits)), [-log[0]], rtol=1e-6)
    assert task.serving_outputs(logits, None)["top_labels"].numpy().tolist() == [[b"class 0", b"class 1"]]
    usual = make_task(configured(), image_info(10, 7))
    assert (usual.label_smoothing, usual.top_k) == (0.0, 5)


def test_other_data_has_no_task(image_info, bert_info):
    for info, kind in (
        (bert_info(), "classification of texts"),
        (image_info(task="regression", class_names=()), "regression of image"),
        (image_info(inputs={"age": (1,), "city": (3,)}), "classification of age, city"),
        (
            image_info(inputs={"image": (8, 8, 3)}, task="language_model", text=TextInfo(9, 9, {})),
            "language_model of texts",
        ),
    ):
        assert message_of(resnet50.task, chapter(), info) == (
            f"model.chapter: resnet50 sorts images into classes, and this data is {kind}; choose another chapter"
        )


def test_xla_is_not_preferred():
    assert not resnet50.prefers_xla(chapter())
