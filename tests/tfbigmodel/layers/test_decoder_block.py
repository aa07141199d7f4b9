"""The decoder block against numpy, and what it must not see."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf

from tfbigmodel.layers.decoder_block import DecoderBlock

DIM, HEADS = 6, 2
RANDOM = np.random.default_rng(1)
HIDDEN = RANDOM.normal(size=(2, 4, DIM)).astype("float32")
MASK = np.int32([[1, 1, 1, 1], [1, 1, 0, 0]])
MEMORY = RANDOM.normal(size=(2, 3, 5)).astype("float32")
MEMORY_MASK = np.int32([[1, 1, 0], [1, 1, 1]])


def block(encoder_dim=None, dropout=0.0, **arguments):
    layer = DecoderBlock(DIM, HEADS, 8, encoder_dim, dropout, seed=1, **arguments)
    layer.build((None, None, DIM))
    for weight in layer.trainable_variables:
        weight.assign(weight + RANDOM.normal(scale=0.5, size=weight.shape))
    return layer


def normed(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * norm.gamma.numpy() + norm.beta.numpy()


def dense(x, layer):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def attended(x, source, mask, attention):
    """Attention one head and one query at a time."""
    query, key_value = dense(x, attention.query), dense(source, attention.key_value)
    key, value = key_value[..., :DIM], key_value[..., DIM:]
    read = np.zeros_like(query)
    for row, place, head in np.ndindex(len(x), x.shape[1], HEADS):
        part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
        scores = key[row, :, part] @ query[row, place, part] / np.sqrt(DIM / HEADS)
        weights = np.where(mask[row, place], np.exp(scores), 0.0)
        read[row, place, part] = weights / weights.sum() @ value[row, :, part]
    return dense(read, attention.output_projection)


@pytest.mark.parametrize("encoder_dim", [None, 5])
def test_against_numpy(encoder_dim):
    layer = block(encoder_dim)
    x, causal = HIDDEN, np.tril(np.ones((4, 4), bool)) & MASK.astype(bool)[:, None, :]
    before = normed(x, layer.attention_norm)
    x = x + attended(before, before, causal, layer.attention)
    memory = (MEMORY, MEMORY_MASK) if encoder_dim else ()
    if encoder_dim:
        visible = np.repeat(MEMORY_MASK.astype(bool)[:, None, :], 4, axis=1)
        x = x + attended(normed(x, layer.cross_norm), MEMORY, visible, layer.cross_attention)
    inner = dense(normed(x, layer.feed_forward_norm), layer.intermediate)
    x = x + dense(inner * (1 + erf(inner / np.sqrt(2))) / 2, layer.output_dense)
    np.testing.assert_allclose(layer(HIDDEN, MASK, *memory), x, atol=2e-4)


def test_a_later_token_changes_nothing_before_it():
    layer = block()
    changed = HIDDEN.copy()
    changed[:, 2] += 1.0
    before, after = layer(HIDDEN, np.ones((2, 4))), layer(changed, np.ones((2, 4)))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert not np.allclose(before[:, 2:], after[:, 2:])


def test_padding_does_not_matter():
    layer = block(5)
    changed, memory = HIDDEN.copy(), MEMORY.copy()
    changed[1, 2:] += 9.0
    memory[0, 2] += 9.0
    before, after = layer(HIDDEN, MASK, MEMORY, MEMORY_MASK), layer(changed, MASK, memory, MEMORY_MASK)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1, :2], after[1, :2])


def test_steps_give_what_the_whole_gives():
    layer = block(5)
    whole = layer(HIDDEN, np.ones((2, 4)), MEMORY, MEMORY_MASK).numpy()
    memory = layer.cross_attention.keys_and_values(tf.constant(MEMORY))
    start, cache = layer.prefill(tf.constant(HIDDEN[:, :2]), np.ones((2, 2)), memory, MEMORY_MASK)
    np.testing.assert_allclose(start, whole[:, :2], atol=1e-5)
    cache = tuple(tf.pad(part, [[0, 0], [0, 0], [0, 3], [0, 0]]) for part in cache)
    for slot in (2, 3):
        visible = tf.tile((tf.range(5) <= slot)[None], [2, 1])
        new, cache = layer.step(
            tf.constant(HIDDEN[:, slot : slot + 1]), cache, tf.constant(slot), visible, memory, MEMORY_MASK
        )
        np.testing.assert_allclose(new[:, 0], whole[:, slot], atol=1e-5)


def test_dropout_acts_in_training_only():
    layer = block(dropout=0.5)
    np.testing.assert_array_equal(layer(HIDDEN, MASK), layer(HIDDEN, MASK, training=False))
    assert not np.allclose(layer(HIDDEN, MASK), layer(HIDDEN, MASK, training=True))


def test_equal_seeds_start_equally_and_no_two_weights_alike():
    layers = [DecoderBlock(6, 2, 6, 6, seed=seed) for seed in (1, 1, 2)]
    for layer in layers:
        layer.build((None, None, 6))
    first, again, other = ([w.numpy() for w in layer.weights if "kernel" in w.path] for layer in layers)
    assert len(first) == 8
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    square = [kernel for kernel in first if kernel.shape == (6, 6)]
    assert len({kernel.tobytes() for kernel in square}) == len(square)


def test_bfloat16_computes_in_half_and_keeps_float32_weights():
    layer = block(5, dtype="mixed_bfloat16")
    output = layer(HIDDEN, MASK, MEMORY, MEMORY_MASK)
    assert output.dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    layer_32 = DecoderBlock.from_config({**layer.get_config(), "dtype": "float32"})
    layer_32.build((None, None, DIM))
    layer_32.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        tf.cast(output, tf.float32), layer_32(HIDDEN, MASK, MEMORY, MEMORY_MASK), atol=0.25, rtol=0.05
    )


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_heads must divide dim; received num_heads=4, dim=6"):
        DecoderBlock(6, 4, 8)


def test_it_comes_back_from_its_config():
    layer = block(5)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(HIDDEN, MASK, MEMORY, MEMORY_MASK), twin(HIDDEN, MASK, MEMORY, MEMORY_MASK))
