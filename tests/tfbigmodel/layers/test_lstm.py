"""The LSTM layer against `keras.layers.LSTM` with the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.layers.lstm import LSTM

BATCH, LENGTH, DIM, UNITS = 4, 7, 3, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, LENGTH, DIM)).astype(np.float32)
MASKS = {
    "none": None,
    "padded right": np.arange(LENGTH) < np.array([[7], [4], [1], [6]]),
    "padded left": np.arange(LENGTH) >= np.array([[0], [3], [6], [1]]),
    "holes": RNG.random((BATCH, LENGTH)) < 0.6,
    "a text without tokens": np.arange(LENGTH) < np.array([[7], [0], [3], [0]]),
}


class Reference(keras.layers.Layer):
    """`keras.layers.LSTM` forward, and one going backwards beside it; Keras' `Bidirectional` blanks masked steps."""

    def __init__(self, bidirectional, return_sequences, dtype="float32"):
        super().__init__(dtype=dtype)
        self.supports_masking = True
        self.parts = [
            keras.layers.LSTM(UNITS, return_sequences=return_sequences, go_backwards=go_backwards, dtype=dtype)
            for go_backwards in ((False, True) if bidirectional else (False,))
        ]

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)

    def call(self, inputs, mask=None):
        outputs = [part(inputs, mask=mask) for part in self.parts]
        if len(outputs) == 2 and self.parts[0].return_sequences:
            outputs[1] = outputs[1][:, ::-1]
        return tf.concat(outputs, axis=-1)


def pair(bidirectional, return_sequences, dtype="float32"):
    """Our layer and Keras' with equal weights."""
    layer, reference = (
        LSTM(UNITS, bidirectional, return_sequences, dtype=dtype),
        Reference(bidirectional, return_sequences),
    )
    for either in (layer, reference):
        either.build((None, None, DIM))
    layer.set_weights([RNG.normal(size=weight.shape) * 0.4 for weight in layer.weights])
    reference.set_weights(layer.get_weights())
    return layer, reference


def outputs_and_gradients(layer, x, mask, upstream):
    with tf.GradientTape() as tape:
        x = tf.constant(x)
        tape.watch(x)
        outputs = layer(x, mask=None if mask is None else tf.constant(mask))
        target = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
    return [outputs, *tape.gradient(target, [x, *(weight.value for weight in layer.trainable_weights)])]


@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_outputs_and_gradients_are_those_of_keras(mask, bidirectional, return_sequences):
    layer, reference = pair(bidirectional, return_sequences)
    upstream = RNG.normal(size=layer.compute_output_shape(X.shape)).astype(np.float32)
    ours = outputs_and_gradients(layer, X, MASKS[mask], upstream)
    theirs = outputs_and_gradients(reference, X, MASKS[mask], upstream)
    assert len(ours) == len(theirs) == (8 if bidirectional else 5)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph_with_open_shapes_it_is_the_same(jit_compile):
    layer, reference = pair(True, True)
    mask = MASKS["padded right"]
    upstream = RNG.normal(size=(BATCH, LENGTH, 2 * UNITS)).astype(np.float32)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, DIM]), tf.TensorSpec([None, None], tf.bool)],
        jit_compile=jit_compile,
    )
    def in_graph(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, mask=mask)
            target = tf.reduce_sum(outputs * tf.constant(upstream)[: tf.shape(x)[0]])
        return [outputs, *tape.gradient(target, [x, *(weight.value for weight in layer.trainable_weights)])]

    ours, theirs = in_graph(X, mask), outputs_and_gradients(reference, X, mask, upstream)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-5)
    np.testing.assert_allclose(in_graph(X[:2], mask[:2])[0], ours[0][:2], atol=1e-6)


def test_a_masked_step_changes_nothing_whatever_stands_there():
    layer, _ = pair(True, True)
    mask = MASKS["holes"]
    wild = np.where(mask[:, :, None], X, 50.0).astype(np.float32)
    upstream = np.where(mask[:, :, None], 1.0, 0.0).astype(np.float32)
    for calm, stormy in zip(
        outputs_and_gradients(layer, X, mask, upstream), outputs_and_gradients(layer, wild, mask, upstream), strict=True
    ):
        np.testing.assert_array_equal(calm, stormy)


def test_bfloat16_stays_close_over_a_long_text():
    """The cell state adds up in float32: Keras' own, in bfloat16, is further off."""
    layer, reference = pair(False, True)
    x = RNG.normal(size=(8, 200, DIM)).astype(np.float32)
    exact = reference(x).numpy()

    def error(other):
        other.build(x.shape)
        other.set_weights(layer.get_weights())
        outputs = other(x)
        assert outputs.dtype == tf.bfloat16
        return np.sqrt(np.mean((tf.cast(outputs, tf.float32).numpy() - exact) ** 2))

    ours = error(LSTM(UNITS, dtype="mixed_bfloat16"))
    assert ours < 0.01
    assert ours < error(keras.layers.LSTM(UNITS, return_sequences=True, dtype="mixed_bfloat16"))


@pytest.mark.parametrize("return_sequences", [True, False])
def test_works_in_a_keras_model_that_is_saved_and_loaded(tmp_path, return_sequences):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(20, DIM, mask_zero=True)(inputs)
    model = keras.Model(inputs, LSTM(UNITS, True, return_sequences, seed=1)(x))
    assert model.output_shape == ((None, None, 10) if return_sequences else (None, 10))
    ids = np.array([[3, 4, 5, 0, 0], [6, 7, 8, 9, 10]])
    expected = model(ids)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(ids), expected)
    alone = model(ids[:1, :3])
    np.testing.assert_allclose(alone, expected[:1, :3] if return_sequences else expected[:1], atol=1e-6)


def test_initial_weights_are_those_of_keras():
    """By distribution: the recurrent kernel orthogonal, the forget gate open, each direction with a draw of its own."""
    layer = LSTM(UNITS, True, seed=1)
    layer.build((None, None, DIM))
    kernel, recurrent, bias, backward_kernel, *_ = layer.get_weights()
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(UNITS), atol=1e-5)
    np.testing.assert_array_equal(bias, [0.0] * UNITS + [1.0] * UNITS + [0.0] * 2 * UNITS)
    assert np.abs(kernel).max() <= np.sqrt(6 / (DIM + 4 * UNITS))
    assert not np.array_equal(kernel, backward_kernel)
