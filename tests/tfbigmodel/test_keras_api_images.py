"""ResNet50 in user code: a plain Keras model on batches of augmented images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from tfbigmodel.config import RunConfig, resolve, validate_config

# Keras says so of every tf.data.Dataset, since `fit` shuffles by default.
pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")


def configured(**augmentation: object) -> RunConfig:
    """Digits as they are, 8 × 8: the smallest images that the network reads."""
    data = {"source": "builtin", "name": "digits", "images": {"size": 8}, "train_examples": 64, "batch_size": 16}
    model = {"chapter": "resnet50", "stem": "small_image"}
    return resolve(validate_config({"data": {**data, "augmentation": augmentation}, "model": model}, "test"))


def test_compile_fit_and_save(tmp_path):
    config = configured(rotation=10, translation=0.1)
    data = tfbigmodel.load_data(config)
    model = tfbigmodel.build_model(config, data.info)
    assert set(model.input) == {"image"}
    assert model.get_layer("backbone").name == "backbone"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    history = model.fit(data.train(epochs=3), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    measured = model.evaluate(data.validation(), verbose=0, return_dict=True)
    labels = np.concatenate([label for _, label, _ in data.validation()])
    logits = model.predict(data.validation(), verbose=0)
    assert measured["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean(), abs=1e-6)
    model.save(tmp_path / "mine.keras")
    again = keras.models.load_model(tmp_path / "mine.keras", safe_mode=True)
    features = next(iter(data.validation()))[0]
    np.testing.assert_allclose(again(features), model(features), atol=1e-5)


def test_mixed_labels_are_what_categorical_crossentropy_takes():
    config = configured(mixup=0.2, cutmix=1.0)
    data = tfbigmodel.load_data(config)
    features, shares = next(iter(data.train()))
    assert features["image"].shape == (16, 8, 8, 3)
    assert shares.shape == (16, 10)
    np.testing.assert_allclose(tf.reduce_sum(shares, axis=1), 1.0, atol=1e-6)
    model = tfbigmodel.build_model(config, data.info)
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(data.train(), validation_data=data.validation(), verbose=0).history
    assert np.isfinite(history["val_loss"]).all()
