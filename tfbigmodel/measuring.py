"""Measuring a trained model on raw examples, along the path that is served."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines.data import Data, DatasetInfo, Examples, Split
from tfbigmodel.config import RunConfig
from tfbigmodel.evaluation.metrics import classification_metrics, regression_metrics
from tfbigmodel.inference import BATCH_SIZE, InferenceModule
from tfbigmodel.tasks import Task
from tfbigmodel.training.loop import make_evaluate

# The tasks whose examples are raw inputs with labels; the others' are made of a corpus, batch by batch.
LABELLED = ("classification", "regression")


def measure_split(
    module: InferenceModule, model: keras.Model, data: Data, split: Split, task: Task, config: RunConfig
) -> dict[str, Any]:
    """All metrics of a model on one split of its data.

    Args:
        module: the model with its preprocessing.
        model: the model by itself.
        data: the splits.
        split: which one; of the training split, `evaluation.train_examples` evenly spread ones at most.
        task: loss and metrics.
        config: the run's configuration.
    """
    limit = config.evaluation.train_examples if split == "train" else data.info.counts[split]
    if data.info.task in LABELLED:
        examples = evenly(data.examples(split), limit)
        return measure(module, examples, task, data.info, config.evaluation.threshold)[0]
    return measure_batches(model, data, split, task, limit)


def measure_batches(model: keras.Model, data: Data, split: Split, task: Task, limit: int) -> dict[str, Any]:
    """Loss and metrics of a language model, whose examples are made as they are needed.

    Args:
        model: a trained model.
        data: the splits.
        split: which one.
        task: loss and metrics.
        limit: examples to measure on at most, from the first on.
    """
    count = min(limit, data.info.counts[split])
    num_batches = -(-count // data.batch_size)
    evaluate = make_evaluate(model, task, tf.distribute.get_strategy())
    metrics = evaluate(iter(data.evaluation(split)), num_batches)
    return {**metrics, "count": min(num_batches * data.batch_size, data.info.counts[split])}


def evenly(examples: Examples, limit: int) -> Examples:
    """At most `limit` examples, evenly spread over all."""
    if len(examples) <= limit:
        return examples
    rows = np.linspace(0, len(examples) - 1, limit).round().astype(np.int64)
    features = {name: values[rows] for name, values in examples.features.items()}
    return Examples(features, examples.labels[rows], examples.origin, np.asarray(examples.rows)[rows])


def measure(
    module: InferenceModule, examples: Examples, task: Task, info: DatasetInfo, threshold: float | None
) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of a model on labelled examples.

    Args:
        module: the model with its preprocessing.
        examples: with labels: class indices, or targets in their own units.
        task: the loss.
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
