import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.optimizers import OPTIMIZERS, keep_reduced_gradients, make_optimizer


def rates(schedule, steps, steps_per_epoch=10, total_steps=100, learning_rate=0.5):
    optimizer = make_optimizer(
        OptimizerConfig(name="sgd", learning_rate=learning_rate),
        ScheduleConfig(**schedule),
        [keras.Variable(0.0)],
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    values = []
    for step in steps:
        optimizer.iterations.assign(step)
        values.append(float(optimizer.learning_rate))
    return values


def test_constant_rate_is_a_variable_that_callbacks_can_set():
    optimizer = make_optimizer(OptimizerConfig(), ScheduleConfig(), [], steps_per_epoch=10, total_steps=100)
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == 0.25


def test_warmup_rises_in_a_straight_line_to_the_peak():
    values = rates({"warmup_steps": 4}, [0, 1, 2, 3, 4, 50])
    np.testing.assert_allclose(values, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5], rtol=1e-6)


def test_warmup_as_a_share_of_all_updates():
    assert rates({"warmup_share": 0.1}, [0, 9, 10]) == pytest.approx([0.05, 0.5, 0.5])


def test_linear_decay_ends_at_the_final_share():
    values = rates({"name": "linear", "final_share": 0.1}, [0, 99, 200])
    assert values == pytest.approx([0.5, 0.05, 0.05])
    assert rates({"name": "linear", "warmup_steps": 49}, [49, 74, 99]) == pytest.approx([0.5, 0.25, 0.0])


def test_cosine_decay_is_half_a_cosine():
    steps = [0, 33, 66, 99]
    expected = [0.5 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * s / 99))) for s in steps]
    assert rates({"name": "cosine", "final_share": 0.2}, steps) == pytest.approx(expected, rel=1e-5)


def test_exponential_decay_is_a_factor_for_each_epoch():
    assert rates({"name": "exponential", "decay_rate": 0.5}, [0, 10, 20]) == pytest.approx([0.5, 0.25, 0.125])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_lowers_a_loss(name):
    variable = keras.Variable([3.0, -2.0])
    optimizer = make_optimizer(
        OptimizerConfig(name=name, learning_rate=0.01), ScheduleConfig(), [variable], steps_per_epoch=1, total_steps=10
    )
    for _ in range(10):
        optimizer.apply([2 * variable.value], [variable])
    assert np.sum(variable.numpy() ** 2) < 13.0


def test_momentum_is_sgd_with_momentum():
    optimizer = make_optimizer(OptimizerConfig(name="momentum"), ScheduleConfig(), [], steps_per_epoch=1, total_steps=1)
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"options": {"beta_9": 0.1}}, "training.optimizer.options.beta_9: adam takes amsgrad, beta_1, beta_2"),
        ({"options": {"clipnorm": 1.0}}, "training.clip_norm"),
        ({"momentum": 0.5}, "training.optimizer.momentum: adam has no momentum; use sgd, momentum or rmsprop"),
        ({"options": {"use_ema": True}}, "training.optimizer.options.use_ema: adam takes"),
    ],
)
def test_wrong_arguments_are_told(config, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(OptimizerConfig(**config), ScheduleConfig(), [], steps_per_epoch=1, total_steps=1)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="500 warm-up steps leave nothing of the run's 100 updates"):
        rates({"warmup_steps": 500}, [0])


def one_step(weights, gradients, scales=None, **config):
    """What one update makes of weights by path."""
    variables = []
    for path, value in weights.items():
        variables.append(keras.Variable(value, name=path.rpartition("/")[2]))
        variables[-1]._path = path
    optimizer = make_optimizer(
        OptimizerConfig(**config), ScheduleConfig(), variables, steps_per_epoch=1, total_steps=1, scales=scales
    )
    optimizer.apply([keras.ops.convert_to_tensor(gradients[path]) for path in weights], variables)
    assert float(optimizer.learning_rate) == pytest.approx(config["learning_rate"]), "shares are not in it"
    return {path: variable.numpy() for path, variable in zip(weights, variables, strict=True)}


