import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipelines.errors import UserError
from tfbigmodel.evaluation.metrics import (
    best_threshold,
    classification_metrics,
    expected_calibration_error,
    predicted_classes,
    regression_metrics,
)

HEADLINE = [
    *("accuracy", "precision_macro", "recall_macro", "f1_macro", "precision_weighted", "recall_weighted"),
    *("f1_weighted", "roc_auc", "log_loss", "ece", "count"),
]


def random_case(num_examples=200, num_classes=4, seed=0, dtype=np.float64):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_examples)
    logits = generator.normal(size=(num_examples, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities.astype(dtype), [f"class {index}" for index in range(num_classes)]


def two(*positive):
    positive = np.array(positive)
    return np.stack([1 - positive, positive], axis=1)


class TestClassification:
    def test_by_hand(self):
        # Class 1: 2 true positives, 1 false positive, 1 false negative; 1 true negative.
        labels = [0, 0, 1, 1, 1]
        result = classification_metrics(labels, two(0.1, 0.6, 0.8, 0.9, 0.3), ["ham", "spam"])
        assert result["accuracy"] == pytest.approx(3 / 5)
        assert result["confusion_matrix"] == [[1, 1], [1, 2]]
        assert result["precision"] == result["recall"] == pytest.approx(2 / 3)
        assert result["f1"] == pytest.approx(2 / 3)
        assert result["precision_macro"] == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert result["f1_weighted"] == pytest.approx((2 * 1 / 2 + 3 * 2 / 3) / 5)
        # Of the 6 pairs of a negative and a positive, 5 are ranked right (0.6 stands above 0.3).
        assert result["roc_auc"] == pytest.approx(5 / 6)
        # Ranked 0.9 +, 0.8 +, 0.6 -, 0.3 +, 0.1 -.
        assert result["pr_auc"] == pytest.approx((1 + 1 + 3 / 4) / 3)
        expected_loss = -np.mean(np.log([0.9, 0.4, 0.8, 0.9, 0.3]))
        assert result["log_loss"] == pytest.approx(expected_loss)
        assert result["positive_class"] == "spam"
        assert result["threshold"] is None
        assert result["count"] == 5
        assert result["per_class"]["ham"] == {
            "precision": 0.5,
            "recall": 0.5,
            "f1": 0.5,
            "support": 2,
            "roc_auc": pytest.approx(5 / 6),
        }

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("num_classes", [2, 3, 7])
    def test_equals_scikit_learn(self, num_classes, dtype):
        labels, probabilities, names = random_case(num_classes=num_classes, dtype=dtype)
        result = classification_metrics(labels, probabilities, names)
        predictions = probabilities.argmax(axis=1)
        exact = probabilities.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        assert result["accuracy"] == sk.accuracy_score(labels, predictions)
        for average in ("macro", "weighted"):
            assert result[f"precision_{average}"] == sk.precision_score(labels, predictions, average=average)
            assert result[f"recall_{average}"] == sk.recall_score(labels, predictions, average=average)
            assert result[f"f1_{average}"] == sk.f1_score(labels, predictions, average=average)
        area = sk.roc_auc_score(labels, exact[:, 1] if num_classes == 2 else exact, multi_class="ovr")
        assert result["roc_auc"] == pytest.approx(area, abs=1e-12)
        assert result["log_loss"] == pytest.approx(sk.log_loss(labels, exact), abs=1e-12)
        assert result["confusion_matrix"] == sk.confusion_matrix(labels, predictions).tolist()
        assert [scores["f1"] for scores in result["per_class"].values()] == list(
            sk.f1_score(labels, predictions, average=None)
        )
        assert set(HEADLINE) <= result.keys()

    def test_is_json_of_plain_numbers(self):
        for num_classes in (2, 5):
            result = classification_metrics(*random_case(num_classes=num_classes, dtype=np.float32))
            assert json.loads(json.dumps(result, allow_nan=False)) == result
            assert all(type(result[key]) in (int, float) for key in HEADLINE)

    def test_class_absent_from_labels(self):
        labels, probabilities, names = random_case(num_classes=3)
        kept = labels != 2
        result = classification_metrics(labels[kept], probabilities[kept], names)
        assert result["roc_auc"] is None
        assert result["per_class"]["class 2"]["roc_auc"] is None
        assert result["per_class"]["class 0"]["roc_auc"] is not None
        assert result["per_class"]["class 2"]["support"] == 0
        assert result["per_class"]["class 2"]["recall"] == 0.0
        assert np.shape(result["confusion_matrix"]) == (3, 3)
        json.dumps(result, allow_nan=False)

    def test_class_neither_in_labels_nor_predicted_does_not_lower_the_average(self):
        labels = np.array([0, 1, 0, 1])
        result = classification_metrics(labels, np.eye(3)[labels], ["a", "b", "c"])
        assert result["f1_macro"] == 1.0
        assert result["per_class"]["c"]["f1"] == 0.0

    def test_class_never_predicted(self, recwarn):
        result = classification_metrics([0, 1, 2], [[0.8, 0.1, 0.1]] * 3, ["a", "b", "c"])
        assert result["per_class"]["c"] == {
            "precision": 0.0,
            "recall": 0.0,
            "f1": 0.0,
            "support": 1,
            "roc_auc": 0.5,
        }
        assert not recwarn.list

    @pytest.mark.parametrize("label", [0, 1])
    def test_one_example(self, label, recwarn):
        result = classification_metrics([label], [[0.25, 0.75]], ["a", "b"])
        assert result["accuracy"] == float(label)
        assert result["roc_auc"] is None
        assert result["pr_auc"] == (1.0 if label else None)
        assert result["log_loss"] == pytest.approx(-math.log([0.25, 0.75][label]))
        json.dumps(result, allow_nan=False)
        assert not recwarn.list

    def test_exact_zero_and_one(self, recwarn):
        labels = [0, 1, 1]
        assert classification_metrics(labels, np.eye(2)[labels], ["a", "b"])["log_loss"] == pytest.approx(0, abs=1e-12)
        worst = classification_metrics(labels, np.eye(2)[[1, 0, 0]], ["a", "b"])["log_loss"]
        assert worst == pytest.approx(-math.log(np.finfo(np.float64).eps))
        assert not recwarn.list

    def test_half_precision_and_float32_rounding_are_no_error(self, recwarn):
        labels, probabilities, names = random_case(num_classes=10, num_examples=500)
        full = classification_metrics(labels, probabilities, names)
        half = classification_metrics(labels, probabilities.astype(np.float16), names)
        assert half["log_loss"] == pytest.approx(full["log_loss"], rel=1e-3)
        assert not recwarn.list

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_refuses_non_finite_probabilities(self, value):
        labels, probabilities, names = random_case()
        probabilities[[7, 9], 1] = value
        with pytest.raises(UserError, match=r"NaN or infinite for 2 of 200 examples, first for example 7;.*diverged"):
            classification_metrics(labels, probabilities, names)

    def test_refuses_labels_without_a_class(self):
        with pytest.raises(UserError, match="label of example 1 is 2; this model's 2 classes are numbered from 0 to 1"):
            classification_metrics([0, 2], two(0.5, 0.5), ["a", "b"])
        with pytest.raises(UserError, match="label of example 0 is -1"):
            classification_metrics([-1, 0], two(0.5, 0.5), ["a", "b"])

    def test_refuses_no_examples(self):
        with pytest.raises(UserError, match="no examples"):
            classification_metrics(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])

    def test_refuses_what_is_no_probability(self):
        with pytest.raises(ValueError, match=r"row 1 is not a distribution: it sums to 5, .*softmax"):
            classification_metrics([0, 1], [[0.5, 0.5], [2.0, 3.0]], ["a", "b"])
        with pytest.raises(ValueError, match=r"its least value is -1"):
            classification_metrics([0, 1], [[0.5, 0.5], [2.0, -1.0]], ["a", "b"])

    @pytest.mark.parametrize(
        ("labels", "probabilities", "names", "message"),
        [
            ([0, 1, 0], two(0.5, 0.5), ["a", "b"], "do not belong together"),
            ([0, 1], two(0.5, 0.5), ["a", "b", "c"], "do not belong together"),
            ([0.0, 1.0], two(0.5, 0.5), ["a", "b"], "integer type; received float64"),
            ([0, 1], [0.5, 0.5], ["a", "b"], "expected \\(n, num_classes\\)"),
            ([0, 1], [[1.0], [1.0]], ["a"], "expected \\(n, num_classes\\)"),
        ],
    )
    def test_refuses_shapes(self, labels, probabilities, names, message):
        with pytest.raises(ValueError, match=message):
            classification_metrics(labels, probabilities, names)


class TestThreshold:
    def test_at_the_threshold_is_class_one(self):
        assert predicted_classes(two(0.25, 0.5, 0.75), 0.5).tolist() == [0, 1, 1]
        assert predicted_classes(two(0.25, 0.5, 0.75), 0.75).tolist() == [0, 0, 1]
        assert predicted_classes(two(0.0, 1.0), 0.0).tolist() == [1, 1]
        assert predicted_classes(two(0.0, 0.999, 1.0), 1.0).tolist() == [0, 0, 1]

    def test_none_is_the_most_probable_and_the_first_of_equals(self):
        assert predicted_classes(two(0.25, 0.5, 0.75)).tolist() == [0, 0, 1]
        assert predicted_classes([[0.2, 0.2, 0.6], [0.4, 0.4, 0.2]]).tolist() == [2, 0]

    def test_moves_the_metrics_but_not_the_ranking(self):
        labels, probabilities, names = random_case(num_classes=2)
        plain = classification_metrics(labels, probabilities, names)
        strict = classification_metrics(labels, probabilities, names, threshold=0.9)
        assert strict["threshold"] == 0.9
        assert strict["precision"] > plain["precision"]
        assert strict["recall"] < plain["recall"]
        assert (strict["roc_auc"], strict["log_loss"]) == (plain["roc_auc"], plain["log_loss"])

    def test_needs_two_classes(self):
        with pytest.raises(UserError, match="needs exactly two classes and this model has 4"):
            classification_metrics(*random_case(num_classes=4), threshold=0.5)

    @pytest.mark.parametrize("threshold", [-0.1, 1.5, math.nan])
    def test_is_a_probability(self, threshold):
        with pytest.raises(UserError, match="it is a probability, from 0 to 1"):
            predicted_classes(two(0.5), threshold)

    def test_refuses_nan_probabilities(self):
        with pytest.raises(UserError, match="NaN"):
            predicted_classes(two(0.5, np.nan))


class TestBestThreshold:
    def test_halfway_between_the_scores_of_the_cut(self):
        assert best_threshold([0, 0, 1, 1], two(0.1, 0.2, 0.6, 0.9)) == pytest.approx(0.4)

    def test_below_all_scores(self):
        assert best_threshold([1, 1, 1, 0], two(0.2, 0.4, 0.6, 0.8)) == pytest.approx(0.1)
        assert best_threshold([0, 1], two(0.0, 0.0)) == 0.0

    def test_takes_the_middle_of_tied_cuts(self):
        # F1 = 2·TP / (predicted + 3): 2/4 after one, 4/8 after five and 6/12 after nine; less in between.
        labels, scores = [1, 0, 0, 0, 1, 0, 0, 0, 1], np.linspace(0.9, 0.1, 9)
        assert best_threshold(labels, two(*scores)) == pytest.approx(0.45)
        # Of two, the one with fewer predicted: 4/6 after three, 6/9 after six.
        labels, scores = [1, 0, 1, 0, 0, 1], (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
        assert best_threshold(labels, two(*scores)) == pytest.approx(0.65)

    def test_neighbouring_floats(self):
        low = np.float32(0.5)
        high = np.nextafter(low, np.float32(1))
        for first, second in ((low, high), (np.float64(0.5), np.nextafter(0.5, 1))):
            probabilities = two(first, second)
            threshold = best_threshold([0, 1], probabilities)
            assert predicted_classes(probabilities, threshold).tolist() == [0, 1]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=30))
    def test_against_brute_force(self, examples):
        labels = np.array([label for label, _ in examples], int)
        probabilities = two(*(score / 8 for _, score in examples)).astype(np.float32)
        if len(set(labels)) < 2:
            with pytest.raises(UserError, match="examples of both classes"):
                best_threshold(labels, probabilities)
            return

        def f1(threshold):
            predictions = predicted_classes(probabilities, threshold)
            return 2 * (labels * predictions).sum() / (labels.sum() + predictions.sum())

        best = max(f1(threshold) for threshold in np.linspace(0, 1, 33))
        assert f1(best_threshold(labels, probabilities)) == pytest.approx(best, abs=1e-12)

    def test_needs_two_classes(self):
        with pytest.raises(UserError, match="needs exactly two classes; this model has 3"):
            best_threshold([0, 1], [[0.2, 0.3, 0.5]] * 2)

    def test_is_fast(self):
        labels, probabilities, _ = random_case(num_examples=200_000, num_classes=2)
        best_threshold(labels, probabilities)


