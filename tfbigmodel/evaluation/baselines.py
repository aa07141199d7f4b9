"""What a model has to beat: guessing without looking, and the simplest model that looks."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfbigmodel.evaluation.metrics import Metrics, classification_metrics, regression_metrics

# 128 MiB of float32, and 256 million products for one pass over the sample: wide inputs (large images) and many classes
# are fitted on fewer rows, so that memory and time stay bounded.
_MAX_VALUES = 32 * 2**20
_MAX_PRODUCTS = 256 * 2**20
# Inverse regularisation strengths for the logistic regression: weak suits few columns, strong suits pixels.
_STRENGTHS = (1.0, 0.1, 0.01)
_ITERATIONS = 60
_NESTED = ("per_class", "confusion_matrix")


def baselines(
    task: Literal["classification", "regression"],
    train_inputs: ArrayLike | Callable[[NDArray[np.int64]], ArrayLike],
    train_labels: ArrayLike,
    test_inputs: ArrayLike,
    test_labels: ArrayLike,
    class_names: Sequence[str],
    max_examples: int = 10_000,
    seed: int = 42,
    seen: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Fits the baselines on training data and measures them on test data, in bounded time.

    Fashion-MNIST (10,000 of 60,000 × 784, 10 classes) takes about 9 s on two cores and reaches an accuracy of 0.83.

    Args:
        task: `classification` or `regression`.
        train_inputs: one row of numbers for each example, `(num_train, num_inputs)`; or a function from indices
            `(num_rows,)` to their rows, where reading all would take long: it is called once, for those fitted on.
        train_labels: class indices or targets, `(num_train,)`.
        test_inputs: `(num_test, num_inputs)`.
        test_labels: `(num_test,)`.
        class_names: the classes' names; empty for regression.
        max_examples: the regression is fitted on at most so many training examples (fewer where rows are very wide or
            classes many), sampled, in classification with each class's share kept.
        seed: fixes the sample.
        seen: what the regression sees, `32 × 32 pixels` for instance, where that is not all that the model sees.

    Returns:
        `majority_class` (predicts the classes' shares in training) and `logistic_regression`; or `mean` and
        `ridge_regression`. Each has the headline keys of `classification_metrics` or `regression_metrics`, and
        `train_examples`, the number it was fitted on; a `note` where something is to be said, and only that where it
        could not be fitted; the regression also `inputs`, which is `seen`, where it is given.

    Raises:
        UserError: no test examples, or a label without a class.
    """
    train_labels = np.asarray(train_labels)
    test_inputs, test_labels = np.asarray(test_inputs), np.asarray(test_labels)
    width = max(1, test_inputs.shape[1])
    limit = max(2, min(max_examples, _MAX_VALUES // width, _MAX_PRODUCTS // (width * max(1, len(class_names)))))
    sample = sampled_rows(train_labels, task == "classification", limit, seed)
    rows = train_inputs(sample) if callable(train_inputs) else np.asarray(train_inputs)[sample]
    inputs, labels = np.asarray(rows).astype(np.float32, copy=False), train_labels[sample]
    test_inputs = test_inputs.astype(np.float32, copy=False)
    said = {} if seen is None else {"inputs": seen}
    if task == "regression":
        return {
            "mean": _mean(train_labels, test_labels),
            "ridge_regression": _ridge_regression(inputs, labels, test_inputs, test_labels) | said,
        }
    return {
        "majority_class": majority_class(train_labels, test_labels, class_names),
        "logistic_regression": logistic_regression(inputs, labels, test_inputs, test_labels, class_names, seed) | said,
    }


def sampled_rows(labels: NDArray[Any], stratify: bool, limit: int, seed: int) -> NDArray[np.int64]:
    """The indices of at most `limit` rows, with each class's share kept where `stratify`."""
    from sklearn.utils import resample

    indices = np.arange(len(labels))
    if len(indices) <= limit:
        return indices
    return resample(indices, n_samples=limit, replace=False, random_state=seed, stratify=labels if stratify else None)


def majority_class(labels: NDArray[Any], test_labels: NDArray[Any], class_names: Sequence[str]) -> Metrics:
    """The metrics of predicting the classes' shares in `labels` for every one of `test_labels`."""
    shares = np.bincount(labels, minlength=len(class_names)) / len(labels)
    probabilities = np.tile(shares, (len(test_labels), 1))
    return _headline(test_labels, probabilities, class_names) | {"train_examples": len(labels)}


def logistic_regression(
    inputs: Any,
    labels: NDArray[Any],
    test_inputs: Any,
    test_labels: NDArray[Any],
    class_names: Sequence[str],
    seed: int,
    scaled: bool = True,
    strengths: Sequence[float] = _STRENGTHS,
) -> Metrics:
    """Fits a logistic regression and measures it.

    Args:
        inputs: float32, `(num_train, num_inputs)`, an array or a sparse matrix.
        labels: class indices, `(num_train,)`.
        test_inputs: `(num_test, num_inputs)`.
        test_labels: `(num_test,)`.
        class_names: the classes' names.
        seed: fixes the part of the training examples that is held out to choose the regularisation on.
        scaled: bring each column to mean 0 and standard deviation 1 first.
        strengths: inverse regularisation strengths to choose from; the first one where there is too little to choose
            on.

    Returns:
        The headline metrics with `train_examples` and perhaps a `note`; a `note` only where it could not be fitted.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        return {"note": "not fitted: the training examples are all of one class"}
    scaling = [StandardScaler()] if scaled else []
    model = make_pipeline(*scaling, LogisticRegression(max_iter=_ITERATIONS))
    with warnings.catch_warnings():
        # That it did not converge is said in the note; many classes in a small sample are what it was asked for.
        warnings.simplefilter("ignore", UserWarning)
        model[-1].C = _strength(model, strengths, inputs, labels, seed)
        model.fit(inputs, labels)
    # A class that no training example shows has no column of its own: its probability is 0.
    probabilities = np.zeros((len(test_labels), len(class_names)))
    probabilities[:, model.classes_] = model.predict_proba(test_inputs)
    result = _headline(test_labels, probabilities, class_names) | {"train_examples": len(labels)}
    if max(model[-1].n_iter_) >= _ITERATIONS:
        result["note"] = f"stopped after {_ITERATIONS} iterations, not fully converged"
    return result


def _strength(model: Any, strengths: Sequence[float], inputs: Any, labels: NDArray[Any], seed: int) -> float:
    """The regularisation that does best on a fifth of the sample that is held out; a fixed one is no fair rival."""
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

    # Where a class has so few examples, the part held out may lack it, and says little in any case.
    counts = np.bincount(labels)
    if counts[counts > 0].min() < 10:
        return strengths[0]
    search = GridSearchCV(
        clone(model),
        {"logisticregression__C": list(strengths)},
        scoring="neg_log_loss",
        cv=StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=seed),
        refit=False,
    )
    search.fit(inputs, labels)
    return float(search.best_params_["logisticregression__C"])


def _mean(targets: NDArray[Any], test_targets: NDArray[Any]) -> Metrics:
    mean = float(np.mean(targets, dtype=np.float64))
    return regression_metrics(test_targets, np.full(len(test_targets), mean)) | {"train_examples": len(targets)}


def _ridge_regression(
    inputs: NDArray[np.float32], targets: NDArray[Any], test_inputs: NDArray[np.float32], test_targets: NDArray[Any]
) -> Metrics:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge(alpha=1.0))
    model.fit(inputs, targets.astype(np.float64))
    return regression_metrics(test_targets, model.predict(test_inputs)) | {"train_examples": len(targets)}


def _headline(labels: NDArray[Any], probabilities: NDArray[Any], class_names: Sequence[str]) -> Metrics:
    metrics = classification_metrics(labels, probabilities, class_names)
    return {key: value for key, value in metrics.items() if key not in _NESTED}
