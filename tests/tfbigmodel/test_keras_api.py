"""The public face in user code: a plain Keras model, and a `train` that takes ordinary Keras callbacks."""

import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from pipelines.data import Data
from tfbigmodel.config import RunConfig, validate_config
from tfbigmodel.training.checkpoints import latest_checkpoint
from tfbigmodel.workdir import Workdir

EPOCHS = 2

# Keras says so of every tf.data.Dataset, since `fit` shuffles by default.
pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return tfbigmodel.load_config(
        Path(__file__).parents[2] / "configs" / "dense.yaml",
        [f"training.epochs={EPOCHS}", "model.hidden_units=[16]", "training.jit_compile=false"],
    )


@pytest.fixture(scope="module")
def data(config: RunConfig) -> Data:
    return tfbigmodel.load_data(config)


def changed(config: RunConfig, section: str, **values: object) -> RunConfig:
    plain = config.model_dump(mode="json")
    return validate_config(plain | {section: plain[section] | values}, "test")


def compiled(model: keras.Model, learning_rate: float = 1e-3) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    return model


def history_of(workdir: Path) -> list[dict[str, float]]:
    return latest_checkpoint(workdir / "checkpoints")[0].state["history"]


# A plain Keras model


def test_the_model_is_a_functional_one_with_named_layers(config, data):
    model = tfbigmodel.build_model(config, data.info)
    assert isinstance(model, keras.Model)
    assert [layer.name for layer in model.layers] == ["image", "flatten_image", "dense_1", "activation_1", "logits"]
    assert set(model.input) == {"image"}
    assert model.output_shape == (None, 10)
    logits = model({"image": tf.zeros([3, 8, 8, 1])})
    assert logits.shape == (3, 10)
    assert not np.allclose(keras.ops.sum(keras.ops.exp(logits), axis=-1), 1.0)  # logits, not probabilities


