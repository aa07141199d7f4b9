"""What a run's event files hold, read as TensorBoard reads them."""

import json

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import tfbigmodel
from tfbigmodel.config import resolve, validate_config

MATRIX = "confusion_matrix/test"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tensorboard") / "run"
    settings = validate_config(
        {
            "data": {"source": "builtin", "name": "digits"},
            "model": {"chapter": "dense", "hidden_units": [16]},
            "training": {"epochs": 3, "schedule": {"name": "linear"}, "validate_every_steps": 10},
            "tensorboard": {"every_steps": 5, "histograms": True},
        },
        "test",
    )
    tfbigmodel.train(resolve(settings), workdir)
    return workdir


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def curve(folder, tag):
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events(folder).Tensors(tag)]


def history(run):
    states = sorted((run / "checkpoints").glob("step-*/state.json"))
    return json.loads(states[-1].read_text())["history"]


@pytest.mark.parametrize(("split", "prefix"), [("train", ""), ("validation", "val_")])
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_epoch_curves_hold_the_epochs_values(run, split, prefix, metric):
    expected = [logs[prefix + metric] for logs in history(run)]
    assert curve(run / "tensorboard" / split, f"epoch_{metric}") == [
        (epoch, pytest.approx(value, rel=1e-6)) for epoch, value in enumerate(expected)
    ]


def test_training_curves_have_a_point_every_n_updates(run):
    for tag in ("loss", "accuracy", "gradient_norm"):
        points = curve(run / "tensorboard" / "train", tag)
        assert [step for step, _ in points] == list(range(5, 58, 5))
        assert np.isfinite([value for _, value in points]).all()
    losses = [value for _, value in curve(run / "tensorboard" / "train", "loss")]
    assert losses[-1] < losses[0]


def test_validation_shares_the_training_curves_charts(run):
    steps = [step for step, _ in curve(run / "tensorboard" / "validation", "loss")]
    assert steps == [10, 19, 20, 30, 38, 40, 50, 57]


def test_learning_rate_and_throughput(run):
    rates = curve(run / "tensorboard" / "train", "learning_rate")
    # Each is that of the update that comes next; update number s, from 0, has 1e-3 * (1 - s / 56), and none is 57.
    assert len(rates) > 2
    assert [value for _, value in rates] == [pytest.approx(max(1e-3 * (1 - s / 56), 0), abs=1e-7) for s, _ in rates]
    assert all(value > 0 for _, value in curve(run / "tensorboard" / "train", "examples_per_second"))


def test_graph_histograms_images_and_hyperparameters(run):
    train = events(run / "tensorboard" / "train")
    assert train.Tags()["graph"]
    assert {"dense_1/kernel", "logits/bias"} <= set(train.Tags()["tensors"])
    validation = events(run / "tensorboard" / "validation")
    for split in ("validation", "test"):
        (event,) = validation.Tensors(f"confusion_matrix/{split}")
        width, height, *images = event.tensor_proto.string_val
        assert images[0].startswith(b"\x89PNG")
        assert int(width) > 100
        assert int(height) > 100
    plugins = events(run / "tensorboard").summary_metadata
    assert any(metadata.plugin_data.plugin_name == "hparams" for metadata in plugins.values())


class Crash(keras.callbacks.Callback):
    """Ends a run at a batch, or at an epoch's end, when its curves are written and its checkpoint is not."""

    def __init__(self, epoch=None, batch=None):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise RuntimeError("crash")

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self.at:
            raise RuntimeError("crash")


def test_a_run_that_goes_on_has_each_point_once(tmp_path):
    settings = {
        "data": {"source": "builtin", "name": "digits"},
        "model": {"chapter": "dense", "hidden_units": [16]},
        "checkpoints": {"every_steps": 8},
        "training": {"epochs": 2, "validate_every_steps": 6, "steps_per_execution": 1},
        "tensorboard": {"every_steps": 3},
    }

    def train(workdir, at=(None, None), **training):
        values = {**settings, "training": {**settings["training"], **training}}
        tfbigmodel.train(resolve(validate_config(values, "test")), workdir, [Crash(*at)])

    def curves(workdir):
        return {
            (split, tag): curve(workdir / "tensorboard" / split, tag)
            for split in ("train", "validation")
            for tag in events(workdir / "tensorboard" / split).Tags()["tensors"]
            if "/" not in tag and tag != "examples_per_second"
        }

    train(tmp_path / "undisturbed")
    # Before each crash points were written that the checkpoint knows nothing of: of updates 9, 12, 18 and 21, of the
    # first epoch, and of validations.
    for at in ((0, 14), (0, None), (1, 4)):
        with pytest.raises(RuntimeError, match="crash"):
            train(tmp_path / "run", at)
    train(tmp_path / "run")
    expected, found = curves(tmp_path / "undisturbed"), curves(tmp_path / "run")
    assert {tag for _, tag in expected} >= {"loss", "epoch_loss", "learning_rate", "gradient_norm"}
    assert found == expected
    # What was shown when it ended stays there when it goes on.
    train(tmp_path / "run", epochs=3)
    steps = [event.step for event in events(tmp_path / "run" / "tensorboard" / "validation").Tensors(MATRIX)]
    assert steps == [38, 57]
    train(tmp_path / "undisturbed", epochs=3)
    assert curves(tmp_path / "run") == curves(tmp_path / "undisturbed")
