"""Measuring a trained model on raw examples, along the path that is served."""

from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.data import DatasetInfo, Examples
from tfbigmodel.evaluation.metrics import classification_metrics, regression_metrics
from tfbigmodel.inference import BATCH_SIZE, InferenceModule


def measure(
    module: InferenceModule, examples: Examples, task: ModuleType, info: DatasetInfo, threshold: float | None
) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of a model on labelled examples.

    Args:
        module: the model with its preprocessing.
        examples: with labels: class indices, or targets in their own units.
        task: the functions of `tfbigmodel.tasks`.
        info: the data's classes or target scale.
        threshold: the decision threshold for two classes; None for the likelier class.

    Returns:
        The metrics, `loss` among them, and the predictions: probabilities `(num_examples, num_classes)`, or values
        `(num_examples,)` in the target's own units.
    """
    outputs = module.predict(examples)
    if info.task == "regression":
        predictions = outputs["prediction"]
        normalised = [(values - info.target_mean) / info.target_scale for values in (examples.labels, predictions)]
        loss = float(np.mean(np.square(normalised[0] - normalised[1])))
        return {"loss": loss, **regression_metrics(examples.labels, predictions)}, predictions
    losses = task.loss(tf.constant(examples.labels, tf.int32), tf.constant(outputs["logits"]))
    probabilities = outputs["probabilities"]
    metrics = classification_metrics(examples.labels, probabilities, info.class_names, threshold)
    return {"loss": float(np.mean(losses.numpy(), dtype=np.float64)), **metrics}, probabilities


def model_inputs(module: InferenceModule, examples: Examples) -> np.ndarray:
    """What the model sees of examples, flattened: float32 `(num_examples, num_inputs)`, for baselines."""
    parts = []
    for start in range(0, len(examples), BATCH_SIZE):
        raw = {name: tf.constant(values[start : start + BATCH_SIZE]) for name, values in examples.features.items()}
        inputs = module.preprocess(raw)
        flat = [np.reshape(inputs[name].numpy(), (len(inputs[name]), -1)) for name in sorted(inputs)]
        parts.append(np.concatenate(flat, axis=1, dtype=np.float32))
    return np.concatenate(parts)
