"""Documents: every format, encodings, places, and what is wrong with files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config import CorpusPart
from pipelines.errors import MissingFileError, UserError
from pipelines.text.documents import corpus_files, read_documents

KEY = "data.parts[0]"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[tuple[str, str]]]:
    """Writes a file and reads its documents: text and place, the folder left out."""

    def read_file(content: str | bytes, name: str = "a.txt", **part: object) -> list[tuple[str, str]]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        config = CorpusPart.model_validate({"path": name} | part)
        (path,) = corpus_files(config, tmp_path, KEY)
        return [(d.text, d.place.replace(f"{tmp_path}/", "")) for d in read_documents(config, path, KEY)]

    return read_file


def test_blank_lines_separate(read: Callable) -> None:
    assert read("\n\none\ntwo\n \t\n\nthree\n") == [("one\ntwo", "a.txt line 3"), ("three", "a.txt line 7")]


def test_lines(read: Callable) -> None:
    assert read("one\r\n\r\ntwo", documents="line") == [("one", "a.txt line 1"), ("two", "a.txt line 3")]


def test_one_document_per_file(read: Callable) -> None:
    assert read("one\n\ntwo\n", documents="file") == [("one\n\ntwo\n", "a.txt")]
    assert read(" \n\n", documents="file") == []


def test_a_byte_order_mark_is_no_text(read: Callable) -> None:
    assert read("\ufeff你好".encode()) == [("你好", "a.txt line 1")]


def test_gb18030(read: Callable) -> None:
    text = "一本书\n\n两本书𠮷"
    assert [text for text, _ in read(text.encode("gb18030"), encoding="gb18030")] == ["一本书", "两本书𠮷"]


@pytest.mark.parametrize("documents", ["blank_line", "line", "file"])
def test_a_wrong_byte_is_reported_with_its_line(read: Callable, documents: str) -> None:
    with pytest.raises(
        UserError, match=r"a\.txt line 3: byte 0xff at offset 9 is not utf-8; .*parts\[0\]\.encoding: gb"
    ):
        read(b"one\n\ntwo \xff!\n", documents=documents)
    with pytest.raises(UserError, match=r"line 1: byte 0x81 .* is not gb18030; .*encoding: utf-8"):
        read(b"a\x81\x20", documents=documents, encoding="gb18030")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,text\n1,"one, two"\n2,\n'),
        ("a.tsv", "id\ttext\n1\tone, two\n2\t\n"),
        ("a.jsonl", '{"id": 1, "text": "one, two"}\n{"id": 2, "text": null}\n'),
    ],
)
def test_a_column_of_a_table(read: Callable, name: str, content: str) -> None:
    assert read(content, name, text="text") == [("one, two", f"{name} row 1"), ("", f"{name} row 2")]


def test_parquet(read: Callable, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    pd.DataFrame({"text": ["one", "two"]}).to_parquet(tmp_path / "b.parquet")
    assert [text for text, _ in read((tmp_path / "b.parquet").read_bytes(), "a.parquet", text="text")] == ["one", "two"]


def test_rows_with_line_breaks_have_their_line(read: Callable) -> None:
    assert read('text\n"one\r\nmore"\nb\n', "a.csv", text="text") == [
        ("one\nmore", "a.csv row 1 (line 3)"),
        ("b", "a.csv row 2 (line 4)"),
    ]


def test_a_delimiter_and_an_encoding_for_tables(read: Callable) -> None:
    content = "id;text\n1;书\n".encode("gb18030")
    assert read(content, "a.csv", text="text", delimiter=";", encoding="gb18030") == [("书", "a.csv row 1")]


def test_a_pattern_gives_its_files_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [path.name for path in corpus_files(CorpusPart(path="*.txt"), tmp_path, KEY)]
    assert names == ["a.txt", "b.txt"]
    assert len(corpus_files(CorpusPart(path="**/*.txt"), tmp_path, KEY)) == 3


def test_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("one")
    assert corpus_files(CorpusPart(path="a[1].txt"), tmp_path, KEY) == [tmp_path / "a[1].txt"]


def test_the_shipped_reviews(tmp_path: Path) -> None:
    part = CorpusPart(builtin="reviews_zh")
    (path,) = corpus_files(part, tmp_path, KEY)
    assert sum(1 for _ in read_documents(part, path, KEY)) == 12_006


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "news.text").write_text("one")
    with pytest.raises(MissingFileError, match=r'\*\.txt \(data\.parts\[0\]\.path\) matches no file; .*"news\.text"'):
        corpus_files(CorpusPart(path="*.txt"), tmp_path, KEY)
    with pytest.raises(MissingFileError, match=r"there is no folder .*nowhere"):
        corpus_files(CorpusPart(path="nowhere/*.txt"), tmp_path, KEY)


def test_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "news.txt").write_text("one")
    with pytest.raises(MissingFileError, match=r'parts\[0\]\.path\) is not there; did you mean "news\.txt"'):
        corpus_files(CorpusPart(path="new.txt"), tmp_path, KEY)


def test_a_table_without_a_column(read: Callable) -> None:
    with pytest.raises(UserError, match=r"a\.csv is a table; name its column of documents with data\.parts\[0\]\.text"):
        read("text\none\n", "a.csv")
    with pytest.raises(UserError, match=r'no column "txt" \(data\.parts\[0\]\.text\); did you mean "text"'):
        read("text\none\n", "a.csv", text="txt")
    with pytest.raises(UserError, match=r'ends in "\.txt", and data\.parts\[0\]\.text names a column'):
        read("one", text="text")


def test_a_damaged_table(read: Callable) -> None:
    with pytest.raises(UserError, match="line 2 is not valid JSON"):
        read(json.dumps({"text": "one"}) + "\n{\n", "a.jsonl", text="text")


def test_no_permission(read: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked.txt").write_text("one")
    (tmp_path / "locked.txt").chmod(0)
    try:
        (tmp_path / "locked.txt").read_text()
    except PermissionError:
        with pytest.raises(UserError, match=r"no permission to read .*locked"):
            list(read_documents(CorpusPart(path="locked.txt"), tmp_path / "locked.txt", KEY))
