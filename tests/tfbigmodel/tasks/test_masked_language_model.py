"""The pretraining task against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.tasks.masked_language_model import MaskedLanguageModel

RANDOM = np.random.default_rng(3)
LABELS = {
    "masked_ids": RANDOM.integers(0, 7, (4, 3)).astype(np.int32),
    "masked_weights": np.float32([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]),
    "is_next": np.int32([1, 0, 1, 1]),
}
OUTPUTS = {
    "masked_logits": RANDOM.normal(size=(4, 3, 7)).astype(np.float32),
    "next_logits": RANDOM.normal(size=(4, 2)).astype(np.float32),
}
WEIGHTS = np.float32([1, 1, 1, 0])


def cross_entropy(logits, labels):
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(shares, labels[..., np.newaxis], axis=-1)[..., 0])


MASKED = cross_entropy(OUTPUTS["masked_logits"], LABELS["masked_ids"])
NEXT = cross_entropy(OUTPUTS["next_logits"], LABELS["is_next"])


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.3])
def test_loss_is_the_sum_of_both(weight):
    expected = (MASKED * LABELS["masked_weights"]).sum(axis=1) / 2.5 + weight * NEXT
    np.testing.assert_allclose(MaskedLanguageModel(2.5, weight).loss(LABELS, OUTPUTS), expected, rtol=1e-5)


def test_a_loss_does_not_depend_on_the_batch():
    task = MaskedLanguageModel(2.5)
    alone = task.loss({k: v[1:2] for k, v in LABELS.items()}, {k: v[1:2] for k, v in OUTPUTS.items()})
    np.testing.assert_allclose(alone[0], task.loss(LABELS, OUTPUTS)[1], rtol=1e-6)


def test_metrics_are_per_token_and_per_pair():
    found = MaskedLanguageModel(2.5).metrics(LABELS, OUTPUTS, tf.constant(WEIGHTS))
    assert tuple(found) == MaskedLanguageModel.metric_names
    tokens = LABELS["masked_weights"] * WEIGHTS[:, np.newaxis]
    right = OUTPUTS["masked_logits"].argmax(axis=-1) == LABELS["masked_ids"]
    right_pairs = OUTPUTS["next_logits"].argmax(axis=-1) == LABELS["is_next"]
    expected = {
        "mlm_loss": ((MASKED * tokens).sum(), 6),
        "mlm_accuracy": ((right * tokens).sum(), 6),
        "nsp_loss": ((NEXT * WEIGHTS).sum(), 3),
        "nsp_accuracy": ((right_pairs * WEIGHTS).sum(), 3),
    }
    for name, (total, count) in expected.items():
        np.testing.assert_allclose(found[name], (total, count), rtol=1e-5, err_msg=name)


def test_perplexity_follows_from_the_loss():
    task = MaskedLanguageModel(2.5)
    assert task.derived({"mlm_loss": math.log(50.0)}) == {"perplexity": pytest.approx(50.0)}
    assert task.derived({}) == {}
    assert math.isfinite(task.derived({"mlm_loss": 1e6})["perplexity"])


def test_answers():
    answers = MaskedLanguageModel(2.5).serving_outputs(OUTPUTS, None)
    np.testing.assert_array_equal(answers["masked_ids"], OUTPUTS["masked_logits"].argmax(axis=-1))
    exponents = np.exp(OUTPUTS["next_logits"])
    np.testing.assert_allclose(answers["is_next"], exponents[:, 1] / exponents.sum(axis=1), rtol=1e-5)


def test_bfloat16_outputs_are_judged_in_float32():
    halved = {name: tf.cast(values, tf.bfloat16) for name, values in OUTPUTS.items()}
    losses = MaskedLanguageModel(2.5).loss(LABELS, halved)
    assert losses.dtype == tf.float32
    np.testing.assert_allclose(losses, MaskedLanguageModel(2.5).loss(LABELS, OUTPUTS), rtol=0.02)
