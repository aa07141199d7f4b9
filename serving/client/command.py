"""`python -m serving.client`: ask a model from the command line, one JSON line for each example.

An image's line is short where the model is a classifier: its file, the label, that label's probability and the
likeliest classes; a thousand classes' probabilities are for `--all_outputs`.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from serving.client.arguments import (
    Parser,
    add_connection_options,
    add_example_options,
    connection_options,
    examples,
    seconds,
)
from serving.client.base import DEFAULT_RETRIES, DEFAULT_TIMEOUT_SECONDS
from serving.client.info import ClientError, signature_info
from serving.client.sync_client import Client
from serving.errors import Code, UsageError

if TYPE_CHECKING:
    import numpy as np

    from serving.client.input import Example

_EXAMPLES_PER_REQUEST = 64
# Photos are megabytes each, and take a server much more than a table's rows.
_IMAGES_PER_REQUEST = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command line; None = the process's own.

    Returns:
        The exit code: 0, or 2 with one line on standard error.
    """
    # Where the output cannot hold every character, JSON's escapes can, and lose nothing.
    ascii_only = not (sys.stdout.encoding or "").lower().replace("-", "").startswith(("utf", "gb18030"))
    try:
        for line in run(_parser().parse_args(arguments)):
            sys.stdout.write(json.dumps(line, ensure_ascii=ascii_only) + "\n")
        sys.stdout.flush()
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the command prints, one dictionary for each line.

    Raises:
        UsageError: Bad input, or the server did not answer.
    """
    with Client(options.target, retries=options.retries, **connection_options(options)) as client:
        common = {"timeout": options.timeout, "request_id": options.request_id}
        if options.status:
            for status in client.status(options.model, options.version, **common):
                yield dataclasses.asdict(status)
            return
        metadata = client.metadata(options.model, options.version, label=options.label, **common)
        if options.metadata:
            yield dataclasses.asdict(metadata)
            return
        from serving.client.input import to_arrays

        info = signature_info(metadata, options.signature)
        given = examples(options)
        size = _IMAGES_PER_REQUEST if options.image else _EXAMPLES_PER_REQUEST
        # Everything is converted before anything is sent: a bad row at the end leaves no half of the answers.
        parts = [given[start : start + size] for start in range(0, len(given), size)]
        batches = [to_arrays(part, info) for part in parts]

        def ask(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            # The version that the metadata came from, so that a swap between two batches does not mix answers.
            return client.predict(options.model, batch, options.signature, metadata.version, **common)

        for part, batch in zip(parts, batches, strict=True):
            try:
                outputs = ask(batch)
            except ClientError as error:
                if options.image and error.code is Code.INVALID_ARGUMENT:
                    _name_the_image(part, batch, ask)
                raise
            rows = _rows(outputs, len(part))
            if options.image and not options.all_outputs:
                rows = (_summary(example.where, row) for example, row in zip(part, rows, strict=True))
            yield from rows


def _rows(outputs: dict[str, np.ndarray], count: int) -> Iterator[dict[str, Any]]:
    """The outputs example by example; outputs without a batch dimension are repeated for each."""
    for index in range(count):
        yield {
            name: plain(array[index] if array.ndim and len(array) == count else array)
            for name, array in sorted(outputs.items())
        }


def _summary(file: str, row: dict[str, Any]) -> dict[str, Any]:
    """What people want to know of an image's answer; the whole answer where it is not a classifier's."""
    if not isinstance(row.get("label"), str) or not isinstance(row.get("probabilities"), list):
        return row
    summary = {"image": file, "label": row["label"]}
    labels, probabilities = row.get("top_labels", []), row.get("top_probabilities", [])
    top = {name: share for name, share in zip(labels, probabilities, strict=False) if isinstance(name, str)}
    if row["label"] in top:
        summary["probability"] = top[row["label"]]
    elif len(row["probabilities"]) > 2:
        summary["probability"] = max(row["probabilities"])
    else:  # of two classes a model with a threshold may answer the less likely one
        summary["probabilities"] = row["probabilities"]
    return {**summary, "top": top} if top else summary


def _name_the_image(
    examples: Sequence[Example],
    batch: dict[str, np.ndarray],
    ask: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> None:
    """Raises the complaint about the first image that is refused alone, too; decoders do not say which one it is."""
    for index, example in enumerate(examples):
        try:
            ask({name: array[index : index + 1] for name, array in batch.items()})
        except ClientError as error:
            raise ClientError(f"{example.where}: {error}", error.code) from None


def plain(value: Any) -> Any:
    """Arrays and numpy scalars as what `json.dumps` takes; bytes as text, or as `{"b64": …}` if they are none."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return [plain(item) for item in value] if value.ndim else plain(value[()])
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.floating):
        return float(str(value))  # the shortest digits of its own precision: 0.1, not 0.10000000149011612
    return value.item() if isinstance(value, np.generic) and value.dtype.kind in "iub" else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m serving.client",
        description="Asks a model on a TensorFlow Serving compatible server; prints one JSON line for each example.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="name of the model on the server")
    parser.add_argument("--signature", help="signature to call (serving_default)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="version of the model (the highest available)")
    which.add_argument("--label", help="the version under this label, e.g. canary")
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT_SECONDS, help="seconds to wait for an answer (%(default)g)"
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=DEFAULT_RETRIES,
        help="how often to ask again if unavailable (%(default)s)",
    )
    parser.add_argument("--request_id", help="an id to find the requests by in the server's access log")
    what = parser.add_mutually_exclusive_group(required=True)
    parser.add_argument(
        "--all_outputs", action="store_true", help="for --image: print every output of a classifier as it is"
    )
    add_example_options(what)
    what.add_argument("--status", action="store_true", help="print the state of every version")
    what.add_argument("--metadata", action="store_true", help="print the model's signatures")
    add_connection_options(parser)
    return parser
