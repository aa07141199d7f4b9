"""Measuring a trained model on raw examples, along the path that is served."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipelines.data import Data, DatasetInfo, Examples, Preprocessor, Split
from pipelines.images.preprocess import ImagePreprocessor
from tfbigmodel.config import RunConfig
from tfbigmodel.evaluation.metrics import classification_metrics, regression_metrics
from tfbigmodel.inference import InferenceModule, batch_size_for
from tfbigmodel.tasks import Task
from tfbigmodel.training.distribution import is_chief, is_multi_worker, summed, worker_index
from tfbigmodel.training.loop import make_evaluate

# The tasks whose examples are raw inputs with labels; the others' are made of a corpus, batch by batch.
LABELLED = ("classification", "regression")
# The simple models of baselines would not be better for more pixels a side, and take long.
_BASELINE_SIDE = 32


class SplitResults(NamedTuple):
    """What was measured on a split.

    Attributes:
        metrics: the metrics by name, `loss` among them.
        examples: what it was measured on; None for a model of language.
        predictions: probabilities or values for them, as `measure` gives them; None for a model of language.
    """

    metrics: dict[str, Any]
    examples: Examples | None = None
    predictions: np.ndarray | None = None


def measure_split(
    module: InferenceModule,
    model: keras.Model,
    data: Data,
    split: Split,
    task: Task,
    config: RunConfig,
    strategy: tf.distribute.Strategy | None = None,
) -> SplitResults:
    """All metrics of a model on one split of its data.

    Several workers call this together, each measures its share, and all of them get the metrics of the whole split.

    Args:
        module: the model with its preprocessing.
        model: the model by itself.
        data: the splits.
        split: which one; of the training split, `evaluation.train_examples` evenly spread ones at most.
        task: loss and metrics.
        config: the run's configuration.
        strategy: whose workers measure together; None for this process alone.
    """
    limit = config.evaluation.train_examples if split == "train" else data.info.counts[split]
    if data.info.task in LABELLED:
        examples = evenly(data.examples(split), limit)
        metrics, predictions = measure(module, examples, task, data.info, config.evaluation.threshold, strategy)
        return SplitResults(metrics, examples, predictions)
    return SplitResults(measure_batches(model, data, split, task, limit, strategy))


def measure_batches(
    model: keras.Model,
    data: Data,
    split: Split,
    task: Task,
    limit: int,
    strategy: tf.distribute.Strategy | None = None,
) -> dict[str, Any]:
    """Loss and metrics of a language model, whose examples are made as they are needed.

    Args:
        model: a trained model.
        data: the splits.
        split: which one.
        task: loss and metrics.
        limit: examples to measure on at most, from the first on.
        strategy: whose workers measure together; None for this process alone.
    """
    count = min(limit, data.info.counts[split])
    num_batches = -(-count // data.batch_size)
    if strategy is None or not is_multi_worker(strategy):
        strategy, batches = tf.distribute.get_strategy(), data.evaluation(split)
    else:
        batches = strategy.distribute_datasets_from_function(lambda context: data.evaluation(split, context))
    metrics = make_evaluate(model, task, strategy)(iter(batches), num_batches)
    return {**metrics, "count": min(num_batches * data.batch_size, data.info.counts[split])}


def evenly(examples: Examples, limit: int) -> Examples:
    """At most `limit` examples, evenly spread over all."""
    if len(examples) <= limit:
        return examples
    return taken(examples, np.linspace(0, len(examples) - 1, limit).round().astype(np.int64))


def taken(examples: Examples, indices: np.ndarray) -> Examples:
    """Some of the examples, in the order of `indices`, `(num_taken,)`; image files are not read by this."""
    features = {name: values[indices] for name, values in examples.features.items()}
    labels = None if examples.labels is None else examples.labels[indices]
    return Examples(features, labels, examples.origin, np.asarray(examples.rows)[indices])


def measure(
    module: InferenceModule,
    examples: Examples,
    task: Task,
    info: DatasetInfo,
    threshold: float | None,
    strategy: tf.distribute.Strategy | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of a model on labelled examples.

    Args:
        module: the model with its preprocessing.
        examples: with labels: class indices, or targets in their own units.
        task: the loss.
        info: the data's classes or target scale.
        threshold: the decision threshold for two classes; None for the likelier class.
        strategy: whose workers measure together; None for this process alone.

    Returns:
        The metrics, `loss` among them, and the predictions: probabilities `(num_examples, num_classes)`, or values
        `(num_examples,)` in the target's own units.
    """
    outputs = predict_together(module, examples, strategy)
    if info.task == "regression":
        predictions = outputs["prediction"]
        normalised = [(values - info.target_mean) / info.target_scale for values in (examples.labels, predictions)]
        loss = float(np.mean(np.square(normalised[0] - normalised[1])))
        return {"loss": loss, **regression_metrics(examples.labels, predictions)}, predictions
    losses = task.loss(tf.constant(examples.labels, tf.int32), tf.constant(outputs["logits"]))
    probabilities = outputs["probabilities"]
    metrics = classification_metrics(examples.labels, probabilities, info.class_names, threshold)
    return {"loss": float(np.mean(losses.numpy(), dtype=np.float64)), **metrics}, probabilities


