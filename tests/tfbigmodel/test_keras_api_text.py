"""The text chapters in user code: Keras' own `compile` and `fit` on the project's batches, as the README shows it."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from tfbigmodel.config import RunConfig, validate_config

ENCODER = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 32}

pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed", "ignore:Your input ran out of data")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    sentences = {"good": "这本书很好。我很喜欢，会再买", "bad": "这本书很差。我很失望，不会再买"}
    rows = [f"{sentences[label]}{number}次。,{label}" for number in range(60) for label in sentences]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def table(reviews: Path, model: dict, **tokenizer) -> RunConfig:
    data = {"source": "table", "path": str(reviews), "text": "text", "label": "label", "batch_size": 8}
    return validate_config({"data": data | {"tokenizer": tokenizer}, "model": model}, "test")


def corpus(reviews: Path, task: str, model: dict, **tokenizer) -> RunConfig:
    parts = [{"path": str(reviews), "text": "text"}]
    data = {
        "source": "corpus",
        "task": task,
        "parts": parts,
        "batch_size": 8,
        "cache_dir": str(reviews.parent / "cache"),
    }
    return validate_config({"data": data | {"tokenizer": tokenizer}, "model": model}, "test")


def falls(history: keras.callbacks.History) -> bool:
    losses = history.history["loss"]
    return bool(np.isfinite(losses).all()) and losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        ({"chapter": "lstm", "embedding_dim": 8, "units": 8}, {"kind": "characters"}),
        ({"chapter": "bert_classifier", "backbone": ENCODER}, {"kind": "wordpiece", "vocabulary_size": 100,
                                                              "sequence_length": 32}),
    ],
    ids=["lstm", "bert_classifier"],
)  # fmt: skip
def test_a_classifier(reviews: Path, model: dict, tokenizer: dict):
    config = table(reviews, model, **tokenizer)
    data = tfbigmodel.load_data(config)
    network = tfbigmodel.build_model(config, data.info)
    network.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    assert falls(network.fit(data.train(), validation_data=data.validation(), epochs=3, verbose=0))


def test_pretraining(reviews: Path):
    model = {"chapter": "bert_pretraining", "backbone": ENCODER}
    config = corpus(reviews, "masked_language_model", model, kind="wordpiece", vocabulary_size=100, sequence_length=32)
    data = tfbigmodel.load_data(config)
    network = tfbigmodel.build_model(config, data.info)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(3e-3), {"masked_logits": loss, "next_logits": loss})

    def as_keras_takes_it(features: dict, labels: dict) -> tuple[dict, dict, dict]:
        targets = {"masked_logits": labels["masked_ids"], "next_logits": labels["is_next"]}
        weights = {
            "masked_logits": labels["masked_weights"],
            "next_logits": tf.ones_like(labels["is_next"], tf.float32),
        }
        return features, targets, weights

    assert falls(network.fit(data.train().map(as_keras_takes_it), epochs=3, verbose=0))


def test_a_generator(reviews: Path):
    model = {"chapter": "text_generator", "hidden_dim": 8, "num_heads": 2, "intermediate_dim": 16}
    config = corpus(reviews, "language_model", model, kind="characters", sequence_length=32)
    data = tfbigmodel.load_data(config)
    network = tfbigmodel.build_model(config, data.info)
    network.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = data.train().map(lambda features, labels: (features, labels["token_ids"], labels["weights"]))
    assert falls(network.fit(batches, epochs=3, verbose=0))
