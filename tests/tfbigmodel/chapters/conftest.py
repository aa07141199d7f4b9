"""Toy BERT encoders and a ResNet50 on disk, in both formats of each, and what stands for data."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.config import CleaningConfig
from pipelines.data import DatasetInfo, TextInfo
from pipelines.text.preprocess import TextPreprocessor
from pipelines.text.wordpiece import WordPieceTokenizer

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"我好坏书喜欢不很这本是，。",
    "read",
    "##ing",
    "good",
    "bad",
]
SIZE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 16}


@pytest.fixture(scope="session")
def plain_backbone() -> keras_hub.models.BertBackbone:
    """KerasHub's own encoder, with weights that are not as they start: no bias is zero."""
    backbone = keras_hub.models.BertBackbone(vocabulary_size=len(VOCABULARY), **SIZE)
    random = np.random.default_rng(0)
    for variable in backbone.weights:
        start = 1.0 if variable.path.endswith("gamma") else 0.0
        variable.assign(start + 0.3 * random.normal(size=variable.shape))
    return backbone


@pytest.fixture(scope="session")
def keras_preset(plain_backbone: keras_hub.models.BertBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as KerasHub saves it."""
    folder = tmp_path_factory.mktemp("keras") / "preset"
    plain_backbone.save_to_preset(str(folder))
    keras_hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True).save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="session")
def hugging_face_preset(
    plain_backbone: keras_hub.models.BertBackbone, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same encoder as Hugging Face's transformers save it."""
    folder = tmp_path_factory.mktemp("hugging_face")
    width, weights = SIZE["hidden_dim"], {v.path: v.numpy() for v in plain_backbone.weights}
    arrays = {
        "embeddings.word_embeddings.weight": weights["token_embedding/embeddings"],
        "embeddings.position_embeddings.weight": weights["position_embedding/embeddings"],
        "embeddings.token_type_embeddings.weight": weights["segment_embedding/embeddings"],
        "pooler.dense.weight": weights["pooled_dense/kernel"].T,
        "pooler.dense.bias": weights["pooled_dense/bias"],
    }
    norms = {"embeddings.LayerNorm": "embeddings_layer_norm"}
    for number in range(SIZE["num_layers"]):
        ours, theirs = f"transformer_layer_{number}", f"encoder.layer.{number}"
        attention = {"attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value"}
        for name, part in {**attention, "attention.output.dense": "attention_output"}.items():
            kernel = weights[f"{ours}/self_attention_layer/{part}/kernel"]
            arrays[f"{theirs}.{name}.weight"] = kernel.reshape(width, width).T
            arrays[f"{theirs}.{name}.bias"] = weights[f"{ours}/self_attention_layer/{part}/bias"].reshape(-1)
        for name, part in {"intermediate.dense": "intermediate_dense", "output.dense": "output_dense"}.items():
            arrays[f"{theirs}.{name}.weight"] = weights[f"{ours}/feedforward_{part}/kernel"].T
            arrays[f"{theirs}.{name}.bias"] = weights[f"{ours}/feedforward_{part}/bias"]
        norms[f"{theirs}.attention.output.LayerNorm"] = f"{ours}/self_attention_layer_norm"
        norms[f"{theirs}.output.LayerNorm"] = f"{ours}/feedforward_layer_norm"
    for theirs, ours in norms.items():
        arrays[f"{theirs}.weight"], arrays[f"{theirs}.bias"] = weights[f"{ours}/gamma"], weights[f"{ours}/beta"]
    save_file({f"bert.{name}": np.ascontiguousarray(a) for name, a in arrays.items()}, folder / "model.safetensors")
    config = {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": len(VOCABULARY), "hidden_size": width,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
        "hidden_dropout_prob": 0.2, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return folder


@pytest.fixture(params=["keras", "hugging_face"])
def preset(request: pytest.FixtureRequest) -> Path:
    """Each of the two formats."""
    folder: Path = request.getfixturevalue(f"{request.param}_preset")
    return folder


@pytest.fixture
def bert_info() -> Callable[..., DatasetInfo]:
    """A description of texts in BERT's tokens."""

    def made(*more_inputs: str, task: str = "classification", **values: object) -> DatasetInfo:
        names = ("token_ids", "segment_ids", "padding_mask", *more_inputs)
        text = {"vocabulary_size": len(VOCABULARY), "sequence_length": 16, "mean_tokens": 2.0} | {
            name: values.pop(name) for name in ("vocabulary_size", "sequence_length", "mean_tokens") if name in values
        }
        special = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
        return DatasetInfo(
            task=task,
            inputs=dict.fromkeys(names, (None,)),
            input_dtypes=dict.fromkeys(names, "int32"),
            counts={"train": 8, "validation": 0, "test": 0},
            class_names=("a", "b", "c") if task == "classification" else (),
            text=TextInfo(special_ids=special, **text),
            **values,
        )

    return made


@pytest.fixture
def bert_preprocess() -> TextPreprocessor:
    """Texts → BERT's inputs."""
    return TextPreprocessor(WordPieceTokenizer(VOCABULARY), 16, "bert", CleaningConfig())


@pytest.fixture
def tokens() -> dict[str, np.ndarray]:
    """Three texts of different lengths, the second with two segments."""
    random = np.random.default_rng(1)
    mask = np.int32([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7])
    segments = np.zeros((3, 9), np.int32)
    segments[1, 3:6] = 1
    return {
        "token_ids": random.integers(5, len(VOCABULARY), (3, 9)).astype(np.int32) * mask,
        "segment_ids": segments,
        "padding_mask": mask,
    }


@pytest.fixture(scope="session")
def plain_resnet() -> keras_hub.models.ResNetBackbone:
    """KerasHub's own ResNet50, with normalisations that are not as they start."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3], stackwise_num_strides=[1, 2, 2, 2], block_type="bottleneck_block",
    )  # fmt: skip
    random = np.random.default_rng(0)
    for variable in backbone.weights:
        if "_bn/" in variable.path:
            noise = random.uniform(-0.3, 0.3, size=variable.shape)
            variable.assign(noise if variable.path.endswith(("beta", "moving_mean")) else 1.0 + noise)
    return backbone


@pytest.fixture(scope="session")
def resnet_preset(plain_resnet: keras_hub.models.ResNetBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as KerasHub saves it."""
    folder = tmp_path_factory.mktemp("resnet") / "preset"
    plain_resnet.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="session")
def timm_preset(plain_resnet: keras_hub.models.ResNetBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as timm publishes it, with a head, and with counters that Keras does not have."""
    folder = tmp_path_factory.mktemp("timm")
    weights, arrays = {v.path: v.numpy() for v in plain_resnet.weights}, {}

    def layer(ours: str, convolution: str, normalization: str) -> None:
        arrays[f"{convolution}.weight"] = weights[f"{ours}_conv/kernel"].transpose(3, 2, 0, 1)
        parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        for theirs, part in parts.items():
            arrays[f"{normalization}.{theirs}"] = weights[f"{ours}_bn/{part}"]
        arrays[f"{normalization}.num_batches_tracked"] = np.array(7)

    layer("conv1", "conv1", "bn1")
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
        for block in range(num_blocks):
            ours, theirs = f"stack{stage}_block{block}", f"layer{stage + 1}.{block}"
            for number in (1, 2, 3):
                layer(f"{ours}_{number}", f"{theirs}.conv{number}", f"{theirs}.bn{number}")
            if block == 0:
                layer(f"{ours}_0", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    arrays["fc.weight"], arrays["fc.bias"] = np.ones((1000, 2048), np.float32), np.ones(1000, np.float32)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / "model.safetensors")
    trained = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 224, 224]}
    config = {"architecture": "resnet50", "num_classes": 1000, "num_features": 2048, "pretrained_cfg": trained}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def image_info() -> Callable[..., DatasetInfo]:
    """A description of images of a height (and width), sorted into so many classes."""

    def made(size: int = 32, num_classes: int = 3, channels: int = 3, **values: object) -> DatasetInfo:
        names = tuple(f"class {number}" for number in range(num_classes))
        return DatasetInfo(
            **{
                "task": "classification",
                "inputs": {"image": (size, size, channels)},
                "input_dtypes": {"image": "float32"},
                "counts": {"train": 8, "validation": 0, "test": 0},
                "class_names": names,
                **values,
            }
        )

    return made
