"""ResNet50 against an independent implementation: Hugging Face's transformers, in PyTorch (the extra `reference`)."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tfbigmodel.chapters import resnet50
from tfbigmodel.chapters.resnet50 import ResNet50Config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theirs():
    """ResNet50 with its stride in the 3 × 3 convolution, and normalisations that are not as they start."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.ResNetModel(transformers.ResNetConfig(downsample_in_bottleneck=False)).eval()
    with torch.no_grad():
        for name, array in model.state_dict().items():
            if "normalization" in name and not name.endswith("num_batches_tracked"):
                noise = 0.6 * torch.rand(array.shape) - 0.3
                array.copy_(noise if name.endswith(("bias", "running_mean")) else 1.0 + noise)
    return model


def timm_name(name):
    """`encoder.stages.0.layers.1.layer.2.convolution.weight` → `layer1.1.conv3.weight`."""
    *place, kind, weight = name.split(".")
    normalizes = kind == "normalization"
    if place[0] == "embedder":
        return f"{'bn1' if normalizes else 'conv1'}.{weight}"
    _, _, stage, _, block, part, *number = place
    layer = f"layer{int(stage) + 1}.{block}"
    if part == "shortcut":
        return f"{layer}.downsample.{int(normalizes)}.{weight}"
    return f"{layer}.{'bn' if normalizes else 'conv'}{int(number[0]) + 1}.{weight}"


def test_the_same_weights_give_the_same_features(theirs, image_info, tmp_path):
    import torch

    arrays = {timm_name(name): np.ascontiguousarray(a.numpy()) for name, a in theirs.state_dict().items()}
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    config = ResNet50Config(chapter="resnet50", preset=str(tmp_path))
    model = resnet50.build(config, image_info(224), dtype="float32", seed=1)
    assert resnet50.load_pretrained(model, config, image_info(224)) == f"loaded 265 of 265 weights of {tmp_path}"
    for size in (224, 97):  # an odd one, where padding shows
        images = np.random.default_rng(size).normal(size=(2, 224, 224, 3)).astype(np.float32)[:, :size, :size]
        with torch.no_grad():
            expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2).copy())).pooler_output.numpy()[..., 0, 0]
        found = model.get_layer("pooled")(model.get_layer("backbone")(images))
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
