"""Operations of a traced graph beside closed forms, and beside TensorFlow's own profiler where that is right."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.cost.flops import count_flops
from tfbigmodel.cost.graph import Frame
from tfbigmodel.layers.lstm import LSTM


def flops(function, *shapes):
    """The count, after one run, which shows that the graph is a right one."""
    arguments = [tf.ones(shape) for shape in shapes]
    concrete = tf.function(function, autograph=False).get_concrete_function(*arguments)
    concrete(*arguments)
    return count_flops(Frame(concrete.graph))


def profiled(function, *shapes):
    concrete = tf.function(function, autograph=False).get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes))
    options = tf.compat.v1.profiler.ProfileOptionBuilder(
        tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    ).with_empty_output()
    graph = concrete.graph.as_graph_def(add_shapes=True)
    with tf.Graph().as_default() as imported:
        tf.graph_util.import_graph_def(graph, name="")
        return tf.compat.v1.profiler.profile(imported, options=options.build()).total_float_ops


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (tf.matmul, ([2, 3], [3, 5])),
        (lambda a, b: tf.matmul(a, b, transpose_a=True), ([3, 2], [3, 5])),
        (lambda a, b: tf.matmul(a, b, transpose_b=True), ([2, 3], [5, 3])),
    ],
)
def test_a_matrix_product_is_counted_as_the_profiler_counts_it(function, shapes):
    assert flops(function, *shapes).products == profiled(function, *shapes) == 2 * 2 * 3 * 5


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (tf.matmul, ([7, 2, 3], [7, 3, 5]), 2 * 7 * 2 * 3 * 5),
        (tf.matmul, ([4, 1, 2, 3], [6, 3, 5]), 2 * 24 * 2 * 3 * 5),
        (lambda a, b: tf.raw_ops.BatchMatMulV2(x=a, y=b, adj_x=True), ([7, 3, 2], [7, 3, 5]), 2 * 7 * 2 * 3 * 5),
        (lambda a, b: tf.einsum("bqhd,bkhd->bhqk", a, b), ([2, 3, 4, 5], [2, 6, 4, 5]), 2 * 2 * 3 * 4 * 5 * 6),
        (lambda a, b: tf.raw_ops.Einsum(inputs=[a, b], equation="...d,de->...e"), ([2, 3, 4], [4, 5]), 2 * 6 * 4 * 5),
        (lambda a: tf.raw_ops.Einsum(inputs=[a], equation="ij->ji"), ([2, 3],), 0),
    ],
)
def test_products_of_batches_have_a_closed_form(function, shapes, expected):
    assert flops(function, *shapes).products == expected


def test_a_convolution_and_its_two_gradients_count_alike():
    def step(images, filters):
        with tf.GradientTape() as tape:
            tape.watch([images, filters])
            outputs = tf.nn.conv2d(images, filters, strides=2, padding="SAME")
        return outputs, *tape.gradient(outputs, [images, filters])

    once = 2 * (2 * 4 * 4 * 6) * (3 * 3 * 5)
    assert flops(lambda a, b: step(a, b)[0], [2, 8, 8, 5], [3, 3, 5, 6]).products == once
    assert flops(step, [2, 8, 8, 5], [3, 3, 5, 6]).products == 3 * once


def test_groups_and_depthwise_convolutions_add_up_over_fewer_channels():
    grouped = flops(lambda a, b: tf.nn.conv2d(a, b, 1, "SAME"), [2, 8, 8, 6], [3, 3, 2, 9])
    assert grouped.products == 2 * (2 * 8 * 8 * 9) * (3 * 3 * 2)

    def step(images, filters):
        with tf.GradientTape() as tape:
            tape.watch([images, filters])
            outputs = tf.nn.depthwise_conv2d(images, filters, [1, 1, 1, 1], "SAME")
        return tape.gradient(outputs, [images, filters])

    # The forward result itself is not needed for its gradients, and is not computed.
    assert flops(step, [2, 8, 8, 5], [3, 3, 5, 2]).products == 2 * 2 * (2 * 8 * 8 * 10) * 9


def test_only_what_runs_is_counted():
    def step(a, b):
        tf.matmul(a, b)  # nobody reads it
        return a + 1.0

    assert flops(step, [2, 3], [3, 5]).products == 0
    assert flops(step, [2, 3], [3, 5]).other == 6


def test_a_loop_counts_as_often_as_it_runs():
    def power(matrix, times):
        return tf.while_loop(lambda i, _: i < times, lambda i, m: (i + 1, tf.matmul(m, matrix)), (0, matrix))[1]

    assert flops(lambda m: power(m, 7), [4, 4]).products == 7 * 2 * 4**3
    bounded = lambda m: tf.while_loop(  # noqa: E731
        lambda i, _: i <= 100, lambda i, m: (i + 3, tf.matmul(m, m)), (1, m), maximum_iterations=5
    )[1]
    assert flops(bounded, [4, 4]).products == 5 * 2 * 4**3
    assert flops(lambda m: power(m, tf.shape(m)[0] * 2 - 1), [4, 4]).products == 7 * 2 * 4**3
    nested = lambda m: tf.while_loop(lambda i, _: i < 3, lambda i, m: (i + 1, power(m, 2)), (0, m))[1]  # noqa: E731
    assert flops(nested, [4, 4]).products == 3 * 2 * 2 * 4**3


def test_the_gradient_of_a_loop_is_a_loop_that_runs_as_often():
    def step(matrix):
        with tf.GradientTape() as tape:
            tape.watch(matrix)
            last = tf.while_loop(lambda i, _: i < 7, lambda i, m: (i + 1, tf.matmul(m, matrix)), (0, matrix))[1]
        return tape.gradient(last, matrix)

    counted = flops(step, [4, 4])
    assert counted.products == 3 * 7 * 2 * 4**3  # a product forward, two for its gradients
    assert not counted.unknown


def test_a_loop_that_data_ends_is_told_and_counts_once():
    def halve(x):
        return tf.while_loop(lambda m: tf.reduce_sum(m) > 1.0, lambda m: (tf.matmul(m, m) / 64.0,), (x,))[0]

    counted = flops(halve, [4, 4])
    assert counted.products == 2 * 4**3
    assert "the trips of the loop" in counted.unknown[0]


def test_sizes_that_only_a_run_knows_are_told():
    concrete = tf.function(tf.matmul).get_concrete_function(tf.TensorSpec([None, 3]), tf.TensorSpec([3, 5]))
    counted = count_flops(Frame(concrete.graph))
    assert counted.products == 0
    assert counted.unknown == ["the sizes of MatMul MatMul"]


def test_of_a_condition_the_dearer_branch_counts():
    def either(x):
        return tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.matmul(x, x), lambda: x)

    assert flops(either, [4, 4]).products == 2 * 4**3


def test_a_called_function_counts():
    inner = tf.function(lambda x: tf.matmul(x, x), jit_compile=True)
    assert flops(lambda x: inner(x) + inner(x), [4, 4]).products == 2 * 2 * 4**3


def test_numbers_that_come_out_of_simple_operations_count_once():
    assert flops(lambda a: tf.tanh(a) * a, [3, 4]).other == 24
    assert flops(lambda a: tf.reduce_sum(a, axis=0), [3, 4]).other == 12
    assert flops(lambda a: tf.transpose(tf.reshape(a, [4, 3])), [3, 4]).total == 0


def training_products(model, inputs):
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    model(inputs)  # makes the weights
    counted = flops(step, inputs.shape)
    assert not counted.unknown
    return counted.products


def test_training_dense_layers_costs_three_forward_passes_less_the_first_layers_input_gradient():
    model = keras.Sequential([keras.layers.Dense(500, "relu"), keras.layers.Dense(10)])
    first, second = 2 * 64 * 784 * 500, 2 * 64 * 500 * 10
    # The last layer's outputs are only added up here: its forward product is not needed for any gradient.
    assert training_products(model, tf.ones([64, 784])) == 3 * (first + second) - first - second


@pytest.mark.parametrize("bidirectional", [False, True])
def test_our_lstm_costs_what_an_lstm_costs(bidirectional):
    batch, length, dim, units = 3, 7, 10, 6
    layer = LSTM(units, bidirectional=bidirectional, seed=1)
    directions = 2 if bidirectional else 1
    # Eight times units times (units + dim) for each token: four gates, a product and a sum each; a bias is one more
    # input. Backward as much for what came in, and as much for the weights.
    forward = directions * batch * length * 8 * units * (units + dim + 1)
    layer.build([batch, length, dim])
    assert flops(lambda x: layer(x), [batch, length, dim]).products == forward
    assert training_products(layer, tf.ones([batch, length, dim])) == 3 * forward


def test_our_lstm_and_keras_cost_the_same_but_for_the_bias():
    ours, keras_layer = LSTM(6, seed=1), keras.layers.LSTM(6, return_sequences=True)
    tokens = tf.constant(np.random.default_rng(1).normal(size=[3, 7, 10]), tf.float32)
    keras_layer(tokens)
    ours.build(tokens.shape)
    bias = 3 * 7 * 8 * 6
    theirs = flops(lambda x: keras_layer(x), tokens.shape)
    assert not theirs.unknown
    assert theirs.products == flops(lambda x: ours(x), tokens.shape).products - bias