def test_compile_fit_evaluate_predict(config, data):
    model = compiled(tfbigmodel.build_model(config, data.info), 1e-2)
    history = model.fit(data.train(epochs=3), validation_data=data.validation(), verbose=0).history
    assert history["val_accuracy"][-1] > 0.7
    loss, accuracy = model.evaluate(data.test(), verbose=0)
    logits = model.predict(data.test(), verbose=0)
    labels = np.concatenate([label for _, label, _ in data.test()])
    assert len(logits) == len(labels) == data.info.counts["test"] == 359
    losses = keras.ops.convert_to_numpy(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    assert loss == pytest.approx(losses.mean(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean(), abs=1e-6)
    assert accuracy > 0.7


def test_saved_and_loaded_it_gives_the_same_numbers(config, data, tmp_path):
    model = compiled(tfbigmodel.build_model(config, data.info))
    model.fit(data.train(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    features, _ = next(iter(data.train(epoch=5)))
    for size in (64, 3):
        part = {name: tensor[:size] for name, tensor in features.items()}
        np.testing.assert_array_equal(loaded(part), model(part))
    loaded.fit(data.train(epoch=1), verbose=0)  # with the optimizer that was saved
    assert int(loaded.optimizer.iterations) == 2 * data.steps_per_epoch


def test_user_code_can_build_on_it(config, data):
    class Calibrated(keras.Model):
        """Divides the logits by a temperature that is learned, on a network that stays as it is."""

        def __init__(self, network: keras.Model) -> None:
            super().__init__()
            self.network = network
            self.network.trainable = False
            self.temperature = self.add_weight(name="temperature", initializer="ones")

        def call(self, inputs, training=False):
            return self.network(inputs, training=training) / self.temperature

    network = tfbigmodel.build_model(config, data.info)
    before = [weight.copy() for weight in network.get_weights()]
    model = compiled(Calibrated(network), 0.1)
    model.fit(data.train(), verbose=0)
    assert [variable.name for variable in model.trainable_variables] == ["temperature"]
    assert float(model.temperature) != 1.0
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    features = keras.Model(network.inputs, network.get_layer("activation_1").output)
    assert features({"image": tf.zeros([2, 8, 8, 1])}).shape == (2, 16)


def test_a_regression_fits_too(regression_run):
    config = Workdir(regression_run.workdir).config()
    data = tfbigmodel.load_data(config)
    model = tfbigmodel.build_model(config, data.info)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    history = model.fit(data.train(epochs=20), validation_data=data.validation(), verbose=0).history
    assert history["val_loss"][-1] < 0.2


# Weights by seed


def test_equal_seeds_give_equal_weights_whatever_happened_before(config, data):
    first = tfbigmodel.build_model(config, data.info).get_weights()
    keras.utils.set_random_seed(1234)
    keras.layers.Dense(3)(tf.zeros([1, 2]))
    tf.random.normal([3])
    second = tfbigmodel.build_model(config, data.info).get_weights()
    other = tfbigmodel.build_model(changed(config, "training", seed=43), data.info).get_weights()
    for one, two, three in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(one, two)
        if one.ndim > 1:
            assert not np.allclose(one, three)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "orthogonal"])
def test_layers_of_equal_shape_start_with_different_weights(config, data, initializer):
    wide = changed(config, "model", hidden_units=[10, 10, 10], initializer=initializer)
    kernels = [w for w in tfbigmodel.build_model(wide, data.info).get_weights() if w.shape == (10, 10)]
    assert len(kernels) == 3
    assert not np.allclose(kernels[0], kernels[1])
    assert not np.allclose(kernels[1], kernels[2])


# `tfbigmodel.train` is a function and a module

PROGRAM = """
import sys
{imports}
for attempt in range(2):
    try:
        {call}(config=None)
    except TypeError as error:
        assert "missing 1 required positional argument: 'workdir'" in str(error), error
import tfbigmodel
for name in tfbigmodel.__all__:
    assert callable(getattr(tfbigmodel, name)) and callable(getattr(tfbigmodel, name)), name
assert [name for name in dir(tfbigmodel) if not name.startswith("_")] == sorted(tfbigmodel.__all__)
print("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import tfbigmodel", "tfbigmodel.train"),
        ("import tfbigmodel.train, tfbigmodel.evaluate", "tfbigmodel.train"),
        ("from tfbigmodel import train\nimport tfbigmodel.train", "train"),
        ("from tfbigmodel.train import train", "train"),
    ],
)
def test_train_is_called_in_the_same_way_whoever_was_imported_first(imports, call):
    program = PROGRAM.format(imports=imports, call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"  # and TensorFlow is not needed to find the functions


def test_the_commands_modules_are_called_as_their_functions(digits_run):
    # The modules have been imported by now: this is the harder order.
    assert not isinstance(tfbigmodel.train, types.FunctionType)
    assert tfbigmodel.train(Workdir(digits_run.workdir).config(), digits_run.workdir)["test"]["count"] == 359
    assert tfbigmodel.load_model(digits_run.workdir).count_params() == 9610


def test_a_name_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'tfbigmodel' has no attribute 'trian'"):
        tfbigmodel.trian  # noqa: B018 - the access is what is tested


def test_train_returns_what_it_writes_and_prints_nothing(config, tmp_path, capfd):
    metrics = tfbigmodel.train(config, tmp_path / "run")
    assert metrics == Workdir(tmp_path / "run").metrics()
    assert capfd.readouterr() == ("", "")
    # The same process goes on, as in a notebook; `validate_config` leaves the seed of the order to be filled in.
    more = tfbigmodel.train(changed(config, "training", epochs=EPOCHS + 1), tmp_path / "run")
    assert len(history_of(tmp_path / "run")) == EPOCHS + 1
    assert more["train"]["loss"] < metrics["train"]["loss"]


def test_a_configuration_made_in_python_can_be_resumed(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"data": {"source": "builtin", "name": "digits"}, "model": {"chapter": "dense", "hidden_units": [4]}}
    short = validate_config(values | {"training": {"epochs": 1, "jit_compile": False}}, "a notebook")
    tfbigmodel.train(short, "run")
    assert Workdir(tmp_path / "run").config().data.shuffle_seed == 42
    assert tfbigmodel.train(short, "run") == Workdir(tmp_path / "run").metrics()


# Keras' own callbacks


class Recorder(keras.callbacks.Callback):
    """Writes down which hooks were called, and with what."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple] = []

    def on_train_begin(self, logs=None):
        self.called.append(("train_begin",))

    def on_epoch_begin(self, epoch, logs=None):
        self.called.append(("epoch_begin", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.called.append(("epoch_end", epoch, dict(logs)))

    def on_train_batch_end(self, batch, logs=None):
        self.called.append(("batch_end", batch))

    def on_train_end(self, logs=None):
        self.called.append(("train_end",))


def test_callbacks_are_called_as_keras_calls_them(config, data, tmp_path):
    recorder, seen = Recorder(), []
    epochs = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs))))
    tfbigmodel.train(
        changed(config, "training", steps_per_execution=10), tmp_path / "run", callbacks=[recorder, epochs]
    )
    without_logs = [call[:2] for call in recorder.called]
    assert data.steps_per_epoch == 19
    an_epoch = [("batch_end", 9), ("batch_end", 18)]  # once for each execution
    assert without_logs == [
        ("train_begin",),
        *(call for epoch in range(EPOCHS) for call in (("epoch_begin", epoch), *an_epoch, ("epoch_end", epoch))),
        ("train_end",),
    ]
    assert seen == [(epoch, ["accuracy", "loss", "val_accuracy", "val_loss"]) for epoch in range(EPOCHS)]
    assert [call[2] for call in recorder.called if call[0] == "epoch_end"] == history_of(tmp_path / "run")
    assert recorder.params["epochs"] == EPOCHS
    assert recorder.params["steps"] == 19


