"""The lstm network against what its configuration says: padding never matters, and every option does what it says."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.data import DatasetInfo, TextInfo
from pipelines.errors import UserError
from tfbigmodel.chapters.lstm import LstmConfig, build, prefers_xla, task
from tfbigmodel.tasks.classification import Classification
from tfbigmodel.tasks.regression import Regression
from tfbigmodel.training.config import TrainingConfig
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.loop import UpdateRule, make_train_steps

SPECIAL_IDS = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}


def text_info(*names, bigrams=0, **values):
    names = ("token_ids", "padding_mask", *(("bigram_ids",) if bigrams else ()), *names)
    return DatasetInfo(
        task=values.pop("task", "classification"),
        inputs=dict.fromkeys(names, (None,)),
        input_dtypes=dict.fromkeys(names, "int32"),
        counts={},
        class_names=values.pop("class_names", ("a", "b", "c")),
        text=TextInfo(20, 12, SPECIAL_IDS, bigram_vocabulary_size=bigrams),
        **values,
    )


INFO = text_info()
BIGRAMS = text_info(bigrams=30)
MIRRORED = TrainingConfig(strategy="mirrored", virtual_cpus=2)
EVERYTHING = {"embedding_skip": True, "num_layers": 2, "bidirectional": True}


def network(info=INFO, dtype="float32", seed=1, **config):
    config = {"embedding_dim": 4, "units": 5} | config
    return build(LstmConfig(chapter="lstm", **config), info, dtype, seed)


def batch(lengths, info=INFO, width=None, seed=0):
    """Texts of random tokens; a text's tokens depend on its place and not on the others' lengths."""
    width = width or max(lengths)
    features = {name: np.zeros((len(lengths), width), np.int32) for name in info.inputs}
    for row, length in enumerate(lengths):
        rng = np.random.default_rng([seed, row])
        features["token_ids"][row, :length] = rng.integers(5, 20, 100)[:length]
        features["padding_mask"][row, :length] = 1
        if "bigram_ids" in features:
            features["bigram_ids"][row, :length] = rng.integers(2, 30, 100)[:length]
    return features


def row_of(features, row, width):
    return {name: values[row : row + 1, :width] for name, values in features.items()}


@pytest.mark.parametrize("info", [INFO, BIGRAMS], ids=["tokens", "bigrams"])
@pytest.mark.parametrize("config", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
def test_padding_never_matters(pooling, config, info):
    model = network(info, pooling=pooling, **config)
    lengths = [3, 9, 1, 6]
    together = batch(lengths, info)
    logits = model(together).numpy()
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(model(row_of(together, row, length)), logits[row : row + 1], atol=1e-6)
    garbage = {name: np.where(together["padding_mask"], values, 7) for name, values in together.items()}
    garbage["padding_mask"] = together["padding_mask"]
    np.testing.assert_allclose(model(garbage), logits, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
def test_it_is_what_keras_layers_give(pooling):
    """Embedding, bidirectional LSTM, pooling and head, by Keras' own layers on one unpadded text."""
    model = network(pooling=pooling, bidirectional=True)
    features = batch([8])
    reference = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=pooling != "last"))
    embeddings = model.get_layer("token_embedding").embeddings.numpy()
    embedded = embeddings[features["token_ids"]]
    reference.build(embedded.shape)
    reference.set_weights(model.get_layer("lstm_1").get_weights())
    states = reference(embedded).numpy()
    pooled = {"last": lambda: states, "max": lambda: states.max(axis=1), "mean": lambda: states.mean(axis=1)}[pooling]()
    kernel, bias = (weight.numpy() for weight in model.get_layer("logits").weights)
    np.testing.assert_allclose(model(features), pooled @ kernel + bias, atol=1e-5)


