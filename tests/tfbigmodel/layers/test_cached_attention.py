"""Attention with keys and values of its own, against Keras' own layer."""

import keras
import numpy as np

from tfbigmodel.layers.cached_attention import CachedAttention

RANDOM = np.random.default_rng(1)
QUERIES = RANDOM.normal(size=(3, 4, 8)).astype("float32")
SOURCE = RANDOM.normal(size=(3, 5, 6)).astype("float32")
MASK = RANDOM.random((3, 1, 4, 5)) < 0.6
MASK[..., 0] = True


def test_it_is_keras_multi_head_attention():
    layer = CachedAttention(dim=8, num_heads=2, seed=1)
    layer.build([QUERIES.shape, SOURCE.shape])
    for weight in layer.weights:
        weight.assign(RANDOM.normal(size=weight.shape))
    reference = keras.layers.MultiHeadAttention(2, 4)
    reference.build(QUERIES.shape, SOURCE.shape, SOURCE.shape)
    kernel, bias = (weight.numpy() for weight in (layer.key_value.kernel, layer.key_value.bias))
    reference.set_weights(
        [
            layer.query.kernel.numpy().reshape(8, 2, 4), layer.query.bias.numpy().reshape(2, 4),
            kernel[:, :8].reshape(6, 2, 4), bias[:8].reshape(2, 4),
            kernel[:, 8:].reshape(6, 2, 4), bias[8:].reshape(2, 4),
            layer.output_projection.kernel.numpy().reshape(2, 4, 8), layer.output_projection.bias.numpy(),
        ]
    )  # fmt: skip
    keys, values = layer.keys_and_values(SOURCE)
    assert keys.shape == values.shape == (3, 2, 5, 4)
    expected = reference(QUERIES, SOURCE, attention_mask=MASK[:, 0])
    np.testing.assert_allclose(layer(QUERIES, keys, values, MASK), expected, atol=1e-4)
    # The same weights with another batch.
    keys, values = layer.keys_and_values(SOURCE[:1])
    np.testing.assert_allclose(layer(QUERIES[:1], keys, values, MASK[:1]), expected[:1], atol=1e-4)


def test_it_comes_back_from_its_config():
    layer = CachedAttention(dim=8, num_heads=2, seed=1, name="attention")
    twin = CachedAttention.from_config(layer.get_config())
    assert (twin.dim, twin.num_heads, twin.seed, twin.name) == (8, 2, 1, "attention")
