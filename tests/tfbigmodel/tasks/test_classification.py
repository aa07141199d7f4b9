"""Loss, accuracy and answers of a classification, against Keras' losses and closed forms."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.tasks.classification import Classification
from tfbigmodel.tasks.language_model import LanguageModel
from tfbigmodel.tasks.masked_language_model import MaskedLanguageModel
from tfbigmodel.tasks.regression import Regression

NAMES = ("猫", "dog", "bird")
LOGITS = np.float32([[2, 0, 0], [0, 1, 3], [-1, 0.5, 0.25], [4, 4, 0]])
LABELS = np.int32([0, 1, 2, 1])
SHARES = np.float32([[1, 0, 0], [0.3, 0.7, 0], [0.2, 0.2, 0.6], [0.5, 0.5, 0]])


def test_the_loss_of_indices_is_kerass():
    losses = Classification(NAMES).loss(tf.constant(LABELS), tf.constant(LOGITS))
    expected = keras.losses.sparse_categorical_crossentropy(LABELS, LOGITS, from_logits=True)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [LABELS, SHARES], ids=["indices", "shares"])
def test_the_training_loss_is_kerass_with_label_smoothing(labels, smoothing):
    losses = Classification(NAMES, smoothing).loss(tf.constant(labels), tf.constant(LOGITS), training=True)
    shares = labels if labels.ndim == 2 else np.eye(3, dtype=np.float32)[labels]
    expected = keras.losses.categorical_crossentropy(shares, LOGITS, from_logits=True, label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_label_smoothing_in_closed_form():
    # (1 - e) of the label's own loss, and e of the mean of all classes' losses.
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    expected = -0.8 * log_probabilities[range(4), LABELS] - 0.2 * log_probabilities.mean(axis=1)
    losses = Classification(NAMES, 0.2).loss(tf.constant(LABELS), tf.constant(LOGITS), training=True)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("labels", [LABELS, SHARES], ids=["indices", "shares"])
def test_what_is_measured_is_not_smoothed(labels):
    arguments = (tf.constant(labels), tf.constant(LOGITS))
    np.testing.assert_array_equal(Classification(NAMES, 0.3).loss(*arguments), Classification(NAMES).loss(*arguments))


def test_one_hot_shares_are_indices():
    task, logits = Classification(NAMES, 0.1), tf.constant(LOGITS)
    one_hot = tf.one_hot(LABELS, 3)
    for training in (False, True):
        losses = [task.loss(labels, logits, training) for labels in (tf.constant(LABELS), one_hot)]
        np.testing.assert_allclose(*losses, rtol=1e-6)
    weights = tf.constant([1.0, 1.0, 0.0, 1.0])
    results = [task.metrics(labels, logits, weights)["accuracy"] for labels in (tf.constant(LABELS), one_hot)]
    assert [[float(part) for part in result] for result in results] == [[1.0, 3.0]] * 2


def test_accuracy_of_shares_is_by_the_largest_the_first_of_equals():
    # The largest shares are of classes 0, 1, 2 and 0; the largest logits of 0, 2, 1 and 0.
    right, total = Classification(NAMES).metrics(tf.constant(SHARES), tf.constant(LOGITS), tf.ones(4))["accuracy"]
    assert (float(right), float(total)) == (2.0, 4.0)


def test_the_loss_in_a_graph_of_any_batch_size_and_in_bfloat16():
    task = Classification(NAMES, 0.1)
    for labels in (LABELS, SHARES):
        spec = tf.TensorSpec([None, *labels.shape[1:]], labels.dtype)
        graph = tf.function(task.loss).get_concrete_function(spec, tf.TensorSpec([None, 3], tf.bfloat16), training=True)
        logits = tf.cast(LOGITS, tf.bfloat16)  # which holds these numbers exactly
        np.testing.assert_allclose(
            graph(tf.constant(labels), logits), task.loss(tf.constant(labels), tf.constant(LOGITS), True), rtol=1e-6
        )


def test_no_top_classes_unless_asked():
    assert set(Classification(NAMES).serving_outputs(tf.constant(LOGITS), None)) == {
        "label",
        "probabilities",
        "logits",
    }


@pytest.mark.parametrize(("top_k", "k"), [(1, 1), (2, 2), (5, 3)])
def test_the_likeliest_classes_in_order(top_k, k):
    answers = Classification(NAMES, top_k=top_k).serving_outputs(tf.constant(LOGITS), None)
    order = np.argsort(-LOGITS, axis=1, kind="stable")[:, :k]
    assert answers["top_labels"].shape == (4, k)
    assert answers["top_probabilities"].dtype == tf.float32
    names = [[name.decode() for name in row] for row in answers["top_labels"].numpy()]
    assert names == [[NAMES[index] for index in row] for row in order]
    expected = np.take_along_axis(answers["probabilities"].numpy(), order, axis=1)
    np.testing.assert_array_equal(answers["top_probabilities"], expected)
    np.testing.assert_array_equal(answers["label"], answers["top_labels"][:, 0])


def test_a_threshold_moves_the_label_and_not_the_likeliest():
    answers = Classification(("no", "yes"), top_k=2).serving_outputs(tf.constant([[1.0, 0.0]]), 0.2)
    assert answers["label"].numpy().tolist() == [b"yes"]
    assert answers["top_labels"].numpy().tolist() == [[b"no", b"yes"]]


@pytest.mark.parametrize("task", [Classification, Regression, LanguageModel, MaskedLanguageModel])
def test_every_task_can_be_told_that_it_is_training(task):
    parameter = inspect.signature(task.loss).parameters["training"]
    assert parameter.default is False


def test_training_makes_no_difference_to_a_regression():
    arguments = (tf.constant([0.5, -1.0]), tf.constant([[1.0], [1.0]]))
    for training in (False, True):
        np.testing.assert_allclose(Regression().loss(*arguments, training=training), [0.25, 4.0])
