"""The command `prepare`: from raw text files and tables of any size to clean, divided, shuffled shards."""

from __future__ import annotations

import argparse
import glob
import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.command_line import make_parser, run_command, say
from pipelines.errors import MissingFileError, UserError
from pipelines.files import TEMPORARY_MARK, atomic_folder, read_json

if TYPE_CHECKING:
    from pipelines.prepare.beam import Settings

_EPILOG = """examples:
  python -m pipelines.prepare --input 'raw/*.txt' --documents blank_line --format parquet --output corpus
  python -m pipelines.prepare --input reviews.csv --text text --label label --html --output reviews --shards 8
  python -m pipelines.prepare --input 'gs://b/raw/*.jsonl' --text text --output gs://b/clean --runner DataflowRunner \\
      -- --project p --region europe-west1 --temp_location gs://b/tmp --sdk_container_image p/tfbigmodel

What stands after -- goes to Apache Beam as it is. The same input and settings give the same files, byte for byte, on
whatever runner, with whatever number of workers. Read them with data.source: shards (--format tfrecord or parquet), or
data.source: corpus (parquet).
"""
_PACKED = (".zst", ".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz")
_USER_ERROR = re.compile(r"UserError: (.*?)(?: \[while running|\n|$)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m pipelines.prepare --help`."""
    given = list(sys.argv[1:] if argv is None else argv)
    at = given.index("--") if "--" in given else len(given)
    ours, beams = given[:at], given[at + 1 :]
    parser = make_parser("pipelines.prepare", "Prepare large corpora and tables on Apache Beam.", _EPILOG)
    add = parser.add_argument
    add("--input", required=True, nargs="+", help="files or patterns: text, .csv, .tsv, .jsonl, .parquet; also .gz")
    add("--output", required=True, help="the folder to make; report.json, which is written last, completes it")
    add("--format", choices=("tfrecord", "parquet"), default="tfrecord", help="default: tfrecord")
    add("--text", help="a table's column of texts: cleaned, and what makes two rows the same")
    add("--label", help="a table's column to predict: rows without it are left out, its classes counted")
    add("--documents", choices=("line", "blank_line", "file"), default="line", help="what ends a text file's documents")
    add("--encoding", choices=("utf-8", "gb18030"), default="utf-8", help="default: utf-8")
    add("--shards", type=int, default=16, help="files of each split, of which one must fit into memory; default: 16")
    add("--validation", type=float, default=0.05, help="share of the contents; default: 0.05")
    add("--test", type=float, default=0.05, help="share of the contents; default: 0.05")
    add("--seed", type=int, default=42, help="of the splits and the order; default: 42")
    add("--html", action="store_true", help="remove tags, write entities as their characters")
    add("--urls", action="store_true", help="remove web addresses")
    add("--full_width", action="store_true", help="write full-width letters and digits as ordinary ones")
    add("--runner", default="DirectRunner", help="where Beam runs: DirectRunner (here), DataflowRunner, FlinkRunner, …")
    add("--quiet", action="store_true", help="print errors only")
    return run_command(parser, lambda arguments: _act(arguments, beams), ours)


def _act(arguments: argparse.Namespace, beams: Sequence[str]) -> None:
    _check(arguments)
    for package in ("apache_beam", "google_crc32c"):
        if importlib.util.find_spec(package) is None:
            # Beam's protobuf is older than the lock's: installed beside TensorFlow, it would change what that runs on.
            raise UserError(
                f"pipelines.prepare needs the package {package}, which is not installed here: `make beam` makes "
                ".venv-beam, an environment of its own; then .venv-beam/bin/python -m pipelines.prepare …"
            )
    logging.getLogger().setLevel(logging.ERROR)  # Beam tells of each of its stages
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # what it tells, it raises too

    from apache_beam.io.filesystems import FileSystems

    from pipelines.prepare.beam import REPORT, Settings
    from pipelines.prepare.reading import TEXT_COLUMN, Form

    paths = _files(arguments.input)
    text = _text_column(arguments, paths, TEXT_COLUMN)
    form = Form(text, arguments.label, arguments.documents, arguments.encoding)

    def settings(output: str) -> Settings:
        return Settings(
            form, output, arguments.format, arguments.shards, arguments.validation, arguments.test, arguments.seed,
            arguments.html, arguments.urls, arguments.full_width,
        )  # fmt: skip

    if "://" in arguments.output:
        # Also what a run that was ended left behind: files of another division would be read with the new ones.
        if _matched(FileSystems.join(arguments.output, "*"), "--output"):
            raise UserError(f"--output: {arguments.output} has files already; remove them or choose another name")
        _run(arguments.runner, beams, paths, settings(arguments.output))
        say("" if arguments.quiet else f"wrote {arguments.output}; see {REPORT} there")
        return
    _tell_of_remains(Path(arguments.output))
    with atomic_folder(arguments.output) as folder:
        _run(arguments.runner, beams, paths, settings(str(folder.absolute())))
        report = read_json(folder / REPORT)
    if not arguments.quiet:
        _tell(report, arguments.output)


def _run(runner: str, beams: Sequence[str], paths: list[str], settings: Settings) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.prepare.beam import build

    options = PipelineOptions(["--runner", runner, *beams])
    try:
        made = beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:  # no such runner, or one that lacks an option or a package
        raise UserError(f"--runner {runner}: {error}") from error
    try:
        with made as pipeline:
            build(pipeline, paths, settings)
    except Exception as error:
        # The local runner raises the worker's own error; others raise theirs, which hold it as text.
        found = _USER_ERROR.search(f"UserError: {error}" if isinstance(error, UserError) else str(error))
        if found:
            raise UserError(found[1]) from error
        raise


def _check(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.shards <= 99_999:
        raise UserError(f"--shards: expected 1 to 99999, received {arguments.shards}")
    if not (arguments.validation >= 0 <= arguments.test and arguments.validation + arguments.test < 1):
        raise UserError(
            f"--validation {arguments.validation:g}, --test {arguments.test:g}: expected shares of at least 0 that "
            "leave something to train on"
        )
    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed: expected a whole number of at least 0, received {arguments.seed}")


def _files(patterns: Sequence[str]) -> list[str]:
    """The files of all patterns, each once, sorted."""
    paths: set[str] = set()
    for pattern in patterns:
        matched = _matched(pattern, "--input")
        if not matched:
            raise MissingFileError(f"--input: {pattern} matches no file")
        paths |= set(matched)
    packed = next((path for path in sorted(paths) if path.lower().endswith(_PACKED)), None)
    if packed:
        raise UserError(f"--input: {packed} is packed in a way that is not read here; unpack it, or use gzip")
    return sorted(paths)


def _text_column(arguments: argparse.Namespace, paths: list[str], of_text_files: str) -> str | None:
    from pipelines.prepare.reading import is_table

    tables = [path for path in paths if is_table(path)]
    if not tables:
        if arguments.label:
            raise UserError(f"--label {arguments.label}: {paths[0]} is a text file, which has no columns")
        return of_text_files
    if len(tables) < len(paths):
        other = next(path for path in paths if path not in tables)
        raise UserError(f"--input: {tables[0]} is a table and {other} is none; prepare them one after the other")
    cleaning = [name for name in ("html", "urls", "full_width") if getattr(arguments, name)]
    if cleaning and arguments.text is None:
        raise UserError(f"--{cleaning[0]} cleans texts; name the column that holds them with --text")
    text: str | None = arguments.text
    return text


def _matched(pattern: str, option: str) -> list[str]:
    """The files of a pattern, on any of Beam's file systems."""
    from apache_beam.io.filesystems import FileSystems

    try:
        return [one.path for one in FileSystems.match([pattern])[0].metadata_list]
    except ValueError as error:  # there is no package for such a path
        raise UserError(f"{option}: {error}") from error
    except Exception as error:
        if type(error).__name__ == "BeamIOError":
            raise UserError(f"{option}: {' '.join(str(error).split())}") from error
        raise


def _tell_of_remains(output: Path) -> None:
    """Names what a killed run left: it may be large, and is hidden; only the user knows whether another one runs."""
    for path in sorted(output.parent.glob(f"{glob.escape(f'.{output.name}')}{TEMPORARY_MARK}*")):
        print(f"warning: {path} is of a run that was killed, or still goes on; remove it if none does", file=sys.stderr)


def _tell(report: dict[str, Any], output: str) -> None:
    say(f"read {report['read']:,} rows of {report['input_files']} files")
    if report["damaged"]:
        encoding = report["settings"]["form"]["encoding"]
        say(f"{report['damaged']:,} rows have bytes that are no {encoding}, now U+FFFD; is it another --encoding?")
    for reason, number in report["left_out"].items():
        if number:
            say(f"left out {number:,}: {reason.replace('_', ' ')}")
    if report["differing_duplicates"]:
        say(f"{report['differing_duplicates']:,} contents had rows that differ; the report says differing_duplicates")
    splits = ", ".join(f"{of['examples']:,} {split}" for split, of in report["splits"].items())
    say(f"wrote {splits} to {len(report['files'])} files in {output}")


if __name__ == "__main__":
    sys.exit(main())