def test_a_callback_lowers_the_learning_rate(config, tmp_path):
    rates = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(float(record.model.optimizer.learning_rate))
    )
    # No epoch can improve by a thousand, so the rate falls after each but the first.
    lower = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.1, patience=1, min_delta=1000.0)
    tfbigmodel.train(changed(config, "training", epochs=3), tmp_path / "lowered", callbacks=[lower, record])
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5])
    tfbigmodel.train(changed(config, "training", epochs=3), tmp_path / "constant")
    lowered, constant = history_of(tmp_path / "lowered"), history_of(tmp_path / "constant")
    assert lowered[1] == constant[1]
    # The rate is used, and not only shown.
    steps = [abs(run[2]["val_loss"] - run[1]["val_loss"]) for run in (lowered, constant)]
    assert steps[0] < 0.3 * steps[1]


def test_a_callback_stops_training(config, tmp_path):
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=1000.0)
    tfbigmodel.train(changed(config, "training", epochs=50), tmp_path / "run", callbacks=[stop])
    assert len(history_of(tmp_path / "run")) == 2
    assert stop.stopped_epoch == 1
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].state["stopped"]
    assert Workdir(tmp_path / "run").metrics()["test"]["count"] == 359


# The loop's numbers are Keras' own


@pytest.mark.parametrize("regularised", [False, True])
def test_the_loop_gives_the_numbers_of_fit(config, data, tmp_path, regularised):
    if regularised:
        config = changed(config, "model", l2=0.01, batch_norm=True)
    metrics = tfbigmodel.train(config, tmp_path / "run")
    model = compiled(tfbigmodel.build_model(config, data.info))
    for epoch, ours in enumerate(history_of(tmp_path / "run")):
        theirs = model.fit(data.train(epoch), validation_data=data.validation(), verbose=0).history
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"][0], abs=1e-5)
        assert ours["val_accuracy"] == pytest.approx(theirs["val_accuracy"][0], abs=1e-5)
        if not regularised:  # Keras adds the penalty to the loss it shows
            assert ours["loss"] == pytest.approx(theirs["loss"][0], abs=1e-5)
    # Keras' own validation loss is divided by the rows that fill up, too; ours is that of the report.
    assert metrics["validation"]["loss"] == pytest.approx(ours["val_loss"], abs=1e-5)
    assert metrics["validation"]["accuracy"] == pytest.approx(ours["val_accuracy"], abs=1e-6)
    final = tfbigmodel.load_model(tmp_path / "run")
    for ours, theirs in zip(final.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