class TestCalibration:
    def test_by_hand(self):
        # Ten examples, 0.9 sure, nine right; ten, 0.6 sure, all right.
        probabilities = two(*[0.9] * 10, *[0.6] * 10)
        assert expected_calibration_error([1] * 9 + [0] + [1] * 10, probabilities) == pytest.approx(0.4 / 2)

    def test_sure_and_right(self):
        assert expected_calibration_error([0, 1], np.eye(2)) == 0.0


class TestRegression:
    def test_by_hand(self):
        result = regression_metrics([1.0, 2.0, 3.0, 6.0], [[1.0], [3.0], [3.0], [3.0]])
        assert result == {
            "mse": pytest.approx(10 / 4),
            "rmse": pytest.approx(2.5**0.5),
            "mae": pytest.approx(1.0),
            "median_ae": pytest.approx(0.5),
            "r2": pytest.approx(1 - 10 / 14),
            "max_error": pytest.approx(3.0),
            "count": 4,
        }
        assert all(type(value) in (int, float) for value in result.values())

    def test_one_example_and_constant_targets(self, recwarn):
        assert regression_metrics([1.0], [2.0])["r2"] is None
        assert regression_metrics([1.0, 1.0], [1.0, 1.0])["r2"] == 1.0
        assert regression_metrics([1.0, 1.0], [2.0, 1.0])["r2"] == 0.0
        assert not recwarn.list

    def test_refuses(self):
        with pytest.raises(UserError, match="model's prediction is NaN or infinite for 1 of 2 examples"):
            regression_metrics([1.0, 2.0], [1.0, np.nan])
        with pytest.raises(UserError, match="the target is NaN"):
            regression_metrics([np.nan, 2.0], [1.0, 2.0])
        with pytest.raises(UserError, match="no examples"):
            regression_metrics([], [])
        with pytest.raises(ValueError, match="differ"):
            regression_metrics([1.0, 2.0], [[1.0, 2.0]])
