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
