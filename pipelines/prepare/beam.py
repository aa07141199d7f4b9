"""The preparation as an Apache Beam pipeline: what it gives depends on its input and settings alone.

Nothing here depends on the order in which rows come, on how many workers there are, or on which of them reads what.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipelines.errors import UserError
from pipelines.prepare.cleaning import steps
from pipelines.prepare.content import Row, Value, content_key, digest, normalised, shard_of, split_of
from pipelines.prepare.reading import Form, read_rows
from pipelines.prepare.report import report_of
from pipelines.prepare.writing import KINDS, SUFFIXES, as_kind, file_content, kind_of

REPORT = "report.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides on the output, beside the input.

    Attributes:
        form: how files are read.
        output: the folder to write into.
        format: `tfrecord` or `parquet`.
        shards: files of each split.
        validation, test: shares of the contents.
        seed: of their division and order.
        html, urls, full_width: cleaning steps.
    """

    form: Form
    output: str
    format: str
    shards: int
    validation: float
    test: float
    seed: int
    html: bool
    urls: bool
    full_width: bool


Kept: TypeAlias = tuple[bytes, Row]


def build(pipeline: beam.Pipeline, paths: list[str], settings: Settings) -> None:
    """Adds all steps to a pipeline, from the files to the report, which is written last."""
    events: list[beam.PCollection] = []
    prepared = (
        pipeline
        | "files" >> beam.Create(paths, reshuffle=True)
        | "read" >> beam.FlatMap(read_rows, settings.form)
        | "clean" >> beam.ParDo(_Clean(settings)).with_outputs("events", main="rows")
    )
    events.append(prepared.events)
    unique = (
        prepared.rows
        | "one of each content" >> beam.CombinePerKey(_FirstOfContent())
        | "count" >> beam.ParDo(_CountDuplicates()).with_outputs("events", main="rows")
    )
    events.append(unique.events)
    kinds = unique.rows | "kinds" >> beam.CombineGlobally(_ColumnKinds(settings.form.text))
    files = (
        unique.rows
        | "shard" >> beam.Map(_with_place, settings)
        | "gather" >> beam.GroupByKey()
        | "write" >> beam.Map(_write_file, settings, beam.pvalue.AsSingleton(kinds))
    )
    counts = events | "events" >> beam.Flatten() | "numbers" >> beam.CombinePerKey(sum)
    known = (beam.pvalue.AsSingleton(kinds), beam.pvalue.AsDict(counts), beam.pvalue.AsList(files))
    _ = pipeline | "report" >> beam.Create([len(paths)]) | "write report" >> beam.Map(_write_report, settings, *known)


