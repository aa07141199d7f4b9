"""Runs with callbacks that act at the beginning of an epoch or of training, killed inside an epoch, go on bit-equal."""

import random

import keras
import numpy as np
import pytest

import tfbigmodel
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.training.checkpoints import latest_checkpoint


class Crash(keras.callbacks.Callback):
    """Ends the run after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self._batches = iter(range(batches))

    def on_train_batch_end(self, batch, logs=None):
        if next(self._batches, None) is None:
            raise RuntimeError("crash")


class Draws(keras.callbacks.Callback):
    """Sets the learning rate by chance, when training and when an epoch begins."""

    def on_train_begin(self, logs=None):
        self.rates = []
        self.model.optimizer.learning_rate = 0.01 * random.random()

    def on_epoch_begin(self, epoch, logs=None):
        self.armed = True
        self.not_kept = iter(range(100))  # what no checkpoint holds must be there all the same
        self.model.optimizer.learning_rate = 0.01 * (0.5 + random.random() * np.random.random())

    def on_train_batch_end(self, batch, logs=None):
        next(self.not_kept)
        if self.armed and batch >= 2:
            self.armed = False
            self.rates.append(float(self.model.optimizer.learning_rate))


class Once(keras.callbacks.Callback):
    """Halves the learning rate once in each epoch; between epochs its attribute is what it was made with."""

    done = False

    def __init__(self):
        super().__init__()
        self.waiting = False

    def on_epoch_begin(self, epoch, logs=None):
        self.waiting = True

    def on_train_batch_end(self, batch, logs=None):
        if self.waiting and batch >= 2:
            self.waiting = False
            self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)


def callbacks(kind):
    if kind == "scheduler":
        return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.7 * rate)]
    return [Draws()] if kind == "draws" else [Once()]


def state(workdir):
    checkpoint, problems = latest_checkpoint(workdir / "checkpoints")
    assert not problems
    checkpoint.state.pop("event_files", None)  # each start has its own
    return checkpoint.state, {**checkpoint.model_arrays(), **checkpoint.optimizer_arrays(), **checkpoint.host_arrays()}


@pytest.mark.parametrize("kind", ["scheduler", "draws", "once"])
def test_what_an_epoch_begins_with_is_not_done_twice(tmp_path, kind):
    values = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 64},
        "model": {"chapter": "dense", "hidden_units": [16]},
        "checkpoints": {"every_steps": 5},
        "training": {"epochs": 3, "optimizer": {"learning_rate": 0.01}, "steps_per_execution": 1},
    }
    settings = resolve(validate_config(values, "test"))
    tfbigmodel.train(settings, tmp_path / "undisturbed", [Crash(1000), *callbacks(kind)])
    for batches in (8, 20):  # inside the first epoch, and inside the second
        with pytest.raises(RuntimeError, match="crash"):
            tfbigmodel.train(settings, tmp_path / "run", [Crash(batches), *callbacks(kind)])
        assert state(tmp_path / "run")[0]["step"] > 0, "it is to go on inside an epoch"
    tfbigmodel.train(settings, tmp_path / "run", [Crash(1000), *callbacks(kind)])
    (expected, expected_arrays), (found, arrays) = state(tmp_path / "undisturbed"), state(tmp_path / "run")
    assert found == expected
    assert arrays.keys() == expected_arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], expected_arrays[name], err_msg=name)


class Slower(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.optimizer.learning_rate = 0.001


def test_callbacks_that_were_not_there_before_act_from_the_start(tmp_path, capsys):
    values = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 64},
        "model": {"chapter": "dense", "hidden_units": [16]},
        "training": {"epochs": 1, "optimizer": {"learning_rate": 0.01}},
    }
    tfbigmodel.train(resolve(validate_config(values, "test")), tmp_path / "run")
    values["training"]["epochs"] = 2
    tfbigmodel.train(resolve(validate_config(values, "test")), tmp_path / "run", [Slower()])
    assert "warning: the run's callbacks were none and are Slower now" in capsys.readouterr().err
    rate = next(array for name, array in state(tmp_path / "run")[1].items() if name.endswith("learning_rate"))
    assert rate == np.float32(0.001)
