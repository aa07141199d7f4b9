"""Files that change after they were checked: the error names them, whoever reads them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.shards.changed import told
from pipelines.shards.data import StreamedData

ROWS = [{"number": i, "score": i / 2, "colour": "red", "label": "yes" if i % 2 else "no"} for i in range(2_000)]
OPTIONS = {"batch_size": 8, "split": {"validation": 0.1, "test": 0.0}, "streams": 1, "shuffle_window": 8}


def flipped(path: Path) -> None:
    """As a failing disk does it: the time of the last change stays."""
    content, stat = bytearray(path.read_bytes()), os.stat(path)
    content[len(content) // 2 if path.suffix == ".tfrecord" else 300] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes()[::-1])
    other.rename(path)


CASES = [("tfrecord", change) for change in (flipped, shortened, emptied, removed, replaced)]
CASES += [(name, change) for name in ("parquet", "arrayrecord") for change in (flipped, removed)]


@pytest.mark.parametrize(("name", "change"), CASES)
def test_the_file_is_named(
    load: Callable[..., StreamedData], write: Callable[..., str], name: str, change: Callable
) -> None:
    path = write(ROWS, name=name)
    data = load(path, **OPTIONS)
    examples = data.examples("train")
    change(Path(path))
    reads: dict[str, Callable] = {
        "training": lambda: list(data.train()),
        "validation": lambda: list(data.validation()),
        "examples": lambda: list(examples.features["score"]),
    }
    for what, read in reads.items():
        with pytest.raises(UserError) as caught, told():
            read()
        said = str(caught.value)
        assert said.startswith(path), what
        assert "\n" not in said
        if name == "tfrecord":
            expected = {flipped: "record 1", removed: "was removed after"}.get(change, "was changed after")
            assert expected in said
            assert said.endswith("; restore it and start again; a run goes on from its last checkpoint")


def test_errors_of_other_things_stay_what_they_are(
    load: Callable[..., StreamedData], write: Callable[..., str]
) -> None:
    import tensorflow as tf

    load(write(ROWS), **OPTIONS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="nothing to do with files"), told():
        tf.debugging.Assert(tf.constant(False), ["nothing to do with files"])
