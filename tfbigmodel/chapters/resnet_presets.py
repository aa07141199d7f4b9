"""Pretrained ResNet50 weights: KerasHub's preset folders, timm's folders, and other runs' workdirs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import UserError
from tfbigmodel.chapters.hub import import_keras_hub
from tfbigmodel.chapters.preset_folders import (
    CONFIG,
    KERAS_WEIGHTS,
    SAFETENSORS,
    PresetKind,
    find_preset,
    is_gone,
    load_keras_weights,
    one_line,
    read_object,
    require,
)

if TYPE_CHECKING:
    import keras

    from tfbigmodel.chapters.resnet50 import ResNet50Config

RESNET = PresetKind(
    backbone="ResNetBackbone",
    tokenizer=None,
    kaggle="keras/resnetv1/keras",
    files=(CONFIG, KERAS_WEIGHTS),
    example="resnet_50_imagenet",
    other_format=f"a timm folder ({CONFIG}, {SAFETENSORS}), a resnet50 run's workdir",
    written_by=None,
)
_KEY = "model.preset"
# What the normalisations of `data.images` do: pixels, 0 … 255, times scale plus offset.
_NORMALIZATIONS = {
    "zero_to_one": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def absolute_preset(preset: str, download: bool) -> str:
    """A preset as an absolute path; a path that was absolute before and is gone stays as it is.

    A workdir's configuration, which was filled in before, needs the preset no more: only a run that starts does.

    Raises:
        MissingFileError: there is no such preset; the message says which files to fetch, and how to give them.
    """
    return preset if is_gone(preset) else str(find_preset(preset, RESNET, download))


def check_normalization(folder: Path, normalization: str) -> None:
    """Checks that images are normalised as the preset's were, where its folder says how.

    Args:
        folder: the preset; nothing is checked where it is gone.
        normalization: `data.images.normalization`.

    Raises:
        UserError: they are not.
    """
    found = _preset_normalization(folder)
    if found is None:
        return
    mean, std = (tuple(round(float(value), 3) for value in values) for values in found)
    for name, (expected_mean, expected_std) in _NORMALIZATIONS.items():
        if np.allclose(mean, expected_mean, atol=2e-3) and np.allclose(std, expected_std, atol=2e-3):
            if name != normalization:
                raise UserError(
                    f"data.images.normalization: {normalization}, and the images of {folder} were normalised as "
                    f"{name}; choose that"
                )
            return
    raise UserError(
        f"{_KEY}: the images of {folder} were normalised by mean {mean} and standard deviation {std}, which is none of "
        f"{', '.join(_NORMALIZATIONS)}; use weights that were trained with one of these"
    )


def load_weights(backbone: keras.Model, config: ResNet50Config) -> str:
    """Gives a network its preset's weights: all of them, or all but the stem's where the stem is another one.

    Args:
        backbone: a network with KerasHub's layer names, of any dtype policy.
        config: the `model` section, with a preset.

    Returns:
        One line that says what was loaded.

    Raises:
        UserError: the preset is missing, damaged, or another network's.
    """
    assert config.preset is not None
    folder = find_preset(config.preset, RESNET, config.download)
    if _is_run(folder):
        arrays, stem = _run_arrays(folder)
    else:
        arrays, stem = _preset_arrays(folder, [variable.path for variable in backbone.weights]), "imagenet"
    targets = {v.path: v for v in backbone.weights if stem == config.stem or not v.path.startswith("conv1_")}
    for path, variable in targets.items():
        if path not in arrays or arrays[path].shape != tuple(variable.shape):
            raise UserError(f"{_KEY}: {folder} has no weight {path} of shape {tuple(variable.shape)}")
        if not np.isfinite(arrays[path]).all():
            raise UserError(f"{_KEY}: {folder} has NaN or infinite numbers in its weight {path}")
        variable.assign(arrays[path])
    rest = "" if stem == config.stem else f"; the stem is new, since {config.stem} is another one than {stem}"
    return f"loaded {len(targets)} of {len(backbone.weights)} weights of {folder}{rest}"


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and not (folder / CONFIG).exists()


def _run_arrays(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """The final weights of another run, and its stem."""
    from tfbigmodel.model import final_checkpoint
    from tfbigmodel.workdir import Workdir

    workdir = Workdir(folder)
    config = workdir.config()
    if config.model.chapter != "resnet50":
        raise UserError(f"{_KEY}: {folder} is a {config.model.chapter} run; expected a resnet50 run")
    return final_checkpoint(workdir, config).model_arrays(), config.model.stem


def _preset_arrays(folder: Path, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """The weights of a preset by KerasHub's paths, as far as it has them."""
    from tfbigmodel.chapters.resnet50 import ARCHITECTURE

    config = read_object(folder / CONFIG, _KEY, RESNET)
    is_keras = "class_name" in config or "registered_name" in config
    if is_keras:
        _check_architecture(folder, config, ARCHITECTURE)
    elif config.get("architecture") != "resnet50":
        what = (
            f"architecture {config['architecture']}" if "architecture" in config else "no class_name, no architecture"
        )
        raise UserError(f"{_KEY}: {folder / CONFIG} has {what}; expected KerasHub's ResNetBackbone, or timm's resnet50")
    weights = folder / (KERAS_WEIGHTS if is_keras else SAFETENSORS)
    require(weights, "the weights")
    try:
        return _keras_arrays(weights) if is_keras else _timm_arrays(weights, paths)
    except UserError:
        raise
    except Exception as error:  # of h5py, safetensors and Keras, each in its own words
        raise UserError(f"{weights} cannot be loaded as {folder / CONFIG} describes it: {one_line(error)}") from error


