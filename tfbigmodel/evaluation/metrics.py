"""Metrics of classification and regression, on numpy arrays, as values that JSON can hold.

Every number is scikit-learn's, but for two it does not have: the expected calibration error and the threshold with the
highest F1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.errors import UserError

Metrics = dict[str, Any]

# Probabilities in bfloat16 are exact to three digits: a sum further from 1 is no rounding but something else.
_SUM_TOLERANCE = 1e-2
_CALIBRATION_BINS = 15


def classification_metrics(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], threshold: float | None = None
) -> Metrics:
    """Measures a classifier.

    Averages over classes (`*_macro`, `*_weighted`) are scikit-learn's: over the classes that occur among labels or
    predictions, 0 where a precision or recall is 0/0. `log_loss` is the mean negative logarithm of the true class's
    probability, bounded at float64's resolution (36.04 for a probability of exactly 0).

    Args:
        labels: true class indices, `(num_examples,)`.
        probabilities: `(num_examples, num_classes)`, rows that sum to 1.
        class_names: the classes' names in the order of their indices.
        threshold: for two classes only: class 1 is predicted where its probability is at least this. None predicts
            the more probable class.

    Returns:
        `accuracy`, `precision_macro`, `recall_macro`, `f1_macro`, `precision_weighted`, `recall_weighted`,
        `f1_weighted`, `roc_auc` (of class 1 for two classes, else the mean of one-vs-rest; None where the labels lack
        a class), `log_loss`, `ece` (see `expected_calibration_error`), `count`;
        `per_class`: name → `precision`, `recall`, `f1`, `support`, `roc_auc` (None where the labels have only this
        class or only others); `confusion_matrix`: rows true, columns predicted.
        For two classes also `threshold` (as given), `positive_class`, and its `precision`, `recall`, `f1`, `pr_auc`
        (average precision; None where it is absent from the labels).

    Raises:
        UserError: no examples, NaN or infinite probabilities, a label without a class, a threshold that does not apply.
        ValueError: the shapes disagree, or the rows are not probabilities (logits, perhaps).

    Example:
        >>> classification_metrics([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], ["ham", "spam"])["accuracy"]
        0.6666666666666666
    """
    from sklearn import metrics

    labels, probabilities = checked_classification(labels, probabilities, class_names)
    predictions = predicted_classes(probabilities, threshold)
    indices = np.arange(len(class_names))
    # Rounding in float32 is more than scikit-learn takes for a sum of 1 in float64; it does not reach the metrics.
    normalized = probabilities.astype(np.float64)
    normalized /= normalized.sum(axis=1, keepdims=True)

    result: Metrics = {"accuracy": float(metrics.accuracy_score(labels, predictions))}
    for average in ("macro", "weighted"):
        scores = metrics.precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)
        for key, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            result[f"{key}_{average}"] = float(score)
    roc_aucs = [_roc_auc(labels == index, normalized[:, index]) for index in indices]
    if len(class_names) == 2:
        result["roc_auc"] = roc_aucs[1]
    else:
        present = [area for area in roc_aucs if area is not None]
        result["roc_auc"] = float(np.mean(present)) if len(present) == len(roc_aucs) else None
    result["log_loss"] = float(metrics.log_loss(labels, normalized, labels=indices))
    result["ece"] = expected_calibration_error(labels, probabilities)
    result["count"] = len(labels)

    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=indices, average=None, zero_division=0
    )
    if len(class_names) == 2:
        result |= {
            "threshold": None if threshold is None else float(threshold),
            "positive_class": class_names[1],
            "precision": float(precision[1]),
            "recall": float(recall[1]),
            "f1": float(f1[1]),
            "pr_auc": (
                float(metrics.average_precision_score(labels == 1, normalized[:, 1])) if (labels == 1).any() else None
            ),
        }
    result["per_class"] = {
        name: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "support": int(support[index]),
            "roc_auc": roc_aucs[index],
        }
        for index, name in enumerate(class_names)
    }
    result["confusion_matrix"] = metrics.confusion_matrix(labels, predictions, labels=indices).tolist()
    return result


def regression_metrics(targets: ArrayLike, predictions: ArrayLike) -> Metrics:
    """Measures a regression, in the target's own units.

    Args:
        targets: true values, `(num_examples,)`.
        predictions: predicted values, `(num_examples,)` or `(num_examples, 1)`.

    Returns:
        `mse`, `rmse`, `mae`, `median_ae`, `r2` (None for fewer than two examples, where it is not defined),
        `max_error`, `count`.

    Raises:
        UserError: no examples, or a value that is NaN or infinite.
        ValueError: the shapes disagree.
    """
    from sklearn import metrics

    targets, predictions = checked_regression(targets, predictions)
    mse = float(metrics.mean_squared_error(targets, predictions))
    return {
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(metrics.mean_absolute_error(targets, predictions)),
        "median_ae": float(metrics.median_absolute_error(targets, predictions)),
        "r2": float(metrics.r2_score(targets, predictions)) if len(targets) > 1 else None,
        "max_error": float(metrics.max_error(targets, predictions)),
        "count": len(targets),
    }


def predicted_classes(probabilities: ArrayLike, threshold: float | None = None) -> NDArray[np.int64]:
    """The class that each row of probabilities means; the one rule that evaluation and prediction share.

    Args:
        probabilities: `(num_examples, num_classes)`.
        threshold: for two classes only: class 1 where its probability is at least this, compared in float64. None
            takes the most probable class, the first of equals.

    Returns:
        Class indices, `(num_examples,)`.

    Raises:
        UserError: a threshold outside 0 … 1 or with other than two classes, or a probability that is NaN or infinite.
        ValueError: not two-dimensional.
    """
    probabilities = _checked_probabilities(probabilities)
    if threshold is None:
        return probabilities.argmax(axis=1)
    if probabilities.shape[1] != 2:
        raise UserError(
            f"a decision threshold ({threshold}) needs exactly two classes and this model has "
            f"{probabilities.shape[1]}; leave the threshold out"
        )
    if not 0.0 <= threshold <= 1.0:
        raise UserError(f"the decision threshold is {threshold}; it is a probability, from 0 to 1")
    return (probabilities[:, 1].astype(np.float64) >= float(threshold)).astype(np.int64)


def best_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The decision threshold with the highest F1 of class 1; choose it on validation data, never on the test split.

    Every cut between two neighbouring scores (and one below the lowest) is tried. Of cuts with the same F1 the middle
    one is taken, and of the thresholds that make one cut the one halfway between its two scores: both keep the
    threshold away from single examples, so that it carries over to other data.

    Args:
        labels: true class indices, 0 or 1, `(num_examples,)`.
        probabilities: `(num_examples, 2)`.

    Returns:
        A threshold for `predicted_classes`, between 0 and 1.

    Raises:
        UserError: other than two classes, one of them absent from the labels, or NaN or infinite probabilities.
    """
    probabilities = _checked_probabilities(probabilities)
    if probabilities.shape[1] != 2:
        raise UserError(f"choosing a threshold needs exactly two classes; this model has {probabilities.shape[1]}")
    labels, probabilities = checked_classification(labels, probabilities, ("0", "1"))
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"choosing a threshold needs examples of both classes; all {len(labels)} are of class {labels[0]}"
        )
    scores = probabilities[:, 1].astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], labels[order] == 1
    # A cut lies after the last example of each distinct score; what stands before it is predicted as class 1.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    # 2·TP / (predicted + actual positives): a quotient of integers, so that equal F1s are equal to the last bit.
    f1 = 2 * np.cumsum(positive)[last] / (last + 1 + positive.sum())
    tied = last[f1 == f1.max()]
    cut = tied[(len(tied) - 1) // 2]
    upper, lower = scores[cut], (scores[cut + 1] if cut + 1 < len(scores) else 0.0)
    middle = float((upper + lower) / 2)
    # Between neighbouring floats there is no middle, and rounding must not let the lower one in.
    return middle if lower < middle <= upper else float(upper)


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """How far the model's confidence is from its accuracy: 0 where "90 % sure" is right nine times in ten.

    The most probable class's probability is put into 15 bins of equal width; the result is the mean over examples of
    |accuracy - confidence| of their bins (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

    Args:
        labels: true class indices, `(num_examples,)`.
        probabilities: `(num_examples, num_classes)`.
    """
    labels, probabilities = np.asarray(labels), _checked_probabilities(probabilities)
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # Bins are open on the left, as in the paper: a confidence of exactly 1 belongs to the last.
    bins = np.clip(np.ceil(confidence * _CALIBRATION_BINS).astype(int) - 1, 0, _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def checked_classification(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Labels and probabilities as arrays, refused where they do not belong together (see `classification_metrics`)."""
    labels, probabilities = np.asarray(labels), _checked_probabilities(probabilities)
    if labels.shape != probabilities.shape[:1] or probabilities.shape[1] != len(class_names):
        raise ValueError(
            f"labels {labels.shape}, probabilities {probabilities.shape} and {len(class_names)} class names do not "
            "belong together: expected (n,), (n, num_classes) and num_classes"
        )
    if len(labels) == 0:
        raise UserError("there are no examples to measure")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are class indices, of an integer type; received {labels.dtype}")
    bad = (labels < 0) | (labels >= len(class_names))
    if bad.any():
        index = int(bad.argmax())
        raise UserError(
            f"the label of example {index} is {labels[index]}; this model's {len(class_names)} classes are numbered "
            f"from 0 to {len(class_names) - 1}"
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    bad = (np.abs(sums - 1) > _SUM_TOLERANCE) | (probabilities < 0).any(axis=1)
    if bad.any():
        index = int(bad.argmax())
        raise ValueError(
            f"row {index} is not a distribution: it sums to {sums[index]:.4g}, its least value is "
            f"{probabilities[index].min():.4g}; apply softmax to logits first"
        )
    return labels.astype(np.int64), probabilities


def checked_regression(targets: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets and predictions as float64 arrays `(num_examples,)`, refused as `regression_metrics` says."""
    targets, predictions = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        predictions = predictions[:, 0]
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} differ; expected (n,) both")
    if len(targets) == 0:
        raise UserError("there are no examples to measure")
    _refuse_non_finite(targets, "the target")
    _refuse_non_finite(predictions, "the model's prediction")
    return targets, predictions


def _checked_probabilities(probabilities: ArrayLike) -> NDArray[np.floating]:
    probabilities = np.asarray(probabilities)
    # bfloat16 and float16 (and integer 0 and 1) are computed with in float32.
    if probabilities.dtype not in (np.float32, np.float64):
        probabilities = probabilities.astype(np.float32)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected (n, num_classes), two or more")
    _refuse_non_finite(probabilities, "the model's probability")
    return probabilities


def _refuse_non_finite(values: NDArray[np.floating], what: str) -> None:
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        raise UserError(
            f"{what} is NaN or infinite for {len(values) - finite.sum()} of {len(values)} examples, first for example "
            f"{finite.argmin()}; if it is the model's, training diverged: lower the learning rate or clip gradients"
        )


def _roc_auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    from sklearn import metrics

    if positive.all() or not positive.any():
        return None
    return float(metrics.roc_auc_score(positive, scores))
