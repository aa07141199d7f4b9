"""The store: what is written is read by index, made once, and made again where it is damaged."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.text.store import StoreWriter, cached

DOCUMENTS = [[[1, 2], [3]], [[]], [], [[70_000, 4], [], [5, 6, 7]]]


def build(folder: Path) -> None:
    with StoreWriter(folder, {"tokens": np.uint32, "characters": np.uint16}, language="zh") as writer:
        for document in DOCUMENTS:
            flat = [value for sentence in document for value in sentence]
            writer.add([len(sentence) for sentence in document], tokens=flat, characters=[1] * len(flat))
        writer.description["more"] = 7


def test_documents_and_sentences_by_index(tmp_path: Path) -> None:
    store = cached(tmp_path / "key", build)
    assert len(store) == len(DOCUMENTS)
    assert store.lengths().tolist() == [3, 0, 0, 5]
    for number, document in enumerate(DOCUMENTS):
        bounds = store.sentence_bounds(number)
        sentences = [store.arrays["tokens"][a:b].tolist() for a, b in itertools.pairwise(bounds)]
        assert sentences == document
        first, last = store.bounds(number)
        assert store.arrays["tokens"][first:last].tolist() == [value for sentence in document for value in sentence]
    assert isinstance(store.arrays["tokens"], np.memmap)
    assert store.arrays["characters"].dtype == np.uint16
    assert (store.description["language"], store.description["more"]) == ("zh", 7)


def test_it_is_made_once(tmp_path: Path) -> None:
    cached(tmp_path / "key", build)
    assert cached(tmp_path / "key", lambda folder: pytest.fail("it was there")).lengths().tolist() == [3, 0, 0, 5]


@pytest.mark.parametrize("damage", ["change", "cut", "remove", "add", "manifest"])
def test_a_damaged_store_is_made_again_and_said_so(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cached(tmp_path / "key", build).folder
    path = folder / ("manifest.json" if damage == "manifest" else "tokens.bin")
    if damage == "change":
        path.write_bytes(bytes(8) + path.read_bytes()[8:])
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "add":
        (folder / "more.bin").touch()
    else:
        path.unlink()
    assert cached(tmp_path / "key", build).arrays["tokens"].tolist() == [1, 2, 3, 70_000, 4, 5, 6, 7]
    assert "warning: the cached corpus is made again" in capsys.readouterr().err


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        build(folder)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        cached(tmp_path / "key", fail)
    assert [path.name for path in (tmp_path / "key").iterdir()] == ["lock"]
    cached(tmp_path / "key", build)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "key" / ".store.tmp-0123abcd").mkdir(parents=True)
    cached(tmp_path / "key", build)
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["lock", "store"]


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    made: list[float] = []

    def slowly(folder: Path) -> None:
        made.append(time.monotonic())
        time.sleep(0.5)
        build(folder)

    threads = [threading.Thread(target=cached, args=(tmp_path / "key", slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*set data\.cache_dir to a folder of your own"):
        cached(tmp_path / "file" / "key", build)


def test_an_empty_store(tmp_path: Path) -> None:
    def nothing(folder: Path) -> None:
        with StoreWriter(folder, {"tokens": np.uint16}):
            pass

    store = cached(tmp_path / "key", nothing)
    assert len(store) == 0
    assert store.lengths().tolist() == []
