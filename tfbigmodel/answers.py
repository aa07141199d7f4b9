"""A model's answers as the columns of a table, and the table as CSV, JSON Lines or lines for a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from pipelines.data import DatasetInfo


def answer_columns(outputs: dict[str, np.ndarray], info: DatasetInfo, all_probabilities: bool) -> dict[str, Any]:
    """A model's outputs as columns of a table.

    Args:
        outputs: what `InferenceModule.predict` returned.
        info: the data's classes.
        all_probabilities: a column for each class.

    Returns:
        Column name → `(num_examples,)`.
    """
    if info.task == "regression":
        return {"prediction": outputs["prediction"]}
    if info.task != "classification":  # a model of language answers with a text
        if all_probabilities:
            raise UserError("--all_probabilities: a model of language answers with a text, which has no classes")
        return {"prediction": [text.decode() for text in outputs["text"]]}
    labels = [label.decode() for label in outputs["label"]]
    index = {name: position for position, name in enumerate(info.class_names)}
    probabilities = outputs["probabilities"]
    columns: dict[str, Any] = {
        "prediction": labels,
        "probability": probabilities[range(len(labels)), [index[label] for label in labels]],
    }
    if "top_labels" in outputs:
        columns["top"] = [
            {name.decode(): probability for name, probability in zip(*row, strict=True)}
            for row in zip(outputs["top_labels"], outputs["top_probabilities"], strict=True)
        ]
    if all_probabilities:
        columns |= {f"probability_{name}": probabilities[:, i] for i, name in enumerate(info.class_names)}
    return columns


def text_lines(frame: pd.DataFrame) -> Iterator[str]:
    """One line for each text: label, probability, text, or what was written and the prompt; with tabs between them."""
    from tfbigmodel.evaluation.text import printable

    columns = [name for name in frame.columns if name != "text"]
    for row in frame.to_dict("records"):
        cells = [_text_cell(row[name]) for name in columns]
        yield "\t".join(printable(cell) for cell in [*cells, row["text"]]) + "\n"


def csv_text(frame: pd.DataFrame) -> str:
    """Answers as a CSV file for spreadsheets; `top` as `cat 0.7100; dog 0.2000`.

    Args:
        frame: what `predict` returned.
    """
    stream = io.StringIO()
    # Excel takes a CSV file for UTF-8 only by its byte-order mark; our own reader accepts it.
    stream.write("\ufeff")
    if "top" in frame.columns:  # the input's own, or the answer's
        frame = frame.assign(top=[_top_text(value) if isinstance(value, dict) else value for value in frame["top"]])
    frame.to_csv(stream, index=False, lineterminator="\n")
    return stream.getvalue()


def json_lines(
    frame: pd.DataFrame, input_file: str | None = None, encoding: str = "utf-8", ascii_only: bool = False
) -> Iterator[str]:
    """Answers as JSON Lines; `top` as an object, the likeliest class first.

    Args:
        frame: what `predict` returned.
        input_file: what it was asked about; the values of JSON Lines keep the types that they have there.
        encoding: of that file.
        ascii_only: write other characters as JSON's escapes.
    """
    # Where the output cannot hold every character, JSON's escapes can, and lose nothing.
    path = Path(input_file or "")
    originals = _original_objects(path, encoding) if path.suffix.lower() in (".jsonl", ".ndjson") else None
    columns = {name: [_json_value(value) for value in frame[name].to_numpy()] for name in frame.columns}
    for row in zip(*columns.values(), strict=True):
        values = dict(zip(columns, row, strict=True))
        if originals is not None:
            values |= next(originals)  # with the types that the input had
        yield json.dumps(values, ensure_ascii=ascii_only) + "\n"


def _original_objects(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    from pipelines.tables.encoding import open_text

    # By lines as a file has them: `splitlines` would also split at separators inside of texts, such as U+2028.
    with open_text(path, encoding) as file:
        yield from (json.loads(line) for line in file if line.strip())


def _text_cell(value: Any) -> str:
    if isinstance(value, dict):
        return _top_text(value)
    return value if isinstance(value, str) else f"{value:.4f}"


def _top_text(top: Mapping[str, Any]) -> str:
    """The likeliest classes for a cell that people read: `cat 0.7100; dog 0.2000`."""
    return "; ".join(f"{name} {probability:.4f}" for name, probability in top.items())


def _json_value(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    if value != value:  # pandas' sign for a cell that is not there
        return None
    # The shortest digits that give this float32 again, in place of the 17 of its double.
    return float(str(value))