WEIGHTS = {
    "lower/kernel": np.float32([[1.0, -2.0]]),
    "upper/kernel": np.float32([[3.0, 0.5]]),
    "lower/query/bias": np.float32([[0.7, -0.7]]),  # heads x head size: a bias of two dimensions
    "norm/gamma": np.float32([1.0, 2.0]),
    "position": np.float32([4.0]),
}
GRADIENTS = {path: np.float32(0.1) * np.sign(value) + np.float32(0.3) for path, value in WEIGHTS.items()}


@pytest.mark.parametrize("scales", [None, {"lower/kernel": 0.25, "lower/query/bias": 0.25}])
def test_one_adamw_step_by_hand(scales):
    after = one_step(WEIGHTS, GRADIENTS, scales, name="adamw", learning_rate=0.01, weight_decay=0.5)
    for path, value in WEIGHTS.items():
        rate = 0.01 * (scales or {}).get(path, 1.0)
        # After one step Adam's means, corrected for their start at zero, are the gradient and its square.
        step = GRADIENTS[path] / (np.abs(GRADIENTS[path]) + 1e-7)
        decay = 0.5 if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(after[path], value - rate * decay * value - rate * step, rtol=1e-5, err_msg=path)


def test_shares_hold_for_optimizers_without_adaptation():
    after = one_step(WEIGHTS, GRADIENTS, {"upper/kernel": 0.5}, name="sgd", learning_rate=0.1)
    np.testing.assert_allclose(after["upper/kernel"], WEIGHTS["upper/kernel"] - 0.05 * GRADIENTS["upper/kernel"])
    np.testing.assert_allclose(after["position"], WEIGHTS["position"] - 0.1 * GRADIENTS["position"])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_takes_shares(name):
    values = {"slow/kernel": np.float32([[3.0, -2.0]]), "fast/kernel": np.float32([[3.0, -2.0]])}
    after = one_step(values, values, {"slow/kernel": 1e-3}, name=name, learning_rate=0.01, weight_decay=0.1)
    moved = {path: np.abs(after[path] - value).max() for path, value in values.items()}
    # FTRL's step is not in proportion to its rate.
    assert 0 < moved["slow/kernel"] < (1.0 if name == "ftrl" else 2e-3) * moved["fast/kernel"]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_shares_in_a_graph(jit_compile):
    variables = [keras.Variable([[1.0]], name="a"), keras.Variable([[1.0]], name="b")]
    optimizer = make_optimizer(
        OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5), ScheduleConfig(warmup_steps=2), variables,
        steps_per_epoch=1, total_steps=10, scales={"a": 0.1},
    )  # fmt: skip
    step = tf.function(lambda: optimizer.apply([tf.ones([1, 1])] * 2, variables), jit_compile=jit_compile)
    step()
    assert variables[0].numpy() == pytest.approx(1 - 0.1 * 0.05 * 1.5, rel=1e-5)
    assert variables[1].numpy() == pytest.approx(1 - 0.05 * 1.5, rel=1e-5)
    assert [v.path for v in optimizer.variables] == [
        "adamw/iteration", "adamw/a_momentum", "adamw/a_velocity", "adamw/b_momentum", "adamw/b_velocity"
    ]  # fmt: skip


def test_two_replicas_apply_shares_and_decay_once():
    def trained(strategy):
        with strategy.scope():
            variables = [
                keras.Variable([[1.0, -1.0]], name="a"),
                keras.Variable([[2.0, 1.0]], name="b"),
                keras.Variable([3.0], name="bias"),
            ]
            optimizer = make_optimizer(
                OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5), ScheduleConfig(), variables,
                steps_per_epoch=1, total_steps=10, scales={"a": 0.1},
            )  # fmt: skip
        keep_reduced_gradients(optimizer)
        gradients = [tf.constant([[0.3, -0.2]]), tf.constant([[0.1, 0.4]]), tf.constant([0.2])]
        step = tf.function(lambda: strategy.run(lambda: optimizer.apply(gradients, variables)))
        for _ in range(3):
            step()
        return [keras.ops.convert_to_numpy(variable.value) for variable in variables]

    mirrored = make_strategy(TrainingConfig(strategy="mirrored", virtual_cpus=2))
    one, two = trained(tf.distribute.get_strategy()), trained(mirrored)
    for expected, value in zip(one, two, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)
