"""The model behind Flask, FastAPI and LitServe: loaded once, JSON's rows in, JSON's rows out."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (ops of text models)


def load() -> Callable[[list[Any]], list[dict[str, Any]]]:
    """Loads the SavedModel that the environment names: MODEL_DIRECTORY, MODEL_SIGNATURE.

    Returns:
        A function from `instances` to `predictions`, as in TensorFlow Serving's row format.
    """
    model = tf.saved_model.load(os.environ["MODEL_DIRECTORY"])
    signature = model.signatures[os.environ["MODEL_SIGNATURE"]]
    ((name, spec),) = signature.structured_input_signature[1].items()
    dtype = spec.dtype.as_numpy_dtype

    def predict(instances: list[Any]) -> list[dict[str, Any]]:
        outputs = signature(**{name: tf.constant(np.array(instances, dtype))})
        columns = [_plain(outputs[key]) for key in outputs]
        return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]

    predict.model = model  # type: ignore[attr-defined]  # its variables live as long as it does
    return predict


def _plain(tensor: tf.Tensor) -> list[Any]:
    values = tensor.numpy().tolist()
    return [value.decode() for value in values] if tensor.dtype == tf.string else values
