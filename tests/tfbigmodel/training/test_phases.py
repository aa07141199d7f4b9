"""Phases: what they freeze, their optimizers, and runs that are stopped in the midst of them."""

import math
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from pipelines.errors import UserError
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.model import build_model, fill_in_preset, load_data, make_task
from tfbigmodel.training.checkpoints import latest_checkpoint, open_checkpoint
from tfbigmodel.training.config import TrainingConfig
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.fit import fit
from tfbigmodel.training.phases import phases_from, phases_of
from tfbigmodel.training.rule import make_rule, updates_per_epoch
from tfbigmodel.training.seeds import separate_random_seeds
from tfbigmodel.training.signals import Interrupted
from tfbigmodel.training.start import starting_state
from tfbigmodel.workdir import Workdir

STEPS = 3  # in an epoch: 56 images in batches of 16
HEAD_THEN_LAST_STAGE = [
    {"from_epoch": 0, "train": "head", "learning_rate": 0.1},
    {"from_epoch": 1, "train": 1, "learning_rate": 0.02},
]


@pytest.fixture(scope="module")
def configured(digits_folder, tmp_path_factory):
    """Configurations of runs on few digits."""
    cache = tmp_path_factory.mktemp("cache")

    def made(**training):
        values = {
            "data": {
                "source": "image_folder", "path": str(digits_folder), "cache_dir": str(cache), "batch_size": 16,
                "images": {"size": 8}, "augmentation": {"rotation": 10.0, "translation": 0.1},
            },
            "model": {"chapter": "resnet50", "stem": "small_image", "dropout": 0.3},
            "checkpoints": {"keep": 20, **training.pop("checkpoints", {})},
            "training": {
                "epochs": 3, "steps_per_execution": 1, "phases": HEAD_THEN_LAST_STAGE,
                "optimizer": {"name": "momentum", "learning_rate": 0.5}, **training,
            },
        }  # fmt: skip
        return fill_in_preset(resolve(validate_config(values, "test")))

    return made


def fitted(config, folder, callbacks=()):
    """What `train` does, without measuring the splits at the end; returns what is said at the start."""
    said, workdir = [], Workdir(folder)
    data = load_data(config)
    strategy = make_strategy(config.training)
    steps = updates_per_epoch(config, data)
    assert steps == STEPS
    keras.utils.set_random_seed(config.training.seed)
    model = build_model(config, data.info)
    state, optimizer, _ = starting_state(config, workdir, data.info, model, strategy, steps, said.append)
    rule, task = make_rule(config, data.info, strategy), make_task(config, data.info)
    fit(model, optimizer, data, task, strategy, config, rule, state, workdir.checkpoints, callbacks=callbacks)
    return said


def state_of(folder):
    return latest_checkpoint(folder / "checkpoints")[0].state


def arrays_at(folder, updates):
    return open_checkpoint(folder / "checkpoints" / f"step-{updates:010d}").model_arrays()


def assert_same_run(first, second):
    one, two = (latest_checkpoint(folder / "checkpoints")[0] for folder in (first, second))
    # What the tests' own callbacks saw is of no interest.
    unlike = {"planned_epochs": 0, "callbacks": None}
    assert {**one.state, **unlike} == {**two.state, **unlike}
    for a, b in ((one.model_arrays(), two.model_arrays()), (one.optimizer_arrays(), two.optimizer_arrays())):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class At(keras.callbacks.Callback):
    """Does something after an update, counted from 1."""

    def __init__(self, updates, action):
        super().__init__()
        self.updates, self.action, self.done = updates, action, 0

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        if self.done == self.updates:
            self.action()


def crash():
    raise RuntimeError("crash")


class LearningRates(keras.callbacks.Callback):
    """The rate that the next update would have, after each."""

    def on_train_begin(self, logs=None):
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


