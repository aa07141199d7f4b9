"""ResNet50's weights on disk: found, checked, loaded; from KerasHub, from timm, and from other runs."""

import json
import shutil
from pathlib import Path

import h5py
import keras_hub
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tfbigmodel
from pipelines.errors import UserError
from tfbigmodel.chapters import resnet50
from tfbigmodel.chapters.resnet50 import ResNet50Config
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.model import fill_in_preset, load_model
from tfbigmodel.training.checkpoints import latest_checkpoint, save_checkpoint
from tfbigmodel.workdir import Workdir, prepare

KERAS_FILES = "config.json, model.weights.h5"
OTHERS = "a timm folder (config.json, model.safetensors), a resnet50 run's workdir"


@pytest.fixture(scope="module")
def fresh(image_info):
    """A model whose weights tests overwrite: building takes seconds."""
    models = {}

    def model(stem="imagenet"):
        if stem not in models:
            config = ResNet50Config(chapter="resnet50", stem=stem)
            models[stem] = resnet50.build(config, image_info(32), dtype="float32", seed=1)
        for variable in models[stem].weights:
            variable.assign(np.full(variable.shape, 0.5))
        return models[stem]

    return model


@pytest.fixture
def load(fresh, image_info):
    """Loads a preset into a model whose weights are all 0.5; returns it and what is said."""

    def loaded(preset, stem="imagenet"):
        config = ResNet50Config(chapter="resnet50", preset=str(preset), stem=stem)
        model = fresh(stem)
        return model, resnet50.load_pretrained(model, config, image_info(32))

    return loaded


@pytest.fixture(params=["keras", "timm"])
def preset(request, resnet_preset, timm_preset):
    """Each of the two formats."""
    return resnet_preset if request.param == "keras" else timm_preset


@pytest.fixture
def copied(preset, tmp_path):
    """A preset that the test may damage; its weights are a link, which it may replace."""
    return linked(preset, tmp_path / "copied")


