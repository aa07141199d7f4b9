"""The command `shards.write`: from a table or a folder of images to files that `data.source: shards` reads."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.command_line import import_tensorflow, make_parser, run_command, say
from pipelines.errors import UserError
from pipelines.remote import exists, is_remote, local, upload

if TYPE_CHECKING:
    from pipelines.shards.records import Value
    from pipelines.shards.values import Kind
    from pipelines.tables.reading import Table

# All files of a split are open at the same time, and systems allow a process about a thousand.
_MOST_SHARDS = 500

FORMATS = ("tfrecord", "parquet", "arrayrecord")

_EPILOG = """examples:
  python -m pipelines.shards.write --input reviews.csv --output shards/reviews --shards 8
  python -m pipelines.shards.write --input photos --output shards/photos --format arrayrecord

A table's columns become whole numbers, numbers or texts, by what is in them. Of a folder of images, one sub-folder for
each class, come the columns image, label and name. Examples are shuffled once: neighbours have nothing in common.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m pipelines.shards.write --help`."""
    parser = make_parser("pipelines.shards.write", "Write a table or images as files for data.source: shards.", _EPILOG)
    parser.add_argument(
        "--input", required=True, help="a CSV, TSV, JSON Lines or Parquet file, or a folder of images; local or remote"
    )
    parser.add_argument("--output", required=True, help="the folder to make; both may be remote")
    parser.add_argument("--format", choices=FORMATS, default="tfrecord", help="default: tfrecord")
    parser.add_argument("--shards", type=int, default=8, help="files of each split; default: 8")
    parser.add_argument("--seed", type=int, default=42, help="of the order; default: 42")
    parser.add_argument(
        "--as_text", action="append", default=[], metavar="COLUMN",
        help="write a column of numbers as texts, such as postcodes; may be repeated",
    )  # fmt: skip
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.shards <= _MOST_SHARDS:
        raise UserError(f"--shards: expected 1 to {_MOST_SHARDS}, received {arguments.shards}")
    if arguments.seed < 0:
        raise UserError(f"--seed: expected a whole number of at least 0, received {arguments.seed}")
    output: str = arguments.output
    if exists(output):
        raise UserError(f"--output: {output} exists already and is not overwritten; choose another name")
    source = local(arguments.input)
    import_tensorflow()

    from pipelines.shards.records import write_shards

    sets: Mapping[str, Iterator[Mapping[str, Value]]]
    if source.is_dir():
        kinds, sets = _images(source, arguments.seed)
    else:
        kinds, sets = _table(source, arguments.as_text, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="tfbigmodel-") if is_remote(output) else nullcontext() as scratch:
        folder = Path(output) if scratch is None else Path(scratch, "shards")
        counts = write_shards(sets, kinds, folder, arguments.format, arguments.shards)
        if scratch is not None:
            upload(folder, output)
    written = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    say(f"{output}: {written}; columns: {', '.join(f'{name} ({kind})' for name, kind in kinds.items())}")


def _table(path: Path, as_text: Sequence[str], seed: int) -> tuple[dict[str, Kind], dict[str, Iterator[Any]]]:
    from pipelines.tables.columns import require_column
    from pipelines.tables.reading import read

    table = read(path, key="--input")
    for column in as_text:
        require_column(column, list(table.frame.columns), table.origin, "--as_text")
    columns = {name: _column(table, name, name in as_text) for name in table.frame.columns}
    kinds: dict[str, Kind] = {name: kind for name, (kind, _) in columns.items()}

    def examples() -> Iterator[Mapping[str, Value]]:
        for index in _order(len(table), seed):
            yield {name: values[index] for name, (_, values) in columns.items()}

    return kinds, {"examples": examples()}


def _column(table: Table, name: str, as_text: bool) -> tuple[Kind, list[Value]]:
    """What a column holds, and its values; None where a cell is empty."""
    import numpy as np

    from pipelines.tables.cells import MISSING_NUMBERS, parse_numbers

    cells = table.cells(name)
    texts = ["" if isinstance(cell, float) else cell for cell in cells]
    numbers, unreadable = parse_numbers(cells)
    # 007 is no number that anyone counts with.
    coded = any(len(text.strip()) > 1 and text.strip()[0] == "0" and text.strip().isdigit() for text in texts)
    if as_text or unreadable.any() or coded or np.isnan(numbers).all():
        return "bytes", [text or None for text in texts]
    missing = [text.strip().lower() in MISSING_NUMBERS for text in texts]
    whole = [absent or text.strip().lstrip("+-").isdigit() for text, absent in zip(texts, missing, strict=True)]
    if all(whole) and not (np.abs(numbers[~np.isnan(numbers)]) >= 2**63).any():
        return "int", [None if absent else int(text) for text, absent in zip(texts, missing, strict=True)]
    return "float", [None if np.isnan(number) else float(number) for number in numbers]


def _images(folder: Path, seed: int) -> tuple[dict[str, Kind], dict[str, Iterator[Any]]]:
    from pipelines.sources.image_folder import image_files

    kinds: dict[str, Kind] = {"image": "bytes", "label": "bytes", "name": "bytes"}

    def examples(files: Sequence[tuple[str, str]]) -> Iterator[Mapping[str, Value]]:
        for index in _order(len(files), seed):
            name, label = files[index]
            yield {"image": (folder / name).read_bytes(), "label": label, "name": name}

    return kinds, {split: examples(files) for split, files in image_files(folder).items()}


def _order(number: int, seed: int) -> list[int]:
    import numpy as np

    order: list[int] = np.argsort(np.random.Philox(seed).random_raw(number), kind="stable").tolist()
    return order


if __name__ == "__main__":
    sys.exit(main())