@pytest.fixture(scope="module")
def uninterrupted(configured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    rates = LearningRates()
    fitted(configured(schedule={"name": "cosine"}), folder, [rates])
    return folder, rates.rates


def bounds(training):
    return [(phase.index, phase.first_epoch, phase.end_epoch, phase.is_last) for phase in phases_of(training)]


def test_phases_end_where_the_next_begins():
    one = TrainingConfig(epochs=4)
    assert bounds(one) == [(0, 0, 4, True)]
    assert phases_of(one)[0].config is None
    three = TrainingConfig(epochs=9, phases=[{"from_epoch": e, "train": "all"} for e in (0, 2, 5)])
    assert bounds(three) == [(0, 0, 2, False), (1, 2, 5, False), (2, 5, 9, True)]
    assert [phase.config for phase in phases_of(three)] == three.phases
    short = three.model_copy(update={"epochs": 4})
    assert bounds(short) == [(0, 0, 2, False), (1, 2, 4, True)], "a run may be too short for its last phases"
    expected = {0: [0, 1, 2], 1: [0, 1, 2], 2: [1, 2], 4: [1, 2], 5: [2], 8: [2], 9: [2], 12: [2]}
    assert {epoch: [phase.index for phase in phases_from(three, epoch)] for epoch in expected} == expected


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ([(1, "head")], "phases begin with epochs [1]; expected 0 first, then higher and higher ones"),
        ([(0, "head"), (0, "all")], "phases begin with epochs [0, 0]; expected 0 first, then higher"),
        ([(0, "head"), (2, 1), (1, "all")], "phases begin with epochs [0, 2, 1]; expected 0 first, then higher"),
        ([(-1, "head")], "training.phases.0.from_epoch"),
        ([(0, "body")], "training.phases.0.train"),
        ([(0, 0)], "training.phases.0.train"),
    ],
)
def test_phases_that_cannot_be(configured, phases, told):
    with pytest.raises(UserError) as caught:
        configured(phases=[{"from_epoch": epoch, "train": part} for epoch, part in phases])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_later_phase_is_told_at_once(configured, tmp_path):
    phases = [*HEAD_THEN_LAST_STAGE, {"from_epoch": 2, "train": 5}]
    with pytest.raises(UserError) as caught:
        tfbigmodel.train(configured(phases=phases), tmp_path / "run")
    assert str(caught.value) == "training.phases: resnet50 has 4 stages, received train: 5; use 1 to 4, or all"
    phases[-1]["train"] = "all"
    with pytest.raises(UserError) as caught:
        tfbigmodel.train(configured(phases=phases, schedule={"warmup_steps": 3}), tmp_path / "run")
    assert str(caught.value) == (
        "training.phases, from epoch 2 to 3: training.schedule: 3 warm-up steps leave nothing of the run's 3 updates; "
        "lower warmup_steps, use warmup_share, or train for more epochs"
    )


def test_a_chapter_without_parts(tmp_path):
    values = {
        "data": {"source": "builtin", "name": "digits"},
        "model": {"chapter": "dense"},
        "training": {"phases": [{"from_epoch": 0, "train": "head"}]},
    }
    with pytest.raises(UserError) as caught:
        tfbigmodel.train(resolve(validate_config(values, "test")), tmp_path / "run")
    assert str(caught.value) == "training.phases: dense has no head and stages to train apart; remove it"


def test_what_is_frozen_stays_bit_equal_and_the_rest_learns(uninterrupted, configured, digits_folder):
    config = configured()
    model = build_model(config, load_data(config).info)
    at_start = {variable.path: variable.numpy() for variable in model.weights}
    after_head, at_end = (arrays_at(uninterrupted[0], updates) for updates in (STEPS, 3 * STEPS))
    for name, start in at_start.items():  # weights, and the moving statistics of batch normalisation
        changed = [not np.array_equal(start, arrays[name]) for arrays in (after_head, at_end)]
        head, last_stage = name.startswith("logits"), name.startswith("stack3")
        assert changed == [head, head or last_stage], name
    assert sum("moving_" in name for name in at_start) == 2 * 53


def test_each_phase_has_its_own_learning_rate_and_schedule(uninterrupted):
    def cosine(peak, updates):
        shares = (min(step / (updates - 1), 1.0) for step in range(1, updates + 1))
        return [peak * 0.5 * (1.0 + math.cos(math.pi * share)) for share in shares]

    expected = cosine(0.1, STEPS) + cosine(0.02, 2 * STEPS)
    np.testing.assert_allclose(uninterrupted[1], expected, atol=1e-8)


def test_stopped_at_the_end_of_a_phase_it_goes_on_bit_equal(uninterrupted, configured, tmp_path):
    config = configured(schedule={"name": "cosine"})
    with pytest.raises(Interrupted, match="stopped after update 3"):
        fitted(config, tmp_path, [At(STEPS, lambda: signal.raise_signal(signal.SIGTERM))])
    assert (state_of(tmp_path)["epoch"], state_of(tmp_path)["phase"]) == (1, 0)
    rates = LearningRates()
    fitted(config, tmp_path, [rates])
    assert rates.rates == uninterrupted[1][STEPS:]
    assert_same_run(uninterrupted[0], tmp_path)


