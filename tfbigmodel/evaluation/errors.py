"""The examples a model gets most wrong: where to look for bad labels and for what it has not learned."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfbigmodel.evaluation.metrics import checked_classification, checked_regression, predicted_classes


def worst_errors(
    labels: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    origin: str,
    rows: ArrayLike,
    limit: int = 20,
    threshold: float | None = None,
    files: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The errors with the highest loss, worst first; of equals the earlier example first.

    Args:
        labels: true class indices, or targets for regression, `(num_examples,)`.
        predictions: probabilities `(num_examples, num_classes)`; for regression predicted values, `(num_examples,)`
            or `(num_examples, 1)`.
        class_names: the classes' names; empty for regression.
        origin: where the examples come from, such as a file's name.
        rows: each example's place in its origin, `(num_examples,)`.
        limit: how many to return at most.
        threshold: the decision threshold of a model of two classes, as for `predicted_classes`.
        files: the file that each example is in, where they have one each; its path is then the error's `file`.

    Returns:
        For classification, wrongly classified examples only, as `origin`, `row`, `label`, `predicted`,
        `probability_label`, `probability_predicted`, `loss` (-log of the true class's probability). For regression
        `origin`, `row`, `target`, `prediction`, `error` (prediction - target), by its magnitude.

    Raises:
        UserError, ValueError: as `classification_metrics` and `regression_metrics`.
    """
    rows = np.asarray(rows)
    if rows.shape != np.shape(labels):
        raise ValueError(f"rows {rows.shape} and labels {np.shape(labels)} differ; expected (n,) both")
    if files is not None and len(files) != len(rows):
        raise ValueError(f"{len(files)} files for {len(rows)} examples; expected one each")
    if not class_names:
        return _regression_errors(labels, predictions, origin, rows, limit, files)

    labels, probabilities = checked_classification(labels, predictions, class_names)
    predicted = predicted_classes(probabilities, threshold)
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # JSON has no infinity: a probability of 0 counts as the smallest that float64 can tell from it, as in `log_loss`.
    losses = -np.log(np.maximum(of_label, np.finfo(np.float64).eps))
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:limit]
    return [
        {
            "origin": origin,
            "row": rows[index].item(),
            **({} if files is None else {"file": files[index]}),
            "label": class_names[labels[index]],
            "predicted": class_names[predicted[index]],
            "probability_label": float(of_label[index]),
            "probability_predicted": float(probabilities[index, predicted[index]]),
            "loss": float(losses[index]),
        }
        for index in worst
    ]


def _regression_errors(
    targets: ArrayLike, predictions: ArrayLike, origin: str, rows: np.ndarray, limit: int, files: Sequence[str] | None
) -> list[dict[str, Any]]:
    targets, predictions = checked_regression(targets, predictions)
    errors = predictions - targets
    return [
        {
            "origin": origin,
            "row": rows[index].item(),
            **({} if files is None else {"file": files[index]}),
            "target": float(targets[index]),
            "prediction": float(predictions[index]),
            "error": float(errors[index]),
        }
        for index in np.argsort(-np.abs(errors), kind="stable")[:limit]
    ]
