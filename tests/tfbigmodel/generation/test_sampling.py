"""The rules for one token, against numpy and by counting."""

import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.generation.sampling import choose, penalised, random_numbers

LOGITS = np.log(np.float32([0.05, 0.4, 0.15, 0.3, 0.1]))
DRAWS = 4000


def shares(rules, **values):
    """How often each token is chosen."""
    uniform = tf.constant((np.arange(DRAWS) + 0.5) / DRAWS, tf.float32)  # evenly spread, in place of random ones
    tokens = choose(tf.tile(LOGITS[None], [DRAWS, 1]), rules(DRAWS, **values), uniform)
    return np.bincount(tokens, minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"temperature": 1.0}, [0.05, 0.4, 0.15, 0.3, 0.1]),
        ({"temperature": 0.5}, np.square([0.05, 0.4, 0.15, 0.3, 0.1]) / np.sum(np.square([0.05, 0.4, 0.15, 0.3, 0.1]))),
        ({"temperature": 1.0, "top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 1.0, "top_k": 9}, [0.05, 0.4, 0.15, 0.3, 0.1]),
        ({"temperature": 1.0, "top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 1.0, "top_p": 0.75}, [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        ({"temperature": 1.0, "top_p": 1e-6}, [0, 1, 0, 0, 0]),
        # Of the three likeliest, the shares are 0.47, 0.35 and 0.18.
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.8}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 1}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-30}, [0, 1, 0, 0, 0]),
    ],
)
def test_exactly_the_right_tokens_are_chosen_as_often_as_they_should(rules, values, expected):
    found = shares(rules, **values)
    np.testing.assert_allclose(found, expected, atol=2 / DRAWS)
    np.testing.assert_array_equal(found > 0, np.array(expected) > 0)


def test_each_text_has_its_own_rules(rules):
    values = {"temperature": [0.0, 1.0, 1.0, 1.0], "top_k": [0, 2, 0, 0], "top_p": [1.0, 1.0, 0.3, 1.0]}
    uniform = tf.constant([0.99, 0.99, 0.99, 0.99])
    together = choose(tf.tile(LOGITS[None], [4, 1]), rules(4, **values), uniform)
    np.testing.assert_array_equal(together, [1, 3, 1, 4])
    for row in range(4):
        alone = rules(1, **{name: value[row] for name, value in values.items()})
        assert choose(LOGITS[None], alone, uniform[:1])[0] == together[row]


def test_what_is_forbidden_is_never_chosen(rules):
    logits = tf.tile(tf.where(tf.range(5) == 1, -np.inf, LOGITS)[None], [DRAWS, 1])
    for values in ({}, {"temperature": 1.0}, {"temperature": 100.0, "top_p": 0.99}, {"temperature": 1.0, "top_k": 5}):
        tokens = choose(logits, rules(DRAWS, **values), tf.linspace(0.0, 1.0 - 2**-23, DRAWS))
        assert 1 not in tokens.numpy()


def test_the_repetition_penalty_is_that_of_ctrl():
    logits = np.float32([[2.0, -1.0, 3.0, -4.0], [2.0, -1.0, 3.0, -4.0]])
    seen = np.array([[True, True, False, False], [False, False, True, True]])
    penalty = np.float32([1.5, 0.5])
    expected = np.float32([[2.0 / 1.5, -1.5, 3.0, -4.0], [2.0, -1.0, 6.0, -2.0]])
    np.testing.assert_allclose(penalised(logits, seen, penalty), expected, rtol=1e-6)
    np.testing.assert_array_equal(penalised(logits, seen, np.float32([1.0, 1.0])), logits)


def test_random_numbers_follow_from_the_seed_alone():
    together = random_numbers(tf.constant([7, 8, 7], tf.int64), 500).numpy()
    np.testing.assert_array_equal(together[0], together[2])
    np.testing.assert_array_equal(together[1], random_numbers(tf.constant([8], tf.int64), 500)[0])
    assert not np.isin(together[0], together[1]).any()
    assert together.min() >= 0
    assert together.max() < 1
    assert abs(together.mean() - 0.5) < 0.05