@pytest.mark.slow
def test_stopped_inside_of_each_phase_it_goes_on_bit_equal(uninterrupted, configured, tmp_path):
    config = configured(schedule={"name": "cosine"}, checkpoints={"every_steps": 2})
    with pytest.raises(RuntimeError, match="crash"):
        fitted(config, tmp_path, [At(3, crash)])  # the phase's last update, which is lost
    assert (state_of(tmp_path)["updates"], state_of(tmp_path)["phase"]) == (2, 0)
    with pytest.raises(Interrupted, match="stopped after update 5"):
        fitted(config, tmp_path, [At(3, lambda: signal.raise_signal(signal.SIGTERM))])
    assert (state_of(tmp_path)["epoch"], state_of(tmp_path)["step"], state_of(tmp_path)["phase"]) == (1, 2, 1)
    with pytest.raises(RuntimeError, match="crash"):
        fitted(config, tmp_path, [At(3, crash)])
    fitted(config, tmp_path)
    assert_same_run(uninterrupted[0], tmp_path)


@pytest.mark.slow
def test_a_finished_run_goes_on_in_its_last_phase(configured, tmp_path):
    fitted(configured(epochs=2), tmp_path / "raised")
    assert state_of(tmp_path / "raised")["phase"] == 1
    fitted(configured(epochs=4), tmp_path / "raised")
    fitted(configured(epochs=4), tmp_path / "at_once")
    assert_same_run(tmp_path / "at_once", tmp_path / "raised")


@pytest.mark.slow
def test_early_stopping_counts_in_the_last_phase(configured, tmp_path):
    phases = [{"from_epoch": 0, "train": "head"}, {"from_epoch": 3, "train": 1}]
    stopping = {"patience": 1, "min_delta": 1000.0}  # nothing is an improvement
    fitted(configured(epochs=6, phases=phases, early_stopping=stopping), tmp_path)
    state = state_of(tmp_path)
    assert (state["epoch"], state["stopped"], state["epochs_without_improvement"]) == (4, "early stopping", 1)


@pytest.mark.slow
def test_stopped_by_a_callback_in_its_first_phase_it_can_go_on(configured, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    fitted(configured(), tmp_path, [Stop()])
    assert (state_of(tmp_path)["epoch"], state_of(tmp_path)["stopped"]) == (1, "a callback")
    fitted(configured(epochs=4), tmp_path)
    assert (state_of(tmp_path)["epoch"], state_of(tmp_path)["phase"]) == (4, 1)


@pytest.mark.slow
def test_weights_of_another_run_are_frozen_as_they_are(configured, tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    everything = [{"from_epoch": 0, "train": "all", "learning_rate": 0.02}]
    tfbigmodel.train(configured(epochs=1, phases=everything), source)
    config = configured(epochs=1, phases=[{"from_epoch": 0, "train": "head"}], initialise_from=str(source))
    # Dropout's state is none of the model's weights.
    assert fitted(config, run) == [f"initialised 267 of 267 weights from {source}"]
    before, after = arrays_at(source, STEPS), arrays_at(run, STEPS)
    for name in before:
        learned = name.startswith(("logits", "seed_generator"))
        assert np.array_equal(before[name], after[name]) is not learned or "seed" in name, name
    shutil.rmtree(source)
    fitted(configured(epochs=2, phases=[{"from_epoch": 0, "train": "head"}], initialise_from=str(source)), run)
    assert state_of(run)["epoch"] == 2, "what has been started needs its source no more"


def test_replicas_draw_the_same_numbers_in_every_phase():
    """A run that is gone on with in its second phase separates their seeds once, as one that was not stopped must."""
    strategy = make_strategy(TrainingConfig(strategy="mirrored", virtual_cpus=2))
    masks = []
    for times in (1, 2):
        with strategy.scope():
            inputs = keras.Input((64,))
            model = keras.Model(inputs, keras.layers.Dropout(0.5, seed=1)(inputs))
        for _ in range(times):
            separate_random_seeds(model)
        results = strategy.run(tf.function(lambda model=model: model(tf.ones([2, 64]), training=True)))
        masks.append([mask.numpy() for mask in strategy.experimental_local_results(results)])
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0][0], masks[0][1])