def linked(folder, copy):
    copy.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, copy)
        else:
            (copy / file.name).symlink_to(file)
    return copy


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """KerasHub's cache, empty; without a network."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path / "cache"


def message_of(function, *arguments, **keywords):
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("config", config).update(changes)
    path.write_text(json.dumps(config))


def configured(preset=None, **values):
    model = {"chapter": "resnet50", "stem": "small_image", **values.pop("model", {})}
    if preset is not None:
        model["preset"] = str(preset)
    data = values.pop("data", {"source": "builtin", "name": "digits"})
    data = {**data, "images": {"size": 8, **values.pop("images", {})}}
    training = {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 0.01}, **values}
    return resolve(validate_config({"data": data, "model": model, "training": training}, "test"))


def test_all_of_it_is_loaded_but_for_the_head(preset, load, plain_resnet):
    model, said = load(preset)
    assert said == f"loaded 265 of 265 weights of {preset}"
    found = {variable.path: variable.numpy() for variable in model.weights}
    for variable in plain_resnet.weights:
        np.testing.assert_array_equal(found.pop(variable.path), variable.numpy(), err_msg=variable.path)
    assert sorted(found) == ["logits/bias", "logits/kernel"]
    assert all((array == 0.5).all() for array in found.values()), "the head is new"


def test_a_small_stem_is_new(preset, load, plain_resnet):
    model, said = load(preset, "small_image")
    assert said == (
        f"loaded 260 of 265 weights of {preset}; the stem is new, since small_image is another one than imagenet"
    )
    expected = {variable.path: variable.numpy() for variable in plain_resnet.weights}
    for variable in model.weights:
        if variable.path.startswith(("conv1", "logits")):
            assert (variable.numpy() == 0.5).all(), variable.path
        else:
            np.testing.assert_array_equal(variable.numpy(), expected[variable.path], err_msg=variable.path)


def test_a_classifiers_preset(plain_resnet, load, tmp_path):
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(
        keras_hub.layers.ResNetImageConverter(image_size=(224, 224), scale=1 / 255)
    )
    keras_hub.models.ResNetImageClassifier(plain_resnet, num_classes=4, preprocessor=preprocessor).save_to_preset(
        str(tmp_path)
    )
    model, said = load(tmp_path)
    assert said.startswith("loaded 265 of 265 weights")
    stored = plain_resnet.get_layer("stack3_block2_3_conv").kernel.numpy()
    np.testing.assert_array_equal(model.get_layer("backbone").get_layer("stack3_block2_3_conv").kernel.numpy(), stored)
    # What it says of its pixels: 0 … 1, and nothing added.
    assert message_of(fill_in_preset, configured(tmp_path)) == (
        f"data.images.normalization: imagenet, and the images of {tmp_path} were normalised as zero_to_one; choose that"
    )
    fill_in_preset(configured(tmp_path, images={"normalization": "zero_to_one"}))
    # As older versions of KerasHub wrote it, with the network inside.
    inside = json.loads((tmp_path / "config.json").read_text())
    task = {"class_name": "ResNetImageClassifier", "config": {"backbone": inside, "num_classes": 4}}
    (tmp_path / "config.json").write_text(json.dumps(task))
    assert load(tmp_path)[1].startswith("loaded 265 of 265 weights")


def test_weights_in_half_precision(timm_preset, load, plain_resnet, tmp_path):
    folder = linked(timm_preset, tmp_path / "half")
    (folder / "model.safetensors").unlink()
    arrays = load_file(timm_preset / "model.safetensors")
    save_file({name: array.astype(np.float16) for name, array in arrays.items()}, folder / "model.safetensors")
    kernel = load(folder)[0].get_layer("backbone").get_layer("conv1_conv").kernel.numpy()
    np.testing.assert_allclose(kernel, plain_resnet.get_layer("conv1_conv").kernel.numpy(), rtol=1e-3, atol=1e-6)


def test_other_networks_are_refused(copied, load):
    config = json.loads((copied / "config.json").read_text())
    is_keras = "class_name" in config
    place = f"model.preset: {copied}/config.json"
    if is_keras:
        change_config(copied, stackwise_num_blocks=[2, 2, 2, 2], block_type="basic_block")
        assert message_of(load, copied) == (
            f"{place} has stackwise_num_blocks [2, 2, 2, 2]; expected [3, 4, 6, 3], as ResNet50 (v1.5) has"
        )
        change_config(copied, stackwise_num_blocks=[3, 4, 6, 3], block_type="bottleneck_block", use_pre_activation=True)
        assert message_of(load, copied) == (
            f"{place} has use_pre_activation True; expected False, as ResNet50 (v1.5) has"
        )
        (copied / "config.json").write_text('{"class_name": "BertBackbone", "config": {}}')
        assert message_of(load, copied) == f"{place} describes a BertBackbone; expected a ResNetBackbone"
        (copied / "config.json").write_text('{"class_name": "ResNetBackbone"}')
        assert message_of(load, copied) == f"{place} does not say the network's sizes"
    else:
        for name in ("resnet18", "resnetv2_50"):
            change_config(copied, architecture=name)
            assert message_of(load, copied) == (
                f"{place} has architecture {name}; expected KerasHub's ResNetBackbone, or timm's resnet50"
            )
        (copied / "config.json").write_text('{"model_type": "resnet"}')
        assert message_of(load, copied) == (
            f"{place} has no class_name, no architecture; expected KerasHub's ResNetBackbone, or timm's resnet50"
        )


def weights_of(folder):
    return next(folder / name for name in ("model.weights.h5", "model.safetensors") if (folder / name).exists())


def test_weights_that_are_missing_or_damaged(copied, load):
    file = weights_of(copied)
    with open(file, "rb") as stream:
        start = stream.read(100_000)
    file.unlink()
    assert message_of(load, copied) == f"{file} is missing: the weights should be there"
    file.write_bytes(start)
    assert message_of(load, copied).startswith(f"{file} cannot be loaded as {copied}/config.json describes it: ")


def test_a_weight_that_is_missing_or_of_another_shape(timm_preset, load, tmp_path):
    folder = linked(timm_preset, tmp_path / "copied")
    (folder / "model.safetensors").unlink()
    arrays = load_file(timm_preset / "model.safetensors")
    without = {name: array for name, array in arrays.items() if name != "bn1.weight"}
    save_file(without, folder / "model.safetensors")
    # KerasHub's own conversion takes layer1.0.bn1.weight here, and says nothing.
    assert message_of(load, folder) == f"model.preset: {folder} has no weight conv1_bn/gamma of shape (64,)"
    load(folder, "small_image")
    save_file({**arrays, "conv1.weight": arrays["conv1.weight"][:, :1].copy()}, folder / "model.safetensors")
    assert message_of(load, folder) == f"model.preset: {folder} has no weight conv1_conv/kernel of shape (7, 7, 3, 64)"


def test_weights_that_are_not_finite(copied, load):
    file = weights_of(copied)
    original = file.resolve()
    file.unlink()
    if file.suffix == ".h5":
        shutil.copy(original, file)
        with h5py.File(file, "r+") as stored:
            datasets = []
            stored.visititems(lambda name, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
            datasets[0][...] = np.nan
        message = message_of(load, copied)
        assert message.startswith(f"{file} cannot be loaded as {copied}/config.json describes it: it has no ")
        assert message.endswith(", or NaN in it")
    else:
        arrays = load_file(original)
        arrays["layer2.0.bn1.running_var"] = np.full(128, np.inf, np.float32)
        save_file(arrays, file)
        assert message_of(load, copied) == (
            f"model.preset: {copied} has NaN or infinite numbers in its weight stack1_block0_1_bn/moving_variance"
        )


def test_folders_without_a_config(tmp_path, load):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert message_of(load, tmp_path) == (
        f"model.preset: {tmp_path}/config.json is missing; expected a Keras preset folder (files {KERAS_FILES}) or "
        f"{OTHERS}"
    )
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not valid JSON" in message_of(load, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert message_of(load, tmp_path) == f"model.preset: {tmp_path}/config.json holds no object"


def test_images_must_be_normalised_as_the_weights_want_them(copied):
    is_keras = weights_of(copied).suffix == ".h5"
    fill_in_preset(configured(copied))

    def says(mean, std):
        if is_keras:
            scale, offset = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
            converter = {"class_name": "ResNetImageConverter", "config": {"scale": scale, "offset": offset}}
            (copied / "image_converter.json").write_text(json.dumps(converter))
        else:
            change_config(copied, pretrained_cfg={"mean": mean, "std": std})

    says([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    fill_in_preset(configured(copied))
    assert message_of(fill_in_preset, configured(copied, images={"normalization": "zero_to_one"})) == (
        f"data.images.normalization: zero_to_one, and the images of {copied} were normalised as imagenet; choose that"
    )
    says([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert message_of(fill_in_preset, configured(copied)) == (
        f"data.images.normalization: imagenet, and the images of {copied} were normalised as zero_to_one; choose that"
    )
    says([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert message_of(fill_in_preset, configured(copied)) == (
        f"model.preset: the images of {copied} were normalised by mean (0.5, 0.5, 0.5) and standard deviation (0.5, "
        "0.5, 0.5), which is none of zero_to_one, imagenet; use weights that were trained with one of these"
    )


def test_paths_become_absolute(resnet_preset, monkeypatch):
    monkeypatch.chdir(resnet_preset.parent)
    filled = fill_in_preset(configured("preset"))
    assert filled.model.preset == str(resnet_preset)
    assert fill_in_preset(filled) == filled


def test_a_path_that_is_no_folder(tmp_path):
    assert message_of(fill_in_preset, configured("./nothing")) == (
        "model.preset: nothing does not exist; expected a Keras preset folder, a timm folder, a resnet50 run's "
        "workdir, or the name of a KerasHub preset such as resnet_50_imagenet"
    )
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is no folder; expected" in message_of(fill_in_preset, configured(tmp_path / "file"))


def test_a_name_that_is_not_there_says_what_to_fetch_and_where_to_put_it(cache, resnet_preset):
    folder = cache / "models/keras/resnetv1/keras/resnet_50_imagenet/1"
    assert message_of(fill_in_preset, configured("resnet_50_imagenet")) == (
        f"model.preset: there is no folder resnet_50_imagenet here and no preset of that name in {cache}/models; set "
        "model.download: true to let KerasHub download it, or fetch the Kaggle model "
        f"keras/resnetv1/keras/resnet_50_imagenet on another machine (files {KERAS_FILES}) and put them into {folder}, "
        "or into any folder and set model.preset to that"
    )
    folder.parent.mkdir(parents=True)
    linked(resnet_preset, folder)
    assert fill_in_preset(configured("resnet_50_imagenet")).model.preset == str(folder), "as it was told"


def test_a_download_without_a_network_says_the_same(cache):
    config = configured("resnet_50_imagenet", model={"download": True})
    message = message_of(fill_in_preset, config)
    assert message.startswith("model.preset: KerasHub could not download resnet_50_imagenet: ")
    assert message.endswith(
        f"; fetch the Kaggle model keras/resnetv1/keras/resnet_50_imagenet on another machine (files {KERAS_FILES}) "
        f"and put them into {cache}/models/keras/resnetv1/keras/resnet_50_imagenet/3, or into any folder and set "
        "model.preset to that"
    )


def test_a_name_that_nobody_knows(cache):
    assert message_of(fill_in_preset, configured("resnet50_imagenet", model={"download": True})) == (
        "model.preset: KerasHub has no ResNet preset resnet50_imagenet; did you mean resnet_50_imagenet?"
    )


def written_run(folder: Path, model, **values) -> Path:
    """A finished run's configuration and weights, without the training."""
    config = fill_in_preset(configured(**values))
    workdir = Workdir(folder)
    folder.mkdir()
    prepare(workdir, config)
    arrays = {variable.path: variable.numpy() for variable in model.weights}
    state = {"epoch": 1, "updates": 5, "monitor": 0.1, "stopped": ""}
    save_checkpoint(workdir.checkpoints, 5, arrays, {}, state)
    return folder


