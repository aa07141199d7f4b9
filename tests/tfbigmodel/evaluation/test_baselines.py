import json
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from tfbigmodel.evaluation.baselines import baselines, sampled_rows
from tfbigmodel.evaluation.metrics import classification_metrics, regression_metrics


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def digits():
    inputs, labels = load_digits(return_X_y=True)
    return inputs[:1200], labels[:1200], inputs[1200:], labels[1200:], [str(digit) for digit in range(10)]


def blobs(counts, seed=0):
    """Points around (3·class, -3·class), so many of each class."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    return generator.normal(size=(len(labels), 2)) + 3 * labels[:, None] * [1, -1], labels


def test_digits(digits):
    result = baselines("classification", *digits)
    headline = classification_metrics(digits[3], np.eye(10)[digits[3]], digits[4]).keys()
    assert list(result) == ["majority_class", "logistic_regression"]
    for metrics in result.values():
        assert metrics.keys() - {"note"} == headline - {"per_class", "confusion_matrix"} | {"train_examples"}
        assert metrics["train_examples"] == 1200
    assert result["logistic_regression"]["accuracy"] > 0.9
    commonest = np.bincount(digits[1]).argmax()
    assert result["majority_class"]["accuracy"] == pytest.approx(np.mean(digits[3] == commonest))
    assert result["majority_class"]["roc_auc"] == 0.5
    json.dumps(result, allow_nan=False)


def test_majority_class_predicts_the_shares_in_training():
    inputs, labels = blobs([30, 10])
    result = baselines("classification", inputs, labels, inputs, labels, ["a", "b"])["majority_class"]
    assert result["accuracy"] == 0.75
    assert result["log_loss"] == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert result["f1"] == 0.0


def test_uses_a_stratified_sample_of_the_seed():
    inputs, labels = blobs([900, 90, 10])
    arguments = ("classification", inputs, labels, inputs, labels, ["a", "b", "c"])
    first = baselines(*arguments, max_examples=100)
    assert first["logistic_regression"]["train_examples"] == 100
    assert first["majority_class"]["train_examples"] == 1000
    assert np.bincount(labels[sampled_rows(labels, True, 100, 42)]).tolist() == [90, 9, 1]
    assert baselines(*arguments, max_examples=100) == first
    assert baselines(*arguments, max_examples=100, seed=1) != first


def test_only_the_rows_of_the_sample_are_asked_for():
    inputs, labels = blobs([900, 90, 10])
    asked = []

    def read(rows):
        asked.append(rows)
        return inputs[rows]

    arguments = (labels, inputs, labels, ["a", "b", "c"], 100)
    result = baselines("classification", read, *arguments, seen="two numbers")
    (rows,) = asked
    np.testing.assert_array_equal(rows, sampled_rows(labels, True, 100, 42))
    assert result["logistic_regression"].pop("inputs") == "two numbers"
    assert result == baselines("classification", inputs, *arguments)
    targets = inputs.sum(axis=1)
    result = baselines("regression", read, targets, inputs, targets, (), 100, seen="two numbers")
    assert result["ridge_regression"].pop("inputs") == "two numbers"
    assert result == baselines("regression", inputs, targets, inputs, targets, (), 100)


@pytest.mark.parametrize(("bound", "rows"), [("_MAX_VALUES", 50), ("_MAX_PRODUCTS", 25)])
def test_wide_inputs_and_many_classes_are_fitted_on_fewer_rows(monkeypatch, bound, rows):
    monkeypatch.setattr(f"tfbigmodel.evaluation.baselines.{bound}", 100)
    inputs, labels = blobs([100, 100])
    result = baselines("classification", inputs, labels, inputs, labels, ["a", "b"])
    assert result["logistic_regression"]["train_examples"] == rows


def test_not_converged_is_noted_and_not_printed(monkeypatch, capsys, digits):
    monkeypatch.setattr("tfbigmodel.evaluation.baselines._ITERATIONS", 2)
    result = baselines("classification", *digits)["logistic_regression"]
    assert result["note"] == "stopped after 2 iterations, not fully converged"
    assert result["accuracy"] > 0.5
    assert capsys.readouterr() == ("", "")


def test_class_absent_from_training():
    inputs, labels = blobs([20, 20, 20])
    kept = labels != 1
    result = baselines("classification", inputs[kept], labels[kept], inputs, labels, ["a", "b", "c"])
    assert result["logistic_regression"]["accuracy"] == pytest.approx(2 / 3, abs=0.05)
    json.dumps(result, allow_nan=False)


def test_few_examples_of_a_class():
    inputs, labels = blobs([20, 1])
    result = baselines("classification", inputs, labels, inputs, labels, ["a", "b"])
    assert result["logistic_regression"]["accuracy"] > 0.9


def test_nearly_as_many_classes_as_examples():
    inputs, labels = blobs([2] * 10)
    result = baselines("classification", inputs, labels, inputs, labels, list("abcdefghij"), max_examples=12)
    assert result["logistic_regression"]["train_examples"] == 12


def test_one_class_only_is_noted():
    inputs, labels = blobs([5])
    result = baselines("classification", inputs, labels, inputs, labels, ["a", "b"])
    assert result["logistic_regression"] == {"note": "not fitted: the training examples are all of one class"}
    assert result["majority_class"]["accuracy"] == 1.0


def test_constant_column(digits):
    inputs, labels = blobs([20, 20])
    inputs = np.concatenate([inputs, np.full((40, 1), 7.0)], axis=1)
    result = baselines("classification", inputs, labels, inputs, labels, ["a", "b"])
    assert result["logistic_regression"]["accuracy"] > 0.9


def test_regression():
    inputs, targets = load_diabetes(return_X_y=True)
    result = baselines("regression", inputs[:300], targets[:300], inputs[300:], targets[300:], ())
    assert list(result) == ["mean", "ridge_regression"]
    mean = regression_metrics(targets[300:], np.full(142, targets[:300].mean()))
    assert result["mean"] == pytest.approx(mean | {"train_examples": 300})
    assert result["ridge_regression"]["r2"] > 0.45
    json.dumps(result, allow_nan=False)


def test_regression_recovers_a_line():
    inputs = np.random.default_rng(0).normal(size=(2000, 3))
    targets = inputs @ [1.0, 2.0, 3.0] + 5
    result = baselines("regression", inputs, targets, inputs, targets, (), max_examples=1500)
    assert result["ridge_regression"]["rmse"] < 0.01
    assert result["ridge_regression"]["train_examples"] == 1500
