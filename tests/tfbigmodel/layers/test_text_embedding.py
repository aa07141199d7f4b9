"""Embedding and tied projection against their tables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.layers.text_embedding import TextEmbedding

IDS = tf.constant([[2, 0, 1], [1, 1, 3]])


def embedding(**arguments):
    layer = TextEmbedding(vocabulary_size=5, num_positions=4, dim=3, seed=1, **arguments)
    layer.build((None, None))
    return layer


def test_tokens_and_positions_are_added():
    layer = embedding()
    tokens, positions = (weight.numpy() for weight in layer.weights)
    assert (tokens.shape, positions.shape) == ((5, 3), (4, 3))
    np.testing.assert_allclose(layer(IDS), tokens[IDS] + positions[:3], rtol=1e-6)
    places = tf.constant([[3, 0, 0], [1, 2, 3]])
    np.testing.assert_allclose(layer(IDS, positions=places), tokens[IDS] + positions[places], rtol=1e-6)


def test_reversed_it_projects_on_the_same_table():
    layer = embedding()
    tokens = layer.weights[0].numpy()
    hidden = np.random.default_rng(1).normal(size=(2, 4, 3)).astype("float32")
    np.testing.assert_allclose(layer(hidden, reverse=True), hidden @ tokens.T, atol=1e-6)
    np.testing.assert_allclose(layer(hidden[:, 0], reverse=True), hidden[:, 0] @ tokens.T, atol=1e-6)


def test_both_directions_teach_the_one_table():
    layer = embedding()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(layer(tf.constant([[2]])), reverse=True) ** 2)
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.weights[0].value)).numpy()
    assert (np.abs(gradient).sum(axis=1) > 0).all(), "all by the projection"


def test_dropout_acts_in_training_only():
    layer = embedding(dropout=0.5)
    np.testing.assert_array_equal(layer(IDS), layer(IDS))
    assert (layer(IDS, training=True).numpy() == 0).any()


def test_bfloat16_gives_float32_logits():
    layer = embedding(dtype="mixed_bfloat16")
    assert layer(IDS).dtype == tf.bfloat16
    assert layer(layer(IDS), reverse=True).dtype == tf.float32
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_a_text_longer_than_the_positions_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError):
        embedding()(tf.zeros([1, 5], tf.int32))


def test_a_model_with_it_comes_back_from_a_file(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    layer = TextEmbedding(vocabulary_size=5, num_positions=4, dim=3, seed=1)
    model = keras.Model(inputs, layer(layer(inputs), reverse=True))
    assert model.output.shape == (None, None, 5)
    model.save(tmp_path / "model.keras")
    twin = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(IDS), twin(IDS))
    assert len(twin.weights) == 2, "tied in the copy too"
