import math

import keras
import numpy as np
import pytest

from pipelines.errors import UserError
from tfbigmodel.config import OptimizerConfig, ScheduleConfig
from tfbigmodel.training.optimizers import OPTIMIZERS, make_optimizer


def rates(schedule, steps, steps_per_epoch=10, total_steps=100, learning_rate=0.5):
    optimizer = make_optimizer(
        OptimizerConfig(name="sgd", learning_rate=learning_rate),
        ScheduleConfig(**schedule),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    values = []
    variable = keras.Variable(0.0)
    optimizer.build([variable])
    for step in steps:
        optimizer.iterations.assign(step)
        values.append(float(optimizer.learning_rate))
    return values


def test_constant_rate_is_a_variable_that_callbacks_can_set():
    optimizer = make_optimizer(OptimizerConfig(), ScheduleConfig(), steps_per_epoch=10, total_steps=100)
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
    optimizer = make_optimizer(
        OptimizerConfig(name=name, learning_rate=0.01), ScheduleConfig(), steps_per_epoch=1, total_steps=10
    )
    variable = keras.Variable([3.0, -2.0])
    for _ in range(10):
        optimizer.apply([2 * variable.value], [variable])
    assert np.sum(variable.numpy() ** 2) < 13.0


def test_momentum_is_sgd_with_momentum():
    optimizer = make_optimizer(OptimizerConfig(name="momentum"), ScheduleConfig(), steps_per_epoch=1, total_steps=1)
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
        make_optimizer(OptimizerConfig(**config), ScheduleConfig(), steps_per_epoch=1, total_steps=1)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="500 warm-up steps leave nothing of the run's 100 updates"):
        rates({"warmup_steps": 500}, [0])
