"""The training graph against closed forms, against Keras' own step, and two replicas against one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.tasks.classification import Classification
from tfbigmodel.tasks.regression import Regression
from tfbigmodel.training.config import TrainingConfig
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.loop import UpdateRule, make_evaluate, make_train_steps

CLASSIFICATION = Classification(("a", "b", "c"))
BATCH = 8


def examples(seed=0, count=64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)).astype(np.float32), rng.integers(0, 3, count).astype(np.int32)


def small_model(batch_norm=False, l2=0.0):
    x = inputs = keras.Input((4,), name="x")
    initializer = keras.initializers.GlorotUniform(seed=1)
    regularizer = keras.regularizers.L2(l2) if l2 else None
    x = keras.layers.Dense(
        5, use_bias=not batch_norm, kernel_initializer=initializer, kernel_regularizer=regularizer, name="hidden"
    )(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(synchronized=True, name="batch_norm")(x)
    x = keras.layers.Activation("tanh", name="tanh")(x)
    logits = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=2), name="logits")(x)
    return keras.Model({"x": inputs}, logits)


def batches(context, batch_size=BATCH):
    """Consecutive batches; with several replicas each gets its share of every batch, in order."""
    x, y = examples()
    dataset = tf.data.Dataset.from_tensor_slices(({"x": x}, y))
    return dataset.batch(batch_size // context.num_replicas_in_sync)


def run(strategy, optimizer, num_steps, batch_size=BATCH, batch_norm=False, l2=0.0, **rule):
    with strategy.scope():
        model = small_model(batch_norm, l2)
        optimizer = optimizer()
    update = UpdateRule(batch_size=batch_size, **rule)
    train_steps = make_train_steps(model, optimizer, CLASSIFICATION, strategy, update)
    iterator = iter(strategy.distribute_datasets_from_function(lambda context: batches(context, batch_size)))
    results = train_steps(iterator, num_steps)
    return model, results


def two_replicas():
    return make_strategy(TrainingConfig(strategy="mirrored", virtual_cpus=2))


def weights(model):
    return [keras.ops.convert_to_numpy(w.value) for w in model.weights]


def reference(num_steps, batch_size=BATCH, clip_norm=None, class_weights=None, learning_rate=0.1, l2=0.0):
    """Plain gradient descent, written out with NumPy's eyes: no strategy, no optimizer, no graph."""
    model = small_model(l2=l2)
    x, y = examples()
    for step in range(num_steps):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        with tf.GradientTape() as tape:
            log_probabilities = tf.nn.log_softmax(model({"x": x[rows]}, training=True))
            losses = -tf.gather(log_probabilities, y[rows], batch_dims=1)
            if class_weights is not None:
                losses *= tf.gather(tf.constant(class_weights), y[rows])
            loss = tf.reduce_mean(losses)
            if l2:
                loss += l2 * tf.reduce_sum(tf.square(model.get_layer("hidden").kernel.value))
        gradients = [np.array(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
        scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign(variable.value - learning_rate * scale * gradient)
    return weights(model), norm


def assert_close(actual, expected, tolerance=1e-6):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=tolerance, rtol=tolerance)


def sgd():
    return keras.optimizers.SGD(0.1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_are_those_of_gradient_descent(jit_compile):
    model, _ = run(tf.distribute.get_strategy(), sgd, 5, jit_compile=jit_compile)
    assert_close(weights(model), reference(5)[0])


def test_gradients_are_clipped_by_their_global_norm():
    model, results = run(tf.distribute.get_strategy(), sgd, 1, clip_norm=0.05)
    expected, norm = reference(1, clip_norm=0.05)
    assert_close(weights(model), expected)
    assert norm > 0.05
    assert results.gradient_norm[0] == pytest.approx(norm, rel=1e-5)


def test_gradient_components_are_cut():
    start = weights(small_model())
    model, _ = run(tf.distribute.get_strategy(), sgd, 1, clip_value=1e-3)
    steps = [np.abs(after - before).max() for after, before in zip(weights(model), start, strict=True)]
    assert max(steps) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_class_weights_multiply_the_loss():
    model, results = run(tf.distribute.get_strategy(), sgd, 3, class_weights=[0.5, 1.0, 4.0])
    assert_close(weights(model), reference(3, class_weights=np.float32([0.5, 1.0, 4.0]))[0])
    assert not np.allclose(results.loss, run(tf.distribute.get_strategy(), sgd, 3)[1].loss)


def test_class_weights_of_mixed_labels_are_their_weights_mean():
    class_weights = np.float32([0.5, 1.0, 4.0])
    x, y = examples(count=8)
    shares = (0.75 * np.eye(3)[y] + 0.25 * np.eye(3)[y[::-1]]).astype(np.float32)
    model = small_model()
    optimizer = keras.optimizers.SGD(0.1)
    rule = UpdateRule(8, class_weights=class_weights.tolist())
    steps = make_train_steps(model, optimizer, CLASSIFICATION, tf.distribute.get_strategy(), rule)
    log_probabilities = tf.nn.log_softmax(small_model()({"x": x})).numpy()
    expected = np.mean(-(shares * log_probabilities).sum(axis=1) * (shares * class_weights).sum(axis=1))
    results = steps(iter(tf.data.Dataset.from_tensors(({"x": x}, shares))), 1)
    np.testing.assert_allclose(results.loss, [expected], rtol=1e-5)
    largest = log_probabilities.argmax(axis=1) == shares.argmax(axis=1)
    assert results.totals["accuracy"].tolist() == [largest.sum()]


def test_labels_are_smoothed_in_training_only():
    x, y = examples(count=8)
    batch = ({"x": x}, y, np.ones(8, np.float32))
    task = Classification(("a", "b", "c"), label_smoothing=0.3)
    log_probabilities = tf.nn.log_softmax(small_model()({"x": x})).numpy()
    own = -log_probabilities[range(8), y]
    strategy = tf.distribute.get_strategy()
    measured = make_evaluate(small_model(), task, strategy)(iter(tf.data.Dataset.from_tensors(batch)), 1)
    assert measured["loss"] == pytest.approx(own.mean(), rel=1e-5)
    steps = make_train_steps(small_model(), keras.optimizers.SGD(0.1), task, strategy, UpdateRule(8))
    smoothed = steps(iter(tf.data.Dataset.from_tensors(batch)), 1).loss
    np.testing.assert_allclose(smoothed, [np.mean(0.7 * own - 0.3 * log_probabilities.mean(axis=1))], rtol=1e-5)


def test_penalties_are_counted_once_whatever_the_number_of_replicas():
    expected, _ = reference(3, l2=0.1)
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        assert_close(weights(run(strategy, sgd, 3, l2=0.1)[0]), expected)


def test_penalties_are_counted_once_whatever_the_accumulation():
    model, _ = run(tf.distribute.get_strategy(), sgd, 3, batch_size=4, accumulation=2, l2=0.1)
    assert_close(weights(model), reference(3, l2=0.1)[0])


@pytest.mark.parametrize(
    "optimizer",
    [sgd, lambda: keras.optimizers.Adam(0.01), lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1)],
    ids=["sgd", "adam", "adamw"],
)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_two_replicas_do_what_one_does(optimizer, clip_norm):
    one, one_results = run(tf.distribute.get_strategy(), optimizer, 8, batch_norm=True, clip_norm=clip_norm)
    mirrored = two_replicas()
    two, two_results = run(mirrored, optimizer, 8, batch_norm=True, clip_norm=clip_norm)
    assert_close(weights(two), weights(one), 2e-5)
    np.testing.assert_allclose(two_results.loss, one_results.loss, atol=1e-5)
    np.testing.assert_allclose(two_results.gradient_norm, one_results.gradient_norm, rtol=1e-4)
    np.testing.assert_array_equal(two_results.totals["accuracy"], one_results.totals["accuracy"])


# XLA is not used under a strategy that distributes.
@pytest.mark.parametrize(("replicas", "jit_compile"), [(1, False), (1, True), (2, False)])
def test_accumulated_micro_batches_are_one_large_batch(replicas, jit_compile):
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()

    def adam():
        return keras.optimizers.Adam(0.01)

    large, large_results = run(tf.distribute.get_strategy(), adam, 4, batch_size=16, clip_norm=0.5)
    small, small_results = run(strategy, adam, 4, batch_size=4, accumulation=4, clip_norm=0.5, jit_compile=jit_compile)
    assert_close(weights(small), weights(large), 1e-5)
    np.testing.assert_allclose(small_results.loss, large_results.loss, atol=1e-6)
    np.testing.assert_array_equal(small_results.counts["accuracy"], [16.0] * 4)


def test_one_execution_of_many_steps_is_many_of_one():
    strategy = tf.distribute.get_strategy()
    many, results = run(strategy, sgd, 6)
    with strategy.scope():
        model, optimizer = small_model(), sgd()
    train_steps = make_train_steps(model, optimizer, CLASSIFICATION, strategy, UpdateRule(BATCH))
    iterator = iter(strategy.distribute_datasets_from_function(batches))
    losses = [train_steps(iterator, n).loss for n in (1, 3, 2)]
    np.testing.assert_array_equal(np.concatenate(losses), results.loss)
    for a, b in zip(weights(model), weights(many), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loss_and_accuracy_are_those_of_the_step():
    model = small_model()
    x, y = examples()
    logits = model.predict({"x": x[:BATCH]}, verbose=0)
    _, results = run(tf.distribute.get_strategy(), sgd, 1)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y[:BATCH], logits)
    assert results.loss[0] == pytest.approx(float(expected), rel=1e-5)
    assert results.totals["accuracy"][0] == np.sum(logits.argmax(1) == y[:BATCH])


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_counts_every_example_once_and_padding_never(replicas):
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()
    x, y = examples(count=13)
    pad = 3
    padded = np.concatenate([x, np.full((pad, 4), 1e3, np.float32)]), np.concatenate([y, np.zeros(pad, np.int32)])
    weight = np.concatenate([np.ones(13, np.float32), np.zeros(pad, np.float32)])
    with strategy.scope():
        model = small_model()
    evaluate = make_evaluate(model, CLASSIFICATION, strategy)
    dataset = tf.data.Dataset.from_tensor_slices(({"x": padded[0]}, padded[1], weight))
    iterator = iter(
        strategy.distribute_datasets_from_function(lambda context: dataset.batch(8 // context.num_replicas_in_sync))
    )
    metrics = evaluate(iterator, 2)
    logits = model.predict({"x": x}, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == y))


def test_regression_learns_squared_error_and_reports_in_the_targets_units():
    strategy = tf.distribute.get_strategy()
    inputs = keras.Input((4,), name="x")
    model = keras.Model({"x": inputs}, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
    x, _ = examples()
    y = x @ np.float32([1, -2, 0.5, 0])
    train_steps = make_train_steps(model, sgd(), Regression(scale=2.0), strategy, UpdateRule(BATCH))
    dataset = tf.data.Dataset.from_tensor_slices(({"x": x}, y)).batch(BATCH)
    results = train_steps(iter(dataset.repeat(20)), 160)
    assert results.loss[0] == pytest.approx(np.mean(y[:BATCH] ** 2), rel=1e-5)
    mae = results.totals["mae"] / results.counts["mae"]
    assert mae[0] == pytest.approx(2.0 * np.mean(np.abs(y[:BATCH])), rel=1e-5)
    np.testing.assert_allclose(model.weights[0].numpy()[:, 0], [1, -2, 0.5, 0], atol=1e-3)


def test_replicas_draw_dropout_masks_of_their_own():
    strategy = two_replicas()
    with strategy.scope():
        inputs = keras.Input((1000,), name="x")
        dropout = keras.layers.Dropout(0.5, seed=3)
        model = keras.Model({"x": inputs}, keras.layers.Dense(3)(dropout(inputs)))
        optimizer = sgd()
    make_train_steps(model, optimizer, CLASSIFICATION, strategy, UpdateRule(BATCH))
    single = keras.layers.Dropout(0.5, seed=3)
    ones = tf.ones([1, 1000])
    for _ in range(2):  # the first replica's masks are those of one replica, step by step
        results = strategy.run(tf.function(lambda: dropout(ones, training=True)))
        first, second = (np.array(result) for result in strategy.experimental_local_results(results))
        np.testing.assert_array_equal(first, single(ones, training=True))
        assert 0.4 < np.mean(first != second) < 0.6


def test_a_weight_that_nothing_reads_stays_as_it_is():
    strategy = tf.distribute.get_strategy()
    inputs = keras.Input((4,), name="x")
    logits = keras.layers.Dense(3, name="logits")(inputs)
    spare = keras.layers.Dense(2, name="spare")(inputs)
    model = keras.Model({"x": inputs}, {"logits": logits, "spare": spare})
    before = [w.numpy() for w in model.get_layer("spare").weights]

    class Task:
        metric_names = ()
        metrics = staticmethod(lambda labels, outputs, weights: {})
        loss = staticmethod(lambda labels, outputs, training: CLASSIFICATION.loss(labels, outputs["logits"], training))

    train_steps = make_train_steps(model, sgd(), Task, strategy, UpdateRule(BATCH))
    x, y = examples()
    train_steps(iter(tf.data.Dataset.from_tensor_slices(({"x": x}, y)).batch(BATCH)), 2)
    for old, new in zip(before, model.get_layer("spare").weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