def predict_together(
    module: InferenceModule, examples: Examples, strategy: tf.distribute.Strategy | None
) -> dict[str, np.ndarray]:
    """A model's answers to all examples, in their order; each worker has answered its share of the batches.

    Args:
        module: the same on all workers.
        examples: all of them, on every worker.
        strategy: whose workers answer together; None for this process alone.

    Returns:
        Output name → array `(num_examples, …)`; of several workers' answers the numbers only, not the strings.
    """
    if strategy is None or not is_multi_worker(strategy):
        return module.predict(examples)
    # The batches are those of a single process: its numbers come out, bit by bit where the processors are alike.
    batches = module.batches(examples)
    index, count = worker_index(strategy)
    # Where there are fewer batches than workers, the rest answer the first one, too, to know the answers' shapes.
    parts = [(rows, module.answer(examples, rows)) for rows in batches[index::count] or batches[:1]]
    gathered = {}
    for name, values in parts[0][1].items():
        if np.issubdtype(values.dtype, np.floating):
            everything = np.zeros((len(examples), *values.shape[1:]), values.dtype)
            for rows, answers in parts if index < len(batches) else ():
                everything[rows] = answers[name]
            gathered[name] = summed(strategy, everything)
    return gathered


def share_weights(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Gives every worker's model the chief's weights; only the chief needs to have read them.

    Args:
        model: of the same architecture on all workers.
        strategy: whose workers call this together.
    """
    if not is_multi_worker(strategy):
        return
    variables = [variable.value for variable in model.variables]
    for dtype in (np.float32, np.float64):  # seeds' integers are exact as doubles
        chosen = [v for v in variables if (v.dtype == tf.float32) == (dtype == np.float32)]
        values = np.concatenate([np.zeros(0, dtype), *(v.numpy().astype(dtype).reshape(-1) for v in chosen)])
        values = summed(strategy, values if is_chief(strategy) else np.zeros_like(values))
        start = 0
        for variable in chosen:
            size = int(np.prod(variable.shape))
            variable.assign(tf.cast(values[start : start + size].reshape(variable.shape), variable.dtype))
            start += size


def model_inputs(module: InferenceModule, examples: Examples) -> np.ndarray:
    """What the model sees of examples, flattened: float32 `(num_examples, num_inputs)`, for baselines.

    Images larger than 32 × 32 pixels are shrunk to that, each pixel the mean of those it covers.
    """
    parts = []
    batch_size = batch_size_for(module.preprocess, examples.features)
    for start in range(0, len(examples), batch_size):
        raw = {name: tf.constant(values[start : start + batch_size]) for name, values in examples.features.items()}
        inputs = module.preprocess(raw)
        if isinstance(module.preprocess, ImagePreprocessor):
            inputs = {name: _shrunk(values) for name, values in inputs.items()}
        flat = [np.reshape(inputs[name].numpy(), (len(inputs[name]), -1)) for name in sorted(inputs)]
        parts.append(np.concatenate(flat, axis=1, dtype=np.float32))
    return np.concatenate(parts)


def shrunk_size(preprocess: Preprocessor) -> tuple[int, int] | None:
    """Height and width of the images that baselines see, where those are smaller than the model's; else None."""
    if not isinstance(preprocess, ImagePreprocessor):
        return None
    size = min(preprocess.height, _BASELINE_SIDE), min(preprocess.width, _BASELINE_SIDE)
    return size if size != (preprocess.height, preprocess.width) else None


def _shrunk(images: tf.Tensor) -> tf.Tensor:
    size = [min(side, _BASELINE_SIDE) for side in images.shape[1:3]]
    return images if size == images.shape[1:3] else tf.image.resize(images, size, tf.image.ResizeMethod.AREA)
