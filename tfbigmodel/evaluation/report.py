"""The evaluation report: plain text for the terminal, one HTML file for everybody else.

Both take `results`, a dict with `metrics` (from `classification_metrics` or `regression_metrics`, further numbers such
as `loss` welcome) and, where wanted, `baselines` (from `baselines`) and `worst_errors` (from `worst_errors`).
"""

import base64
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pipelines.files import write_text
from tfbigmodel.evaluation.tables import (
    Table,
    class_table,
    confusion_table,
    errors_table,
    headline_table,
    sentence,
)
from tfbigmodel.evaluation.text import cell_width, fit, printable

_TERMINAL_CLASSES = 50
_TERMINAL_CONFUSED = 12
_HTML_CONFUSED = 40
_TEXT_WIDTH = 24

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.sentence { font-size: 1.2rem; padding: .8rem 1rem; background: #eef4fb; border-left: 4px solid #2f6fb3; }
.note { color: #57606a; margin: .3rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d0d7de; text-align: right; }
th { font-weight: 600; } th.text, td.text { text-align: left; overflow-wrap: anywhere; }
tbody tr:hover { background: #f6f8fa; }
img { display: block; width: 6rem; image-rendering: pixelated; }
"""
_WORDS = {
    "accuracy": "the share of examples that are classified right.",
    "precision": "of the examples that the model puts into a class, the share that belong there.",
    "recall": "of the examples that belong to a class, the share that the model finds.",
    "F1": "one number for both: the harmonic mean of precision and recall.",
    "ROC-AUC": "how well the model ranks a class's examples above the others; 0.5 is guessing, 1 is perfect.",
    "ece": "how far the model's confidence is from its accuracy; 0 is best.",
    "macro, weighted": "the mean over classes, each counted once or by its number of examples.",
}
_REGRESSION_WORDS = {
    "rmse": "root of the mean squared error, in the target's own units; large errors weigh more.",
    "mae": "mean absolute error, in the target's own units.",
    "r2": "the share of the target's variation that is explained; 0 is guessing the mean, 1 is perfect.",
}


def format_report(results: Mapping[str, Any], title: str = "Evaluation", width: int = 100) -> str:
    """The report as plain text, without colours, its columns aligned in a terminal, Chinese names included.

    Args:
        results: see above.
        title: the first line.
        width: terminal columns to keep within, as long as there are at most ten classes.

    Returns:
        Lines of text, the last one ended with a newline.

    Example:
        >>> print(format_report({"metrics": regression_metrics([1.0, 2.0], [1.5, 2.0])}))
    """
    metrics = results["metrics"]
    tables = [headline_table(results)]
    if "per_class" in metrics:
        confusion = confusion_table(metrics, _TERMINAL_CONFUSED)
        if sum(_column_widths(confusion)) + 2 * (len(confusion.columns) - 1) > width:
            confusion = confusion_table(metrics, _TERMINAL_CONFUSED, numbered=True)
        tables += [class_table(metrics, _TERMINAL_CLASSES), confusion]
    if results.get("worst_errors"):
        tables.append(errors_table(results["worst_errors"]))
    blocks = [f"{printable(title)}\n{textwrap.fill(sentence(results), width)}"]
    blocks += [_format_table(table, width) for table in tables]
    return "\n\n".join(blocks) + "\n"


def write_html_report(
    path: Path | str,
    results: Mapping[str, Any],
    title: str = "Evaluation",
    thumbnails: Sequence[NDArray[np.uint8]] = (),
) -> None:
    """Writes the report as one HTML file that needs neither network nor scripts.

    Args:
        path: the file; an earlier one is replaced in one step.
        results: see above.
        title: the heading.
        thumbnails: for errors of images, a small picture of each, uint8 `(height, width, channels)`; they are inside
            the file, too.

    Raises:
        UserError: there is no permission to write, or the disk is full.
    """
    # Built as a tree and not of strings: whatever a class is named, it comes out as text, never as markup.
    metrics = results["metrics"]
    body = _element("body", _element("h1", printable(title)), _element("p", sentence(results), class_="sentence"))
    body.extend(_html_table(headline_table(results)))
    words = _WORDS if "per_class" in metrics else _REGRESSION_WORDS
    for word, meaning in words.items():
        body.append(_element("p", _element("b", word), f": {meaning}", class_="note"))
    if "per_class" in metrics:
        body.extend(_html_table(class_table(metrics)))
        body.extend(_html_table(confusion_table(metrics, _HTML_CONFUSED)))
    if results.get("worst_errors"):
        body.extend(_html_table(errors_table(results["worst_errors"]), [_picture(image) for image in thumbnails]))
    head = _element(
        "head",
        _element("meta", charset="utf-8"),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("title", printable(title)),
        _element("style", _STYLE),
    )
    page = ElementTree.tostring(_element("html", head, body, lang="en"), encoding="unicode", method="html")
    write_text(path, f"<!doctype html>\n{page}\n")


def _format_table(table: Table, width: int) -> str:
    widths = _column_widths(table)
    lines = [
        _format_row(table.columns, widths, table),
        _format_row(["-" * cells for cells in widths], widths, table),
        *(_format_row(row, widths, table) for row in table.rows),
        *(textwrap.fill(note, width, initial_indent="* ", subsequent_indent="  ") for note in table.notes),
    ]
    return "\n".join([table.title, *lines])


def _column_widths(table: Table) -> list[int]:
    cells = zip(table.columns, *table.rows, strict=True)
    widths = [max(map(cell_width, column)) for column in cells]
    cut = table.texts - table.whole
    return [min(width, _TEXT_WIDTH) if index in cut else width for index, width in enumerate(widths)]


def _format_row(cells: Sequence[str], widths: Sequence[int], table: Table) -> str:
    fitted = (
        fit(cell, width, right=index not in table.texts)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(fitted).rstrip()


def _html_table(table: Table, pictures: Sequence[ElementTree.Element] = ()) -> list[ElementTree.Element]:
    head = _element("tr", *(_html_cell("th", cell, table, column) for column, cell in enumerate(table.columns)))
    body = _element("tbody")
    for row, cells in enumerate(table.rows):
        line = _element("tr", *(_html_cell("td", cell, table, column) for column, cell in enumerate(cells)))
        if table.shares is not None:
            for column, share in enumerate(table.shares[row]):
                # Right is green, wrong is red; a confusion of a few percent has to be seen, so the root of its share.
                colour = "46, 160, 67" if row == column else "218, 54, 51"
                line[column + 1].set("style", f"background: rgba({colour}, {0.7 * share**0.5:.3f})")
        body.append(line)
    if pictures:
        head.insert(0, _element("th", "image", class_="text"))
        for line, picture in zip(body, pictures, strict=True):
            line.insert(0, _element("td", picture))
    return [
        _element("h2", table.title),
        _element("div", _element("table", _element("thead", head), body), class_="wide"),
        *(_element("p", note, class_="note") for note in table.notes),
    ]


def _picture(image: NDArray[np.uint8]) -> ElementTree.Element:
    from tfbigmodel.evaluation.figures import png

    return _element("img", src=f"data:image/png;base64,{base64.b64encode(png(image)).decode('ascii')}", alt="")


def _html_cell(tag: str, text: str, table: Table, column: int) -> ElementTree.Element:
    return _element(tag, text, class_="text") if column in table.texts else _element(tag, text)


def _element(tag: str, *children: "str | ElementTree.Element", **attributes: str) -> ElementTree.Element:
    element = ElementTree.Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for child in children:
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element
