"""The dense network against what its configuration says, by closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.data import DatasetInfo
from tfbigmodel.chapters.dense import DenseConfig, build, prefers_xla

INFO = DatasetInfo(
    task="classification",
    inputs={"features": (3,)},
    input_dtypes={"features": "float32"},
    counts={},
    class_names=("a", "b"),
)
X = np.float32([[1.0, -2.0, 0.5], [-1.0, 0.0, 3.0]])
INITIALIZERS = {
    "glorot_uniform": lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out)),
    "glorot_normal": lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out)),
    "he_uniform": lambda fan_in, fan_out: np.sqrt(2 / fan_in),
    "he_normal": lambda fan_in, fan_out: np.sqrt(2 / fan_in),
    "lecun_uniform": lambda fan_in, fan_out: np.sqrt(1 / fan_in),
    "lecun_normal": lambda fan_in, fan_out: np.sqrt(1 / fan_in),
    "random_normal": lambda fan_in, fan_out: 0.05,
    "random_uniform": lambda fan_in, fan_out: 0.1 / np.sqrt(12),
    "truncated_normal": lambda fan_in, fan_out: 0.05 * 0.88,
    "orthogonal": lambda fan_in, fan_out: 1 / np.sqrt(max(fan_in, fan_out)),
}


def network(info=INFO, dtype="float32", seed=1, **config):
    return build(DenseConfig(chapter="dense", **config), info, dtype, seed)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.2 * x)),
    ],
)
def test_two_hidden_layers_by_hand(activation, function):
    model = network(hidden_units=[4, 3], activation=activation)
    first, first_bias, second, second_bias, last, last_bias = [w.numpy() for w in model.weights]
    hidden = function(function(X @ first + first_bias) @ second + second_bias)
    np.testing.assert_allclose(model({"features": X}), hidden @ last + last_bias, atol=1e-5)


def test_no_hidden_layer_is_a_linear_model():
    model = network(hidden_units=[])
    assert [layer.name for layer in model.layers] == ["features", "flatten_features", "logits"]


@pytest.mark.parametrize(("l1", "l2"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_penalties_are_sums_over_kernels(l1, l2):
    model = network(hidden_units=[4], l1=l1, l2=l2)
    kernels = [w.numpy() for w in model.weights if w.path.endswith("kernel")]
    expected = sum(l1 * np.abs(kernel).sum() + l2 * np.square(kernel).sum() for kernel in kernels)
    assert float(tf.add_n(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_dropout_and_batch_norm_act_in_training_only():
    model = network(hidden_units=[64], dropout=0.5, batch_norm=True)
    np.testing.assert_array_equal(model({"features": X}), model({"features": X}))
    assert not np.allclose(model({"features": X}, training=True), model({"features": X}, training=True))
    assert model.get_layer("dense_1").bias is None, "batch norm has an offset of its own"
    assert model.get_layer("dropout_1").rate == 0.5


@pytest.mark.parametrize("initializer", sorted(INITIALIZERS))
def test_initializers_have_their_standard_deviation(initializer):
    model = network(hidden_units=[300, 200], initializer=initializer)
    kernel = model.get_layer("dense_2").kernel.numpy()
    assert kernel.std() == pytest.approx(INITIALIZERS[initializer](300, 200), rel=0.03)
    assert not model.get_layer("dense_2").bias.numpy().any()


def test_layers_of_one_shape_start_differently():
    model = network(hidden_units=[5, 5, 5])
    assert not np.array_equal(model.get_layer("dense_2").kernel, model.get_layer("dense_3").kernel)


def test_several_inputs_are_put_side_by_side():
    info = DatasetInfo(
        task="regression", inputs={"a": (2,), "b": (2, 2)}, input_dtypes={"a": "float32", "b": "float32"}, counts={}
    )
    model = network(info, hidden_units=[])
    a, b = np.ones((3, 2), np.float32), np.full((3, 2, 2), 2, np.float32)
    kernel, bias = [w.numpy() for w in model.weights]
    expected = np.concatenate([a, b.reshape(3, 4)], axis=1) @ kernel + bias
    np.testing.assert_allclose(model({"a": a, "b": b}), expected, atol=1e-6)
    assert model.output_shape == (None, 1)


def test_bfloat16_computes_in_half_and_gives_float32_logits():
    model = network(hidden_units=[4], dtype="mixed_bfloat16")
    assert model.get_layer("dense_1").compute_dtype == "bfloat16"
    assert model.get_layer("dense_1").kernel.dtype == "float32"
    assert keras.backend.standardize_dtype(model({"features": X}).dtype) == "float32"


def test_xla_is_left_out_where_dropout_makes_it_slow():
    assert prefers_xla(DenseConfig(chapter="dense"))
    assert not prefers_xla(DenseConfig(chapter="dense", dropout=0.1))