class _Clean(beam.DoFn):
    """Cleans a row's text, leaves out rows without text or label, and gives the others with their content's key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def setup(self) -> None:
        settings = self._settings
        self._steps = steps(settings.html, settings.urls, settings.full_width)

    def process(self, row: dict[str, Value]) -> Iterator[Any]:
        form, events = self._settings.form, Counter(read=1)
        text = ""
        if form.text is not None:
            value = row.get(form.text)
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
            row = {**row, form.text: text}
        events["damaged"] = int(any("\ufffd" in value for value in row.values() if isinstance(value, str)))
        if form.text is not None:
            for name, step in self._steps.items():
                cleaned = step(text)
                events[f"changed {name}"] = int(cleaned != text)
                text = cleaned
            row = {**row, form.text: text}
        reason = self._left_out(row)
        if reason:
            events[f"left_out {reason}"] = 1
        else:
            seed = self._settings.seed
            yield content_key(row, form.text, form.label, seed), (digest(sorted(row.items()), seed), row)
        for name, number in events.items():
            yield beam.pvalue.TaggedOutput("events", (name, number))

    def _left_out(self, row: Row) -> str:
        form = self._settings.form
        if form.text is not None and not normalised(str(row[form.text])):
            return "empty"
        if form.label is not None:
            label = row.get(form.label)
            if label is None or (isinstance(label, str | bytes) and not label.strip()):
                return "without_label"
        return "" if any(value is not None for value in row.values()) else "empty"


class _FirstOfContent(beam.CombineFn):
    """Of rows of the same content the one whose digest is smallest; how many there were, and whether they differ."""

    def create_accumulator(self) -> Any:
        return None

    def add_input(self, accumulator: Any, element: tuple[bytes, Row]) -> Any:
        return self.merge_accumulators([accumulator, (*element, 1, False)])

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        merged = None
        for one in accumulators:
            if merged is None or one is None:
                merged = one if merged is None else merged
                continue
            first, other = sorted((merged, one), key=lambda each: each[0])
            differ = merged[3] or one[3] or first[0] != other[0]
            merged = (first[0], first[1], merged[2] + one[2], differ)
        return merged

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator


class _CountDuplicates(beam.DoFn):
    def process(self, element: tuple[bytes, tuple[bytes, Row, int, bool]]) -> Iterator[Any]:
        key, (_, row, number, differ) = element
        yield key, row
        yield beam.pvalue.TaggedOutput("events", ("kept", 1))
        yield beam.pvalue.TaggedOutput("events", ("left_out duplicates", number - 1))
        yield beam.pvalue.TaggedOutput("events", ("differing_duplicates", int(differ)))


class _ColumnKinds(beam.CombineFn):
    """Column → what all its values are: the most general kind that one of them needs. The text column is text."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def create_accumulator(self) -> dict[str, int]:
        return {}

    def add_input(self, accumulator: dict[str, int], element: Kept) -> dict[str, int]:
        for name, value in element[1].items():
            kind = kind_of(value)
            if kind is not None:
                accumulator[name] = max(accumulator.get(name, 0), kind)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Mapping[str, int]]) -> dict[str, int]:
        merged: dict[str, int] = {}
        for one in accumulators:
            for name, kind in one.items():
                merged[name] = max(merged.get(name, 0), kind)
        return merged

    def extract_output(self, accumulator: Mapping[str, int]) -> dict[str, str]:
        return {name: "text" if name == self._text else KINDS[kind] for name, kind in sorted(accumulator.items())}


def _with_place(element: Kept, settings: Settings) -> tuple[tuple[str, int], Kept]:
    key, _ = element
    return (split_of(key, settings.validation, settings.test), shard_of(key, settings.shards)), element


def _write_file(
    element: tuple[tuple[str, int], Iterable[Kept]], settings: Settings, kinds: Mapping[str, str]
) -> dict[str, Any]:
    """Writes a shard's rows in the order of their keys, which is a random one; returns what the report needs."""
    (split, shard), kept = element
    rows = [row for _, row in sorted(kept, key=lambda one: one[0])]
    content = file_content(rows, kinds, settings.format)
    name = f"{split}-{shard:05}-of-{settings.shards:05}{SUFFIXES[settings.format]}"
    _write(FileSystems.join(settings.output, name), content)
    text, label = settings.form.text, settings.form.label
    classes: Counter[str] = Counter()
    if label is not None and kinds[label] != "float":
        classes.update(str(as_kind(row[label], kinds[label])) for row in rows)
    return {
        "file": name,
        "split": split,
        "examples": len(rows),
        "sha256": hashlib.sha256(content).hexdigest(),
        "classes": classes,
        "characters": Counter(len(str(row[text])) for row in rows) if text else {},
    }


def _write_report(
    num_files: int,
    settings: Settings,
    kinds: Mapping[str, str],
    counts: Mapping[str, int],
    files: list[Mapping[str, Any]],
) -> None:
    report = report_of(num_files, dataclasses.asdict(settings), kinds, counts, files)
    if not files:
        left_out = ", ".join(f"{number} {reason}" for reason, number in report["left_out"].items() if number)
        raise UserError(f"--input: none of {counts.get('read', 0)} rows is left ({left_out or 'the files are empty'})")
    _write(
        FileSystems.join(settings.output, REPORT), (json.dumps(report, ensure_ascii=False, indent=2) + "\n").encode()
    )


def _write(path: str, content: bytes) -> None:
    # A worker that is run a second time writes the same once more.
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(content)
