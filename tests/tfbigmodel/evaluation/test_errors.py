import json
import math

import numpy as np
import pytest

from pipelines.errors import UserError
from tfbigmodel.evaluation.errors import worst_errors

PROBABILITIES = [[0.9, 0.1], [0.2, 0.8], [0.05, 0.95], [0.4, 0.6], [0.2, 0.8]]


def test_wrong_examples_worst_first():
    result = worst_errors([0, 0, 0, 1, 0], PROBABILITIES, ["差评", "好评"], "reviews.csv", np.arange(1, 6))
    assert [error["row"] for error in result] == [3, 2, 5]
    assert result[0] == {
        "origin": "reviews.csv",
        "row": 3,
        "label": "差评",
        "predicted": "好评",
        "probability_label": 0.05,
        "probability_predicted": 0.95,
        "loss": pytest.approx(-math.log(0.05)),
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_limit_and_nothing_wrong():
    arguments = (PROBABILITIES, ["a", "b"], "x", range(5))
    assert [error["row"] for error in worst_errors([1, 0, 0, 0, 0], *arguments, limit=2)] == [2, 0]
    assert worst_errors([0, 1, 1, 1, 1], *arguments) == []


def test_threshold_decides_what_is_wrong():
    result = worst_errors([0, 1, 1, 1, 1], PROBABILITIES, ["a", "b"], "x", range(5), threshold=0.7)
    assert [(error["row"], error["predicted"]) for error in result] == [(3, "a")]


def test_probability_zero_is_json():
    result = worst_errors([1], [[1.0, 0.0]], ["a", "b"], "x", ["7b"])
    assert result[0]["row"] == "7b"
    json.dumps(result, allow_nan=False)


def test_regression_by_magnitude():
    result = worst_errors([1.0, 2.0, 3.0], [[1.5], [0.0], [3.0]], (), "houses.csv", [1, 2, 3], limit=2)
    assert result == [
        {"origin": "houses.csv", "row": 2, "target": 2.0, "prediction": 0.0, "error": -2.0},
        {"origin": "houses.csv", "row": 1, "target": 1.0, "prediction": 1.5, "error": 0.5},
    ]


def test_files_are_named():
    files = [f"{name}.jpg" for name in "abcde"]
    result = worst_errors([0, 0, 0, 1, 0], PROBABILITIES, ["a", "b"], "photos", range(5), files=files)
    assert [(error["row"], error["file"]) for error in result] == [(2, "c.jpg"), (1, "b.jpg"), (4, "e.jpg")]
    result = worst_errors([1.0, 2.0], [1.5, 0.0], (), "photos", [7, 8], limit=1, files=["a.jpg", "b.jpg"])
    assert [(error["row"], error["file"]) for error in result] == [(8, "b.jpg")]


def test_refuses():
    with pytest.raises(ValueError, match="1 files for 2 examples; expected one each"):
        worst_errors([0, 1], PROBABILITIES[:2], ["a", "b"], "x", [1, 2], files=["a.jpg"])
    with pytest.raises(ValueError, match="rows"):
        worst_errors([0, 1], PROBABILITIES[:2], ["a", "b"], "x", [1])
    with pytest.raises(UserError, match="NaN"):
        worst_errors([0], [[np.nan, 1.0]], ["a", "b"], "x", [1])
    with pytest.raises(UserError, match="NaN"):
        worst_errors([0.0], [np.nan], [], "x", [1])
