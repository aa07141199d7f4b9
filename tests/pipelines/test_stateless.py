"""Random numbers as functions of their keys: the graph draws what NumPy draws, and they look random."""

import numpy as np
import tensorflow as tf

from pipelines.stateless import graph_keys, graph_uniform, random_keys, random_keys_of, random_uniform


def test_the_graph_mixes_the_keys_that_numpy_mixes() -> None:
    index = np.arange(100)
    in_graph = tf.function(lambda epoch, places: graph_keys(42, epoch, places))
    assert (in_graph(tf.constant(3, tf.int64), tf.constant(index)).numpy() == random_keys(42, 3, index)).all()


def test_the_graph_draws_what_numpy_draws() -> None:
    keys = random_keys(3, 5, np.arange(100))
    exact = random_uniform(keys, 40)
    assert np.abs(graph_uniform(tf.constant(keys), 40).numpy() - exact).max() < 2.0**-23
    assert (random_keys_of(keys, 40) == random_keys_of(keys, 50)[:, :40]).all()


def test_random_numbers_look_random() -> None:
    draws = random_uniform(random_keys(0, 0, np.arange(20_000)), 4)
    assert abs(draws.mean() - 0.5) < 5 / np.sqrt(12 * draws.size)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 5 / np.sqrt(20_000)
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 5 / np.sqrt(20_000)
    assert len({int(random_keys(a, b, c)) for a in range(10) for b in range(-5, 5) for c in range(10)}) == 1_000
