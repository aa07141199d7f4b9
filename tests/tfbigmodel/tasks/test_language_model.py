"""Loss and metrics of a language model, against numpy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.tasks.language_model import LanguageModel

RANDOM = np.random.default_rng(1)
LOGITS = RANDOM.normal(size=(3, 4, 6)).astype("float32")
LABELS = {
    "token_ids": np.int32([[1, 2, 3, 0], [4, 3, 0, 0], [5, 5, 1, 3]]),
    "weights": np.float32([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]),
    "characters": np.float32([2, 1, 5]),
}
WEIGHTS = np.float32([1, 1, 0])
SURPRISE = -np.take_along_axis(
    LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True)), LABELS["token_ids"][..., None], axis=2
)[..., 0]
TASK = LanguageModel(mean_tokens=2.5)


def constants():
    return {name: tf.constant(array) for name, array in LABELS.items()}


def test_the_loss_is_the_sum_over_a_texts_tokens():
    expected = (SURPRISE * LABELS["weights"]).sum(axis=1) / 2.5
    np.testing.assert_allclose(TASK.loss(constants(), LOGITS), expected, rtol=1e-5)
    alone = TASK.loss({name: tensor[1:2] for name, tensor in constants().items()}, LOGITS[1:2])
    np.testing.assert_allclose(alone, expected[1:2], rtol=1e-5)


def test_metrics_are_totals_over_tokens_and_characters():
    totals = TASK.metrics(constants(), LOGITS, WEIGHTS)
    counted = LABELS["weights"] * WEIGHTS[:, None]
    loss, right = (SURPRISE * counted).sum(), ((LOGITS.argmax(-1) == LABELS["token_ids"]) * counted).sum()
    expected = {"token_loss": (loss, 5), "accuracy": (right, 5), "character_loss": (loss, 3)}
    assert tuple(totals) == TASK.metric_names == tuple(expected)
    for name, (total, weight) in totals.items():
        assert (float(total), float(weight)) == pytest.approx(expected[name], rel=1e-5)


def test_perplexities_are_exponentials():
    derived = TASK.derived({"token_loss": 1.5, "character_loss": 2.0})
    assert derived == pytest.approx({"perplexity": math.exp(1.5), "character_perplexity": math.exp(2.0)})
    assert math.isfinite(TASK.derived({"token_loss": 1e6, "character_loss": 1e6})["perplexity"])
    assert math.isnan(TASK.derived({"token_loss": math.nan, "character_loss": 1.0})["perplexity"])


def test_guessing_evenly_has_the_perplexity_of_the_vocabulary():
    totals = TASK.metrics(constants(), np.zeros_like(LOGITS), WEIGHTS)
    means = {name: float(total / weight) for name, (total, weight) in totals.items()}
    assert TASK.derived(means)["perplexity"] == pytest.approx(6.0, rel=1e-5)


def test_what_is_served_without_a_generator_is_logits():
    np.testing.assert_array_equal(TASK.serving_outputs(LOGITS, None)["logits"], LOGITS)