@pytest.mark.parametrize("stem", ["small_image", "imagenet"])
def test_a_runs_weights_are_a_preset(stem, load, resnet_preset, fresh, tmp_path):
    source, _ = load(resnet_preset, "small_image")
    expected = {variable.path: variable.numpy() for variable in source.weights}
    run = written_run(tmp_path / "run", source)
    model, said = load(run, stem)
    same = stem == "small_image"
    rest = "" if same else "; the stem is new, since imagenet is another one than small_image"
    assert said == f"loaded {265 if same else 260} of 265 weights of {run}{rest}"
    for variable in model.weights:
        new = variable.path.startswith("logits") or (variable.path.startswith("conv1") and not same)
        wanted = np.full(variable.shape, 0.5) if new else expected[variable.path]
        np.testing.assert_array_equal(variable.numpy(), wanted, err_msg=variable.path)


def test_runs_that_are_no_preset(fresh, tmp_path, load):
    run = written_run(tmp_path / "run", fresh("small_image"), images={"normalization": "zero_to_one"})
    assert message_of(fill_in_preset, configured(run)) == (
        f"data.images.normalization: imagenet, and the images of {run} were normalised as zero_to_one; choose that"
    )
    shutil.rmtree(run / "checkpoints")
    assert message_of(load, run) == (f"{run} has no usable checkpoint: its training has not reached the first one")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: text.index("model:")] + "model: {chapter: dense}\n")
    assert message_of(load, run) == f"model.preset: {run} is a dense run; expected a resnet50 run"


