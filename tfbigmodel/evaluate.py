"""The command `evaluate`: a trained run's metrics beside baselines, with its worst errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.errors import MissingFileError, UserError
from pipelines.remote import absolute, join
from tfbigmodel.command_line import callable_module, import_tensorflow, make_parser, run_command, say
from tfbigmodel.mirror import borrowed, readable
from tfbigmodel.workdir import Workdir

if TYPE_CHECKING:
    from pipelines.data import Data, Examples, Split
    from tfbigmodel.config import RunConfig
    from tfbigmodel.inference import InferenceModule

_EPILOG = """examples:
  python -m tfbigmodel.evaluate --workdir runs/dense
  python -m tfbigmodel.evaluate --workdir runs/table --input new_customers.csv --threshold 0.3
"""


def evaluate(
    workdir: Path | str,
    split: Split = "test",
    input_file: Path | str | None = None,
    threshold: float | Literal["auto"] | None = None,
    data_dir: Path | str | None = None,
    limit: Callable[[Data], Data] | None = None,
) -> dict[str, Any]:
    """Measures a trained run, and writes what it found to the workdir.

    Args:
        workdir: a trained run.
        split: the run's own split to measure on.
        input_file: a labelled file to measure on in its place: a table with the run's columns.
        threshold: the decision threshold for two classes; `auto` is the one with the best F1 on the validation split;
            the configuration's where None.
        data_dir: where the run's data is now, if it has moved.
        limit: what the run was trained with (see `tfbigmodel.train`).

    Returns:
        `{"name": …, "metrics": {…}, "baselines": {…}, "worst_errors": […]}`. The metrics are also in metrics.json,
        under the split's name, or under `evaluations` for files and for other thresholds than the run's own; the whole
        report is in `evaluation/<name>.html`.

    Raises:
        UserError: the run is not trained, or the file or the data does not fit it.

    Example:
        >>> evaluate("runs/dense")["metrics"]["accuracy"]
        0.9777
    """
    with borrowed(workdir) as path:
        return _evaluated(Workdir(path, str(workdir)), split, input_file, threshold, data_dir, limit)


def _evaluated(
    run: Workdir,
    split: Split,
    input_file: Path | str | None,
    threshold: float | Literal["auto"] | None,
    data_dir: Path | str | None,
    limit: Callable[[Data], Data] | None,
) -> dict[str, Any]:
    from pipelines.files import write_json
    from tfbigmodel.evaluation.report import write_html_report
    from tfbigmodel.measuring import LABELLED

    config, info = run.config(), run.info()
    try:
        data = _load_data(config, run, data_dir, limit)
    except MissingFileError:
        if input_file is None or threshold == "auto":
            raise
        data = None  # a labelled file can be measured on where the training data is not; only baselines need that
    pictures: list[Any] = []
    if info.task in LABELLED:
        results, pictures, threshold = _labelled_results(run, config, data, split, input_file, threshold)
    else:
        results, threshold = _language_results(run, config, data, split, input_file, threshold), None
    name = Path(input_file).name if input_file else split
    own_threshold = threshold == config.evaluation.threshold
    if not own_threshold:
        name += f"_threshold_{threshold:.4g}"
    saved = run.metrics()
    if input_file or not own_threshold:  # under a split's name stands what the run's own threshold gives
        saved.setdefault("evaluations", {})[name] = results["metrics"]
    else:
        saved[split] = results["metrics"]
    results["name"] = name
    saved.setdefault("baselines", {})[name] = results["baselines"]
    write_json(run.path / "evaluation" / f"{name}.json", results)
    write_html_report(run.path / "evaluation" / f"{name}.html", results, f"{config.model.chapter}: {name}", pictures)
    write_json(run.metrics_file, saved)
    return results


def _labelled_results(
    run: Workdir,
    config: RunConfig,
    data: Data | None,
    split: Split,
    input_file: Path | str | None,
    threshold: float | Literal["auto"] | None,
) -> tuple[dict[str, Any], list[Any], float | None]:
    """Metrics beside baselines and worst errors; thumbnails of these; and the threshold that all of it holds for."""
    from tfbigmodel.evaluation.errors import worst_errors
    from tfbigmodel.inference import load_inference
    from tfbigmodel.measuring import measure
    from tfbigmodel.model import make_task
    from tfbigmodel.pictures import image_paths, thumbnails, with_errors

    info = run.info()
    module, _ = load_inference(run, _threshold(threshold, run, data))
    examples = _examples(run, config, module, data, split, input_file)
    metrics, predictions = measure(module, examples, make_task(config, info), info, module.threshold)
    limit = config.evaluation.worst_errors
    errors = worst_errors(
        examples.labels, predictions, info.class_names, examples.origin, examples.rows, limit, module.threshold,
        image_paths(examples),
    )  # fmt: skip
    if info.text is not None:
        for error, text in zip(errors, with_errors(examples, errors).features["text"], strict=True):
            error["text"] = _decoded(text)
    baselines = _baselines(module, data, examples, config) if data else {}
    results = {"metrics": metrics, "baselines": baselines, "worst_errors": errors}
    return results, thumbnails(module.preprocess, examples, errors), module.threshold


def _language_results(
    run: Workdir,
    config: RunConfig,
    data: Data | None,
    split: Split,
    input_file: Path | str | None,
    threshold: float | Literal["auto"] | None,
) -> dict[str, Any]:
    """The metrics of a model of language, beside its chapter's baselines."""
    from tfbigmodel.chapters import hook
    from tfbigmodel.measuring import measure_batches
    from tfbigmodel.model import load_trained, make_task

    if input_file is not None or threshold is not None:
        raise UserError(
            f"--input and --threshold are for data with labels, and {run} is a {config.model.chapter} run; "
            "choose a --split"
        )
    assert data is not None, "without an input file the run's data is loaded, or its absence is told"
    _check_not_empty(run, data, split)
    model, _ = load_trained(run)
    limit = config.evaluation.train_examples if split == "train" else data.info.counts[split]
    metrics = measure_batches(model, data, split, make_task(config, data.info), limit)
    baselines = hook(config.model.chapter, "baselines")
    return {"metrics": metrics, "baselines": baselines(data, split, config.model) if baselines else {}}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m tfbigmodel.evaluate --help`."""
    parser = make_parser("tfbigmodel.evaluate", "Measure a trained run beside simple baselines.", _EPILOG)
    parser.add_argument("--workdir", required=True, help="a trained run")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: test")
    where.add_argument("--input", dest="input_file", help="a labelled file to measure on in place of a split")
    parser.add_argument(
        "--threshold", help="two classes: the second one's probability from which on it is predicted; auto: best F1"
    )
    parser.add_argument("--data_dir", help="where the run's data is now, if it has moved")
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> None:
    run = arguments.workdir
    Workdir(readable(run), run).config()  # a wrong path is told at once
    threshold = _parse_threshold(arguments.threshold)
    import_tensorflow()

    from tfbigmodel.evaluation.report import format_report

    results = evaluate(run, arguments.split, arguments.input_file, threshold, arguments.data_dir)
    say(format_report(results, f"{run}: {results['name']}"))
    say(f"written to {join(run, 'metrics.json')} and {join(run, 'evaluation')}/{results['name']}.html")


def _parse_threshold(text: str | None) -> float | Literal["auto"] | None:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise UserError(f"--threshold: expected a number between 0 and 1, or auto; received {text}")
    return value


def _load_data(
    config: RunConfig, run: Workdir, data_dir: Path | str | None, limit: Callable[[Data], Data] | None
) -> Data:
    from tfbigmodel.model import load_data
    from tfbigmodel.workdir import check_fingerprint, with_kept_vocabulary

    if data_dir is not None:
        moved = config.data.model_copy(update={"data_dir": absolute(data_dir)})
        config = config.model_copy(update={"data": moved})
    data = load_data(with_kept_vocabulary(config, run))
    data = data if limit is None else limit(data)
    check_fingerprint(run, data.info)
    return data


def _threshold(threshold: float | Literal["auto"] | None, run: Workdir, data: Data | None) -> float | None:
    from tfbigmodel.evaluation.metrics import best_threshold
    from tfbigmodel.inference import load_inference

    if threshold != "auto":
        return threshold
    assert data is not None, "without the run's data `auto` has been refused"
    if data.info.num_classes != 2:
        raise UserError(f"--threshold auto: a decision threshold is for two classes, not {data.info.num_classes}")
    if not data.info.counts["validation"]:
        raise UserError("--threshold auto: the run has no validation split to choose it on")
    examples = data.examples("validation")
    module, _ = load_inference(run)
    return best_threshold(examples.labels, module.predict(examples)["probabilities"])


def _examples(
    run: Workdir,
    config: RunConfig,
    module: InferenceModule,
    data: Data | None,
    split: Split,
    input_file: Path | str | None,
) -> Examples:
    if input_file is not None:
        import pipelines

        return pipelines.read_examples(input_file, config.data, module.preprocess, run.info(), labelled=True)
    assert data is not None, "a split is measured on with the run's own data"
    _check_not_empty(run, data, split)
    return data.examples(split)


def _check_not_empty(run: Workdir, data: Data, split: Split) -> None:
    if not data.info.counts[split]:
        raise UserError(f"{run} has no {split} examples; choose another --split, or --input with a labelled file")


def _baselines(module: InferenceModule, data: Data, examples: Examples, config: RunConfig) -> dict[str, dict[str, Any]]:
    from tfbigmodel.evaluation.baselines import baselines
    from tfbigmodel.measuring import evenly, model_inputs, shrunk_size, taken

    training = data.examples("train")
    if data.info.text is not None and data.info.task == "classification":
        from tfbigmodel.evaluation.text_baselines import text_baselines

        # The regression samples so many; of files larger than memory, not more than ten times as many are read for it.
        training = evenly(training, 10 * config.evaluation.baseline_examples)
        return text_baselines(
            [_decoded(text) for text in training.features["text"]],
            training.labels,
            [_decoded(text) for text in examples.features["text"]],
            examples.labels,
            data.info.class_names,
            config.evaluation.baseline_examples,
        )
    size = shrunk_size(module.preprocess)
    return baselines(
        "regression" if data.info.task == "regression" else "classification",
        lambda rows: model_inputs(module, taken(training, rows)),
        training.labels,
        model_inputs(module, examples),
        examples.labels,
        data.info.class_names,
        config.evaluation.baseline_examples,
        seen=f"{size[0]} × {size[1]} pixels" if size else None,
    )


def _decoded(text: bytes | str) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


callable_module(__name__, evaluate)

if __name__ == "__main__":
    sys.exit(main())
