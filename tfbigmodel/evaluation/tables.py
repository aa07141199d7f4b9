"""What an evaluation report says: its sentence and its tables, for the terminal and for HTML alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbigmodel.evaluation.text import printable, shortened

# The headline in the order of interest; other numbers follow as they come.
_HEADLINE = (
    *("loss", "log_loss", "accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc"),
    *("precision_macro", "recall_macro", "f1_macro", "precision_weighted", "recall_weighted", "f1_weighted", "ece"),
    *("rmse", "mae", "median_ae", "r2", "mse", "max_error"),
)
_NOT_HEADLINE = ("count", "threshold", "train_examples")
_COMMONEST = "always guessing the commonest class"
_BASELINE_SENTENCES = {
    "majority_class": _COMMONEST,
    "tfidf_logistic_regression": "TF-IDF and a logistic regression",
    "logistic_regression": "a logistic regression",
    "mean": "always guessing the mean",
    "ridge_regression": "a ridge regression",
}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        columns: the headings.
        rows: the cells, one for each column.
        texts: the columns that hold text (to the left, cut where too wide); the others hold numbers (to the right).
        notes: lines to stand below it.
        whole: those columns of text that are not cut, such as paths, which are of no use without their ends.
        shares: for a confusion matrix, each row's counts as shares of the row, which HTML shows as colours.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    texts: frozenset[int] = frozenset({0})
    whole: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    shares: list[list[float]] | None = None


def sentence(results: Mapping[str, Any]) -> str:
    """The result in one plain sentence, the baselines beside it."""
    metrics = results["metrics"]
    examples = "1 example" if metrics["count"] == 1 else f"{metrics['count']:,} examples"
    if "perplexity" in metrics:
        key = "character_perplexity" if "character_perplexity" in metrics else "perplexity"
        show = _number
        start = f"A {_spaced(key)} of {_number(metrics[key])} over {examples}"
    elif "accuracy" in metrics:
        start, key, show = f"Right for {_percent(metrics['accuracy'])} of {examples}", "accuracy", _percent
    else:
        start, key, show = f"Off by {_number(metrics['mae'])} on average over {examples}", "mae", _number
    others = [
        f"{_BASELINE_SENTENCES.get(name, _spaced(name))}{_seen(baseline)}: {show(baseline[key])}"
        for name, baseline in results.get("baselines", {}).items()
        if key in baseline
    ]
    return "; ".join([start, *others]) + "."


def headline_table(results: Mapping[str, Any]) -> Table:
    """The headline metrics of the model beside those of the baselines."""
    metrics, baselines = results["metrics"], results.get("baselines", {})
    numbers = [
        key
        for key, value in metrics.items()
        if key not in _NOT_HEADLINE and (value is None or (isinstance(value, int | float)))
    ]
    keys = [key for key in _HEADLINE if key in numbers] + [key for key in numbers if key not in _HEADLINE]
    columns = [metrics, *baselines.values()]
    rows = [[key, *(_number(column.get(key)) for column in columns)] for key in keys]
    notes = []
    if "positive_class" in metrics:
        threshold = metrics.get("threshold")
        rule = "where it is the more probable class" if threshold is None else f"from a probability of {threshold:.4g}"
        positive = shortened(printable(metrics["positive_class"]), 24)
        notes.append(f'precision, recall, f1, pr_auc: of the class "{positive}", predicted {rule}')
    for name, baseline in baselines.items():
        said = [f"fitted on {baseline['train_examples']:,} training examples"] if "train_examples" in baseline else []
        said += [baseline["note"]] if "note" in baseline else []
        if said:
            notes.append(f"{_spaced(name)}{_seen(baseline)}: {'; '.join(said)}")
    return Table("Metrics", ["", "model", *map(_spaced, baselines)], rows, notes=tuple(notes))


def class_table(metrics: Mapping[str, Any], limit: int | None = None) -> Table:
    """Precision, recall, F1, support and ROC-AUC of each class; with a `limit`, of those with the lowest F1."""
    items = list(metrics["per_class"].items())
    notes: tuple[str, ...] = ()
    if limit is not None and len(items) > limit:
        notes = (f"the {limit} of {len(items)} classes with the lowest F1",)
        items = sorted(items, key=lambda item: (item[1]["support"] == 0, item[1]["f1"]))[:limit]
    rows = [
        [
            printable(name),
            *(_number(scores[key]) for key in ("precision", "recall", "f1")),
            f"{scores['support']:,}",
            _number(scores["roc_auc"]),
        ]
        for name, scores in items
    ]
    return Table("Classes", ["class", "precision", "recall", "F1", "support", "ROC-AUC"], rows, notes=notes)


def confusion_table(metrics: Mapping[str, Any], limit: int, numbered: bool = False) -> Table:
    """The confusion matrix, cut to the `limit` classes that are in the most confusions.

    Args:
        metrics: what `classification_metrics` returned.
        limit: how many classes to show at most.
        numbered: head the columns with the classes' indices, and the rows with index and name, where names are long.
    """
    matrix = np.asarray(metrics["confusion_matrix"])
    names = [printable(name) for name in metrics["per_class"]]
    wrong = matrix - np.diag(np.diag(matrix))
    notes: tuple[str, ...] = ()
    shown = np.arange(len(names))
    if len(names) > limit:
        confusions = wrong.sum(axis=0) + wrong.sum(axis=1)
        shown = np.sort(np.argsort(-confusions, kind="stable")[:limit])
        covered = wrong[np.ix_(shown, shown)].sum()
        notes = (
            f"the {limit} of {len(names)} classes in the most confusions; "
            f"{covered:,} of {wrong.sum():,} confusions are between these",
        )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return Table(
        "Confusion matrix (rows: true class, columns: predicted class)",
        ["true \\ predicted", *((str(index) if numbered else names[index]) for index in shown)],
        [
            [f"{row} {names[row]}" if numbered else names[row], *(f"{count:,}" for count in matrix[row, shown])]
            for row in shown
        ],
        notes=notes,
        shares=shares[np.ix_(shown, shown)].tolist(),
    )


def errors_table(errors: Sequence[Mapping[str, Any]]) -> Table:
    """The worst errors, as `worst_errors` returned them."""
    origins = list(dict.fromkeys(error["origin"] for error in errors))
    title = f"Worst errors ({', '.join(map(printable, origins))})"
    if "target" in errors[0]:
        columns, texts = ["row", "target", "prediction", "error"], set()
        rows = [
            [str(error["row"]), *(_number(error[key]) for key in ("target", "prediction", "error"))] for error in errors
        ]
    else:
        columns = ["row", "true class", "probability", "predicted class", "probability", "loss"]
        texts = {1, 3}
        rows = [
            [
                str(error["row"]),
                printable(error["label"]),
                _number(error["probability_label"]),
                printable(error["predicted"]),
                _number(error["probability_predicted"]),
                _number(error["loss"]),
            ]
            for error in errors
        ]
    whole = set()
    for key in ("text", "file"):
        if key in errors[0]:
            texts.add(len(columns))
            whole |= {len(columns)} if key == "file" else set()
            columns.append(key)
            rows = [[*row, printable(error[key])] for row, error in zip(rows, errors, strict=True)]
    return Table(title, columns, rows, texts=frozenset(texts), whole=frozenset(whole))


def _seen(baseline: Mapping[str, Any]) -> str:
    """What a baseline sees, where that is not all that the model sees."""
    return f" on {baseline['inputs']}" if "inputs" in baseline else ""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    # Below 1e-12 stands what rounding left of a zero.
    if 1e-12 < abs(value) < 1e-4 or abs(value) >= 1e9:
        return f"{value:.3e}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _spaced(name: str) -> str:
    return name.replace("_", " ")