def test_a_configuration_that_was_filled_in_needs_its_preset_no_more(copied):
    filled = fill_in_preset(configured(copied))
    (copied / "config.json").write_text("{")
    assert fill_in_preset(filled) == filled
    shutil.rmtree(copied)
    assert fill_in_preset(filled) == filled


@pytest.mark.slow
def test_a_run_needs_its_preset_only_to_start(fresh, tmp_path, digits_folder):
    source = written_run(tmp_path / "source", fresh("small_image"))
    data = {"source": "image_folder", "path": str(digits_folder), "cache_dir": str(tmp_path), "batch_size": 8}
    start = configured(source, data=data)
    tfbigmodel.train(start, tmp_path / "run")
    shutil.rmtree(source)
    assert load_model(tmp_path / "run").output_shape == (None, 10)
    tfbigmodel.train(configured(source, data=data, epochs=2), tmp_path / "run")
    history = latest_checkpoint(tmp_path / "run" / "checkpoints")[0].state["history"]
    assert len(history) == 2
    assert message_of(tfbigmodel.train, start, tmp_path / "other") == (
        f"model.preset: {source} does not exist; expected a Keras preset folder, a timm folder, a resnet50 run's "
        "workdir, or the name of a KerasHub preset such as resnet_50_imagenet"
    )