def test_the_skip_shows_the_mean_embedding_to_the_head():
    model = network(BIGRAMS, embedding_skip=True)
    features = batch([4, 2], BIGRAMS)
    kernel = model.get_layer("logits").kernel
    assert kernel.shape == (5 + 4 + 4, 3)
    kernel.assign(np.concatenate([np.zeros((5, 3)), np.ones((8, 3))]))
    rows = []
    for row, length in enumerate([4, 2]):
        tokens = model.get_layer("token_embedding").embeddings.numpy()[features["token_ids"][row, :length]]
        bigrams = model.get_layer("bigram_embedding").embeddings.numpy()[features["bigram_ids"][row, :length]]
        rows.append([tokens.mean(axis=0).sum() + bigrams.mean(axis=0).sum()] * 3)
    np.testing.assert_allclose(model(features), rows, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
def test_a_text_without_tokens_has_finite_logits(pooling):
    model = network(pooling=pooling, **EVERYTHING)
    logits = model(batch([5, 0])).numpy()
    np.testing.assert_allclose(logits[1], model.get_layer("logits").bias, atol=1e-6)
    np.testing.assert_allclose(model(batch([0], width=1)).numpy()[0], logits[1], atol=1e-6)


def test_names_and_paths_are_stable():
    config = EVERYTHING | {"token_dropout": 0.1, "embedding_dropout": 0.1, "dropout": 0.1, "pooling": "max"}
    model = network(BIGRAMS, **config)
    assert [weight.path for weight in model.trainable_weights] == [
        "token_embedding/embeddings",
        "bigram_embedding/embeddings",
        *(
            f"lstm_{number}/{direction}_{name}"
            for number in (1, 2)
            for direction in ("forward", "backward")
            for name in ("kernel", "recurrent_kernel", "bias")
        ),
        "logits/kernel",
        "logits/bias",
    ]
    assert [weight.path for weight in model.weights] == [weight.path for weight in network(BIGRAMS, **config).weights]


def test_the_seed_alone_fixes_the_weights():
    first, second, other = (network(bidirectional=True, seed=seed).get_weights() for seed in (1, 1, 2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.any() and a.ndim == 2)
    forward, backward = first[2], first[5]
    assert forward.shape == backward.shape == (5, 20)
    assert not np.array_equal(forward, backward)


@pytest.mark.parametrize("option", ["token_dropout", "embedding_dropout", "dropout"])
def test_dropout_acts_in_training_only(option):
    model, plain = network(BIGRAMS, num_layers=2, **{option: 0.5}), network(BIGRAMS, num_layers=2)
    plain.set_weights([weight.numpy() for weight in model.trainable_weights])
    features = batch([6, 6, 6, 3], BIGRAMS)
    np.testing.assert_array_equal(model(features), plain(features))
    first, second = model(features, training=True).numpy(), model(features, training=True).numpy()
    assert not np.allclose(first, second)


def test_regression_has_one_output_and_classes_have_one_each():
    regression = text_info(task="regression", class_names=())
    assert network(regression).output_shape == (None, 1)
    assert network().output_shape == (None, 3)
    config = LstmConfig(chapter="lstm")
    assert isinstance(task(config, regression), Regression)
    assert isinstance(task(config, INFO), Classification)


def test_word_pieces_are_read_without_their_segments():
    model = network(text_info("segment_ids"))
    features = batch([4, 2], text_info("segment_ids"))
    logits = model(features)
    features["segment_ids"][:] = 1
    np.testing.assert_array_equal(model(features), logits)


def test_refuses_data_that_is_no_text():
    info = dataclasses.replace(INFO, text=None, inputs={"features": (3,)})
    with pytest.raises(UserError, match="lstm reads texts, and this data is images or numbers"):
        task(LstmConfig(chapter="lstm"), info)


def test_refuses_data_without_labels():
    with pytest.raises(UserError, match=r"lstm learns from labels, and data\.task is language_model"):
        task(LstmConfig(chapter="lstm"), dataclasses.replace(INFO, task="language_model"))


def test_bfloat16_computes_in_half_and_gives_float32_logits():
    model, exact = network(dtype="mixed_bfloat16", pooling="mean", **EVERYTHING), network(pooling="mean", **EVERYTHING)
    assert model.get_layer("lstm_1").compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    features = batch([6, 3])
    logits = model(features)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, exact(features), atol=2e-3)
    assert not np.array_equal(logits, exact(features))


def test_keras_own_fit_learns_the_order_of_tokens():
    """Whether the first token comes again: counts of tokens do not tell."""
    keras.utils.set_random_seed(0)  # the order in which `fit` shows the examples
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 8, (256, 5)).astype(np.int32)
    labels = (tokens[:, 0] == tokens[:, 4]).astype(np.int32)
    features = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    model = network(text_info(class_names=("no", "yes")), units=16, embedding_dim=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    history = model.fit(features, labels, batch_size=32, epochs=40, verbose=0).history
    assert history["accuracy"][-1] > 0.95


def test_two_replicas_are_one():
    """Each with half of the batch, through the product's own loop; no dropout, which draws for each replica."""
    features, labels = batch([7, 2, 5, 1, 6, 3, 4, 7]), np.arange(8, dtype=np.int32) % 3

    def trained(strategy):
        with strategy.scope():
            model = network(**EVERYTHING, pooling="max")
            optimizer = keras.optimizers.SGD(0.5)
        train_steps = make_train_steps(model, optimizer, Classification(INFO.class_names), strategy, UpdateRule(8))

        def share(context):
            dataset = tf.data.Dataset.from_tensor_slices((features, labels)).repeat()
            return dataset.batch(8 // context.num_replicas_in_sync)

        results = train_steps(iter(strategy.distribute_datasets_from_function(share)), 4)
        return [results.loss, *(weight.numpy() for weight in model.trainable_weights)]

    one, two = trained(tf.distribute.get_strategy()), trained(make_strategy(MIRRORED))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert one[0][3] < one[0][0] - 0.01


def test_xla_is_left_out():
    assert not prefers_xla(LstmConfig(chapter="lstm"))
