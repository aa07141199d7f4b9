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
from typing import TYPE_CHECKING, Any, NoReturn

from serving.client.base import DEFAULT_TIMEOUT_SECONDS
from serving.client.info import ClientError, signature_info
from serving.client.sync_client import Client
from serving.errors import Code, UsageError

if TYPE_CHECKING:
    import numpy as np

    from serving.client.input import Example

_EXAMPLES_PER_REQUEST = 64
# Photos are megabytes each, and take a server much more than a table's rows.
_IMAGES_PER_REQUEST = 8


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors as ours: one line."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see --help)")


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
    with Client(options.target) as client:
        if options.status:
            for status in client.status(options.model, options.version, options.timeout):
                yield dataclasses.asdict(status)
            return
        metadata = client.metadata(options.model, options.version, options.timeout)
        if options.metadata:
            yield dataclasses.asdict(metadata)
            return
        from serving.client.input import to_arrays

        info = signature_info(metadata, options.signature)
        examples = _examples(options)
        size = _IMAGES_PER_REQUEST if options.image else _EXAMPLES_PER_REQUEST
        # Everything is converted before anything is sent: a bad row at the end leaves no half of the answers.
        parts = [examples[start : start + size] for start in range(0, len(examples), size)]
        batches = [to_arrays(part, info) for part in parts]

        def ask(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            # The version that the metadata came from, so that a swap between two batches does not mix answers.
            return client.predict(options.model, batch, options.signature, metadata.version, options.timeout)

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


def _examples(options: argparse.Namespace) -> list[Example]:
    from serving.client.input import Example, read_file, read_images, read_json_arguments

    if options.image:
        return read_images(options.image)
    if options.input:
        return read_json_arguments(options.input)
    if options.input_file:
        return read_file(options.input_file)
    return [Example(f"--text {number}", {"text": text}) for number, text in enumerate(options.text, 1)]


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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, but {text!r} was given")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m serving.client",
        description="Asks a model on a TensorFlow Serving compatible server; prints one JSON line for each example.",
        allow_abbrev=False,
    )
    parser.add_argument("--target", default="127.0.0.1:8500", help="server, host:port or unix:/path (%(default)s)")
    parser.add_argument("--model", required=True, help="name of the model on the server")
    parser.add_argument("--signature", help="signature to call (serving_default)")
    parser.add_argument("--version", type=int, help="version of the model (the highest available)")
    parser.add_argument(
        "--timeout", type=_seconds, default=DEFAULT_TIMEOUT_SECONDS, help="seconds to wait for an answer (%(default)g)"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    parser.add_argument(
        "--all_outputs", action="store_true", help="for --image: print every output of a classifier as it is"
    )
    what.add_argument("--image", nargs="+", metavar="FILE", help="image files, sent as they are to the input 'image'")
    what.add_argument("--text", nargs="+", help="texts, sent to the input 'text'")
    what.add_argument(
        "--input", nargs="+", metavar="JSON", help='one example each, e.g. \'{"age": 31, "city": "Paris"}\''
    )
    what.add_argument("--input_file", metavar="FILE", help="rows.csv with input names as header, or rows.jsonl")
    what.add_argument("--status", action="store_true", help="print the state of every version")
    what.add_argument("--metadata", action="store_true", help="print the model's signatures")
    return parser
