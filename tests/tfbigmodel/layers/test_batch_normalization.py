"""Batch normalisation in one operation against Keras' own layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.layers.batch_normalization import FusedBatchNormalization
from tfbigmodel.training.config import TrainingConfig
from tfbigmodel.training.distribution import make_strategy

SHAPE = (6, 5, 4, 3)
# bfloat16 has 8 bits of precision, and the two round at different places.
TOLERANCE = {"float32": 2e-5, "mixed_bfloat16": 0.04}


def images(seed, shape=SHAPE):
    return (3.0 * np.random.default_rng(seed).normal(size=shape) + 1.5).astype(np.float32)


def layers(dtype="float32", **keywords):
    """Ours and Keras', with the same weights, which are not as they start."""
    arguments = {"momentum": 0.9, "epsilon": 1e-5, "dtype": dtype, **keywords}
    pair = FusedBatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    weights = [1.0 + 0.3 * images(9, (3,)), images(8, (3,)), images(7, (3,)), 0.5 + np.abs(images(6, (3,)))]
    for layer in pair:
        layer.build((None, None, None, 3))
        layer.set_weights(weights)
    return pair


def step(layer, x, upstream, training):
    """The output, and the gradients of input, scale and offset."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
    return outputs, tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])


def assert_equal_steps(ours, theirs, dtype, training, in_graph, steps=4):
    functions = [tf.function(step) if in_graph else step for _ in range(2)]
    tolerance = TOLERANCE[dtype]
    for number in range(steps):
        x, upstream = tf.constant(images(number)), tf.constant(images(100 + number))
        (outputs, gradients), (expected, expected_gradients) = (
            function(layer, x, upstream, training) for function, layer in zip(functions, (ours, theirs), strict=True)
        )
        assert outputs.dtype == expected.dtype == ours.compute_dtype
        np.testing.assert_allclose(tf.cast(outputs, "float32"), tf.cast(expected, "float32"), atol=tolerance, rtol=0.01)
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            scale = np.abs(other.numpy()).max()
            np.testing.assert_allclose(gradient.numpy() / scale, other.numpy() / scale, atol=tolerance)
        for weight, other in zip(ours.weights, theirs.weights, strict=True):
            assert weight.dtype == "float32"
            np.testing.assert_allclose(weight.numpy(), other.numpy(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_results_gradients_and_statistics_are_those_of_keras(dtype, training, in_graph):
    ours, theirs = layers(dtype)
    before = ours.moving_mean.numpy()
    assert_equal_steps(ours, theirs, dtype, training, in_graph)
    assert np.array_equal(before, ours.moving_mean.numpy()) is not training


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_frozen_it_uses_and_keeps_the_statistics_it_has(dtype, in_graph):
    ours, theirs = layers(dtype)
    ours.trainable = theirs.trainable = False
    before = ours.get_weights()
    assert_equal_steps(ours, theirs, dtype, True, in_graph, steps=2)
    for weight, old in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    x = images(0)
    np.testing.assert_array_equal(ours(x, training=True), ours(x, training=False))


def test_thawed_it_learns_again():
    ours, theirs = layers()
    for trainable in (False, True):
        ours.trainable = theirs.trainable = trainable
        assert_equal_steps(ours, theirs, "float32", True, in_graph=True, steps=2)
    assert not np.array_equal(ours.moving_mean.numpy(), layers()[0].moving_mean.numpy())


def test_the_closed_form():
    layer = FusedBatchNormalization(momentum=0.75, epsilon=0.1)
    x = images(0)
    outputs = layer(x, training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))  # of the batch, not the unbiased one of a sample
    np.testing.assert_allclose(outputs, (x - mean) / np.sqrt(variance + 0.1), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.75 + 0.25 * variance, rtol=1e-5)


def test_a_single_pixel_has_no_variance():
    layer = FusedBatchNormalization(momentum=0.5)
    assert np.abs(layer(images(0, (1, 1, 1, 3)), training=True)).max() < 1e-6
    np.testing.assert_allclose(layer.moving_variance, [0.5] * 3)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_two_replicas_equal_one_with_the_whole_batch(dtype):
    strategy = make_strategy(TrainingConfig(strategy="mirrored", virtual_cpus=2))
    assert strategy.num_replicas_in_sync == 2
    one, _ = layers(dtype)
    with strategy.scope():
        two, _ = layers(dtype)

    @tf.function
    def replica(x, upstream):
        outputs, gradients = step(two, x, upstream, True)
        total = tf.distribute.get_replica_context().all_reduce("sum", gradients[1:])
        return outputs, gradients[0], total

    for number in range(3):
        x, upstream = images(number), images(100 + number)
        parts = [
            strategy.experimental_distribute_values_from_function(
                lambda context, a=a: tf.constant(np.split(a, 2)[context.replica_id_in_sync_group])
            )
            for a in (x, upstream)
        ]
        outputs, of_input, totals = strategy.run(replica, args=parts)
        expected, expected_gradients = step(one, tf.constant(x), tf.constant(upstream), True)

        def whole(value):
            return np.concatenate([tf.cast(v, tf.float32) for v in strategy.experimental_local_results(value)])

        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(whole(outputs), tf.cast(expected, tf.float32), atol=tolerance, rtol=0.01)
        np.testing.assert_allclose(whole(of_input), expected_gradients[0], atol=5 * tolerance)
        for total, gradient in zip(totals, expected_gradients[1:], strict=True):
            local = strategy.experimental_local_results(total)[0].numpy()
            scale = np.abs(gradient.numpy()).max()
            np.testing.assert_allclose(local / scale, gradient.numpy() / scale, atol=tolerance)
        for weight, other in zip(two.weights, one.weights, strict=True):
            np.testing.assert_allclose(weight.numpy(), other.numpy(), atol=tolerance, rtol=tolerance)


def test_configuration_round_trip():
    layer = FusedBatchNormalization(momentum=0.7, epsilon=1e-4, name="bn", dtype="mixed_bfloat16", trainable=False)
    again = FusedBatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.momentum, again.epsilon, again.name, again.trainable) == (0.7, 1e-4, "bn", False)
    assert again.compute_dtype == "bfloat16"


def test_saved_in_a_model_and_loaded(tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, FusedBatchNormalization(0.9, 1e-5, name="bn")(keras.layers.Conv2D(3, 2)(inputs)))
    model(images(0), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("bn")) is FusedBatchNormalization
    np.testing.assert_array_equal(loaded(images(1)), model(images(1)))


def test_a_mask_is_refused():
    with pytest.raises(ValueError, match="FusedBatchNormalization takes no mask"):
        FusedBatchNormalization()(images(0), mask=tf.ones(SHAPE[:3], tf.bool))
