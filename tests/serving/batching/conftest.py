"""Models whose answers show how they were run, loaded as the server loads them."""

import asyncio

import numpy as np
import pytest

from serving.batching.runner import Runner
from serving.engine import load_model
from serving.inference.call import GraphRun
from serving.servable import Servable


@pytest.fixture(scope="session")
def batch_models(tmp_path_factory):
    """Loaded models by name.

    double (y = 2x and the sum of each row, of any width), rows (how many rows the run had), relative (x minus the
    batch's mean), number (texts to numbers; fails on others), total (one number for the whole batch),
    steady (y = x, after work that is the same for any number of rows).
    """
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(tf.ones([800, 800]))

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def steady(self, x):
            return {"y": x + 0.0 * tf.reduce_sum(self.weights @ self.weights)}

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def double(self, x):
            return {"sum": tf.reduce_sum(x, 1), "y": 2 * x}

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def rows(self, x):
            size = tf.shape(x)[0]
            return {"rows": tf.fill([size], size)}

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def relative(self, x):
            return {"y": x - tf.reduce_mean(x)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def number(self, text):
            return {"y": tf.strings.to_number(text)}

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def total(self, x):
            return {"y": tf.reduce_sum(x)}

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.float32, name="a"), tf.TensorSpec([None], tf.float32, name="b")]
        )
        def pair(self, a, b):
            return {"y": a + b}

    module = Model()
    folder = tmp_path_factory.mktemp("batching") / "model"
    names = ("double", "rows", "relative", "number", "total", "pair", "steady")
    tf.saved_model.save(module, str(folder), signatures={name: getattr(module, name) for name in names})
    return load_model(folder)


@pytest.fixture
def ask(batch_models):
    """Runs a signature on several inputs at once, each a request of its own, and gives their results or errors.

    `ask(runner, "double", [x1, x2])`; an input is an array, or a tuple of them for several inputs.
    """

    def ask(runner: Runner, signature: str, inputs, deadline=None, servable=None, facts=None):
        servable = servable or Servable("m", 1, batch_models)
        definition = batch_models.signatures[signature]
        feeds = tuple(definition.inputs[name].name for name in sorted(definition.inputs))
        fetches = tuple(definition.outputs[name].name for name in sorted(definition.outputs))

        async def one(values):
            values = list(values) if isinstance(values, tuple) else [values]
            assert servable.try_enter()
            with servable:
                return await runner.run(servable, GraphRun(signature, feeds, fetches, values), deadline, facts)

        async def all_of_them():
            return await asyncio.gather(*map(one, inputs), return_exceptions=True)

        return asyncio.run(all_of_them())

    return ask


@pytest.fixture
def column():
    """`column(1, 2)` = the float32 array [[1], [2]]."""
    return lambda *numbers: np.float32([[number] for number in numbers])
