"""A tiny network with large random weights, so that its texts vary, and ways to let it write."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.data import DatasetInfo, TextInfo
from tfbigmodel.chapters.bert import BackboneConfig
from tfbigmodel.chapters.text_generator import TextGeneratorConfig, build
from tfbigmodel.generation.sampling import Sampling
from tfbigmodel.generation.serving import DTYPES

SPECIAL_IDS = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
DEFAULTS = {
    "max_new_tokens": 10, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "num_beams": 1,
    "seed": 0,
}  # fmt: skip


def make_info(vocabulary_size: int, sequence_length: int, encoder: bool = False) -> DatasetInfo:
    names = ["token_ids", "padding_mask"]
    if encoder:
        names += ["encoder_token_ids", "encoder_segment_ids", "encoder_padding_mask"]
    return DatasetInfo(
        task="sequence_to_sequence" if encoder else "language_model",
        inputs=dict.fromkeys(names, (None,)),
        input_dtypes=dict.fromkeys(names, "int32"),
        counts={},
        text=TextInfo(vocabulary_size, sequence_length, SPECIAL_IDS, mean_tokens=5.0),
    )


@pytest.fixture(scope="session")
def tiny_info() -> Callable[..., DatasetInfo]:
    return make_info


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., keras.Model]:
    """`tiny_model(vocabulary_size=30, sequence_length=24, seed=1, encoder=False)`."""

    def make(vocabulary_size: int = 30, sequence_length: int = 24, seed: int = 1, encoder: bool = False) -> keras.Model:
        backbone = None
        if encoder:
            backbone = BackboneConfig(
                num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=24, dropout=0.0
            )
        config = TextGeneratorConfig(
            chapter="text_generator", hidden_dim=16, num_heads=2, num_layers=2, intermediate_dim=32, encoder=backbone
        )
        model = build(config, make_info(vocabulary_size, sequence_length, encoder), "float32", seed)
        random = np.random.default_rng(seed)
        for weight in model.trainable_variables:
            weight.assign(weight + random.normal(scale=0.3, size=weight.shape))
        return model

    return make


@pytest.fixture(scope="session")
def rules() -> Callable[..., Sampling]:
    """`rules(3, temperature=[0, 1, 1])`: how each of three texts is written; greedy where nothing is said."""

    def make(batch_size: int, **values: Any) -> Sampling:
        values = DEFAULTS | values
        return Sampling(*(tf.constant(np.broadcast_to(values[n], batch_size), t) for n, t in DTYPES.items()))

    return make


@pytest.fixture(scope="session")
def prompts() -> dict[str, tf.Tensor]:
    """Three prompts of 5, 1 and 3 tokens."""
    token_ids = np.int32([[2, 7, 8, 9, 10], [2, 0, 0, 0, 0], [2, 11, 6, 0, 0]])
    return {"token_ids": tf.constant(token_ids), "padding_mask": tf.constant(np.int32(token_ids > 0))}
