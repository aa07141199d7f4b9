"""The chapters' models as the scaling model sees them: gradients and work of each layer, from the real Keras models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SHIPPED = ("dense", "lstm_reviews_zh", "text_generator_zh", "bert_pretraining_zh")


@dataclass(frozen=True)
class Part:
    """A layer of a model.

    Attributes:
        name: the layer's.
        parameters: trainable ones; those shared with an earlier layer count there.
        flops: floating-point operations of its forward pass for one example.
    """

    name: str
    parameters: int
    flops: float


def all_profiles() -> dict[str, list[Part]]:
    """Each chapter's model: the two large ones at their usual size, the others as configs/ has them."""
    profiles = {"resnet50, 224 × 224, 1,000 classes": resnet50(), "bert_classifier, BERT base, length 128": bert_base()}
    return profiles | {name: shipped(name) for name in SHIPPED}


def shipped(name: str) -> list[Part]:
    """The model of configs/<name>.yaml, on the shipped data that it names."""
    from tfbigmodel.config import load_config
    from tfbigmodel.model import build_model, load_data

    config = load_config(CONFIGS / f"{name}.yaml", [])
    info = load_data(config).info
    return profile(build_model(config, info), info.text.sequence_length if info.text else 1)


def resnet50(image_size: int = 224, num_classes: int = 1000) -> list[Part]:
    """The resnet50 chapter on images of ImageNet's size."""
    return profile(_build({"chapter": "resnet50"}, num_classes, {"image": (image_size, image_size, 3)}))


def bert_base(length: int = 128) -> list[Part]:
    """The bert_classifier chapter with the size and vocabulary of BERT base (English, uncased)."""
    size = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
    model = {"chapter": "bert_classifier", "backbone": {**size, "max_sequence_length": 512}}
    names = ("token_ids", "segment_ids", "padding_mask")
    return profile(_build(model, 2, dict.fromkeys(names, (None,)), vocabulary_size=30_522, length=length), length)


def profile(model: Any, length: int = 1) -> list[Part]:
    """A model's layers in the order of the forward pass.

    Work is counted for the matrix products alone: 2 per weight and position, and for an attention over L positions of
    width d 4 L² d. Looking up an embedding is none.

    Args:
        model: a built functional Keras model.
        length: positions of a text; 1 for other data.
    """
    counted: set[int] = set()
    parts = []
    for layer in _leaves(model):
        fresh = [v for v in layer.trainable_variables if id(v) not in counted]
        counted.update(id(v) for v in fresh)
        parameters = sum(_count(v) for v in fresh)
        if parameters:
            parts.append(Part(layer.name, parameters, _flops(layer, length)))
    return parts


def _build(
    model: dict[str, Any], num_classes: int, inputs: dict[str, Any], vocabulary_size: int = 0, length: int = 1
) -> Any:
    from pipelines.data import DatasetInfo, TextInfo
    from tfbigmodel.chapters import CHAPTERS
    from tfbigmodel.config import validate_config

    data = {"source": "builtin", "name": "reviews_zh" if vocabulary_size else "digits"}  # replaced by the description
    config = validate_config({"data": data, "model": model}, "benchmark").model
    special = {"pad": 0, "unknown": 100, "start": 101, "end": 102, "mask": 103}
    info = DatasetInfo(
        task="classification",
        inputs=inputs,
        input_dtypes=dict.fromkeys(inputs, "int32" if vocabulary_size else "float32"),
        counts={"train": 1},
        class_names=tuple(map(str, range(num_classes))),
        text=TextInfo(vocabulary_size, length, special) if vocabulary_size else None,
    )
    return CHAPTERS[config.chapter].build(config, info, dtype="float32", seed=0)


def _leaves(model: Any) -> Iterator[Any]:
    import keras

    for layer in model.layers:
        if not isinstance(layer, keras.Model):
            yield layer
        elif any(None in tensor.shape[1:3] and len(tensor.shape) == 4 for tensor in layer.inputs):
            # A backbone that takes images of any size: the same layers once more, with the size that it is given here.
            image = keras.Input(model.inputs[0].shape[1:])
            yield from _leaves(keras.models.clone_model(layer, input_tensors=image))
        else:
            yield from _leaves(layer)


def _count(variable: Any) -> int:
    count = 1
    for size in variable.shape:
        count *= size
    return count


def _flops(layer: Any, length: int) -> float:
    kind = type(layer).__name__
    weights = sum(_count(v) for v in layer.trainable_variables if len(v.shape) > 1)
    if "Embedding" in kind:
        return 0.0
    shape = layer.output.shape if not isinstance(layer.output, (dict, list)) else ()
    if kind == "Conv2D":
        return 2.0 * weights * shape[1] * shape[2]
    positions = length if len(shape) == 3 or kind in ("LSTM", "Bidirectional") else 1
    if kind in ("TransformerEncoder", "DecoderBlock"):
        return 2.0 * weights * length + 4.0 * length**2 * shape[-1]
    return 2.0 * weights * positions