def _keras_arrays(weights: Path) -> dict[str, np.ndarray]:
    from tfbigmodel.chapters.resnet50 import ARCHITECTURE

    backbone = import_keras_hub(texts=False).models.ResNetBackbone(**ARCHITECTURE, dtype="float32")
    load_keras_weights(backbone, weights)
    return {variable.path: variable.numpy() for variable in backbone.weights}


def _timm_arrays(weights: Path, paths: Iterable[str]) -> dict[str, np.ndarray]:
    # KerasHub's own conversion takes a block's weight of a similar name for one that is missing.
    from safetensors.numpy import load_file

    stored = load_file(weights)
    names = {path: _timm_name(path) for path in paths}
    arrays = {path: stored[name] for path, name in names.items() if name in stored}
    # PyTorch's kernels are (filters, channels, height, width).
    return {path: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array for path, array in arrays.items()}


def _timm_name(path: str) -> str:
    """What timm calls a weight: `stack0_block1_2_conv/kernel` is `layer1.1.conv2.weight`."""
    layer, _, weight = path.partition("/")
    name = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}.get(weight, "weight")
    if layer.startswith("conv1_"):
        return f"{layer.removeprefix('conv1_')}1.{name}"
    stack, block, number, kind = layer.split("_")
    block = f"layer{int(stack.removeprefix('stack')) + 1}.{block.removeprefix('block')}"
    # A block's layer 0 is the shortcut's.
    return f"{block}.downsample.{int(kind == 'bn')}.{name}" if number == "0" else f"{block}.{kind}{number}.{name}"


def _check_architecture(folder: Path, config: dict[str, Any], expected: dict[str, Any]) -> None:
    # A classifier's configuration has the network's inside.
    described = config
    if described.get("class_name") != "ResNetBackbone" and isinstance(described.get("config"), dict):
        described = described["config"].get("backbone") or described
    if not isinstance(described, dict) or described.get("class_name") != "ResNetBackbone":
        raise UserError(f"{_KEY}: {folder / CONFIG} describes a {config.get('class_name')}; expected a ResNetBackbone")
    sizes = described.get("config")
    if not isinstance(sizes, dict):
        raise UserError(f"{_KEY}: {folder / CONFIG} does not say the network's sizes")
    for name, value in expected.items():
        if sizes.get(name, False) != value:
            raise UserError(
                f"{_KEY}: {folder / CONFIG} has {name} {sizes.get(name)}; expected {value}, as ResNet50 (v1.5) has"
            )


def _preset_normalization(folder: Path) -> tuple[Any, Any] | None:
    """Mean and standard deviation of a preset's images, whose pixels are from 0 to 1; None where it says nothing."""
    try:
        if _is_run(folder):
            from tfbigmodel.workdir import Workdir

            images = getattr(Workdir(folder).config().data, "images", None)
            return _NORMALIZATIONS[images.normalization] if images else None
        if (folder / "image_converter.json").is_file():
            converter = read_object(folder / "image_converter.json", _KEY, RESNET)["config"]
            # Where KerasHub does not scale, or adds nothing, it writes null.
            scale = np.broadcast_to(np.asarray(1.0 if converter["scale"] is None else converter["scale"], float), (3,))
            offset = np.broadcast_to(np.asarray(converter["offset"] or 0.0, float), (3,))
            return -offset / (255 * scale), 1 / (255 * scale)
        trained = read_object(folder / CONFIG, _KEY, RESNET)["pretrained_cfg"]
        return trained["mean"], trained["std"]
    # A finished run comes here, too, which needs its preset no more; one that starts is told when it loads the weights.
    except (UserError, KeyError, TypeError, ValueError):
        return None
