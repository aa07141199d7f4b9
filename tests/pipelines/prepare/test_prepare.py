"""Preparation on Apache Beam's local runner: against plain Python, and the same however it is run."""

import bz2
import csv
import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import pipelines
from pipelines.prepare.__main__ import main

tfrecordio = pytest.importorskip(
    "apache_beam.io.tfrecordio", reason="Apache Beam is an extra of its own: pip install 'tfbigmodel[beam]'"
)

# tf.train.Example as protobuf's compiler has it (tensorflow/core/example/*.proto; a map is a list of entries): there is
# no TensorFlow in this environment, since preparation needs none.
EXAMPLE_PROTO = """
name: "example.proto" syntax: "proto3"
message_type { name: "Example" field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: "Features" } }
message_type { name: "Features" field { name: "feature" number: 1 label: LABEL_REPEATED type_name: "Entry" } }
message_type { name: "Entry"
  field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: "Feature" } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type_name: "BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type_name: "FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type_name: "Int64List" oneof_index: 0 } }
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
"""


ROOT = str(Path(pipelines.__file__).parents[1])


def reviews() -> list[dict[str, str]]:
    """Rows with empty texts, duplicates, differing labels and missing ones."""
    random = np.random.default_rng(3)
    rows = [
        {"id": str(index), "text": f"<b>书</b> {random.integers(120)} &amp; x", "label": str(random.integers(2))}
        for index in range(400)
    ]
    rows[5]["text"], rows[6]["text"], rows[7]["label"] = "", "<br> ", ""
    rows[8]["text"] = rows[9]["text"].upper() + " "
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@cache
def example_type() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Example"))


def features_of(path: Path) -> list[dict[str, Any]]:
    """The examples of a TFRecord file, read by Beam, which checks the checksums."""
    with open(path, "rb") as file:
        records = list(iter(lambda: tfrecordio._TFRecordUtil.read_record(file), None))
    examples = [example_type().FromString(record) for record in records]
    return [{entry.key: entry.value for entry in example.features.feature} for example in examples]


def rows_of(folder: Path, split: str) -> list[dict]:
    return [
        {
            "id": features["id"].int64_list.value[0],
            "text": features["text"].bytes_list.value[0].decode(),
            "label": features["label"].int64_list.value[0],
        }
        for path in sorted(folder.glob(f"{split}-*.tfrecord"))
        for features in features_of(path)
    ]


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--quiet"] if "--" not in arguments else list(map(str, arguments)))


def test_rows_counts_and_report_are_those_of_plain_python(tmp_path):
    rows = reviews()
    for part in range(3):
        write_csv(tmp_path / f"raw-{part}.csv", rows[part::3])
    output = tmp_path / "out"
    options = ["--text", "text", "--label", "label", "--html", "--shards", 3, "--validation", 0.2, "--test", 0.3]
    assert run("--input", tmp_path / "raw-*.csv", "--output", output, *options) == 0

    # The same in plain Python, with hashing and cleaning of its own.
    cleaned, contents = [], {}
    for row in rows:
        text = row["text"].replace("<b>", " ").replace("</b>", " ").replace("<br>", " ").replace("&amp;", "&")
        text = text.replace("<B>", " ").replace("</B>", " ").replace("&AMP;", "&")
        if text.strip() and row["label"]:
            cleaned.append({"id": int(row["id"]), "text": text, "label": int(row["label"])})
            content = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
            contents.setdefault(content, []).append(cleaned[-1])
    splits = {split: rows_of(output, split) for split in ("train", "validation", "test")}
    found = [row for rows in splits.values() for row in rows]
    assert len(found) == len(contents) < len(cleaned)
    for row in found:
        content = " ".join(unicodedata.normalize("NFKC", row["text"]).casefold().split())
        assert row in contents.pop(content)  # one row of each content, whole, and no content twice

    report = json.loads((output / "report.json").read_text())
    assert report["read"] == 400
    assert report["left_out"] == {"duplicates": len(cleaned) - len(found), "empty": 2, "without_label": 1}
    assert report["kept"] == len(found)
    assert report["changed"]["html"] == 399
    assert report["columns"] == {"id": "int", "label": "int", "text": "text"}
    assert 0 < report["differing_duplicates"] < len(found)
    for split, rows in splits.items():
        of_split = report["splits"][split]
        assert of_split["examples"] == len(rows)
        assert of_split["classes"] == dict(sorted(Counter(str(row["label"]) for row in rows).items()))
        lengths = sorted(len(row["text"]) for row in rows)
        assert of_split["characters"]["median"] == lengths[-(-len(lengths) // 2) - 1]
        assert of_split["characters"]["max"] == lengths[-1]
    for name, known in report["files"].items():
        assert hashlib.sha256((output / name).read_bytes()).hexdigest() == known["sha256"]
    assert set(report["files"]) == set(files_of(output)) - {"report.json"}
    # The order is a random one: neighbours in the file are none in the input.
    order = [row["id"] for row in splits["train"]]
    assert order != sorted(order)


def test_the_same_files_whatever_the_workers_and_the_division_of_the_input(tmp_path):
    rows = reviews()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_csv(tmp_path / "a" / "all.csv", rows)
    for part in range(7):
        write_csv(tmp_path / "b" / f"{part}.csv", rows[part::7])
    options = ["--text", "text", "--label", "label", "--shards", 2, "--format", "parquet"]
    assert run("--input", tmp_path / "a" / "*.csv", "--output", tmp_path / "one", *options) == 0
    threads = ["--", "--direct_num_workers", "3", "--direct_running_mode", "multi_threading"]
    assert run("--input", tmp_path / "b" / "*.csv", "--output", tmp_path / "many", *options, *threads) == 0
    one, many = files_of(tmp_path / "one"), files_of(tmp_path / "many")
    reports = [json.loads(files.pop("report.json")) for files in (one, many)]
    assert one == many
    assert reports[0].pop("input_files") == 1
    assert reports[1].pop("input_files") == 7
    assert reports[0] == reports[1]
    # Other numbers of shards hold the same rows in the same splits.
    assert run("--input", tmp_path / "a" / "*.csv", "--output", tmp_path / "five", *options[:5], 5) == 0
    assert {row["id"] for row in rows_of(tmp_path / "five", "test")} == {
        row["id"] for row in parquet_rows(tmp_path / "one", "test")
    }


def parquet_rows(folder: Path, split: str) -> list[dict]:
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob(f"{split}-*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [("line", ["one", "two", "three", "four"]), ("blank_line", ["one two", "three", "four"]), ("file", None)],
)
def test_documents_of_text_files_compressed_ones_too(tmp_path, documents, expected):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\r\n\r\n \nthree\n".encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"four"))
    options = ["--documents", documents, "--format", "parquet", "--validation", 0, "--test", 0]
    assert run("--input", tmp_path / "*.txt*", "--output", tmp_path / "out", *options) == 0
    found = sorted(row["text"].strip() for row in parquet_rows(tmp_path / "out", "train"))
    assert found == (sorted(expected) if expected else ["four", "one two    three"])


def test_json_lines_and_parquet_make_the_same_files(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"text {index}", "size": index / 4, "count": index, "on": None} for index in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert (
            run("--input", tmp_path / name, "--output", tmp_path / f"{name}.out", "--text", "text", "--shards", 1) == 0
        )
    assert files_of(tmp_path / "a.jsonl.out") == files_of(tmp_path / "a.parquet.out")


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        ("text,label\na,1\n", ["--text", "txt"], "raw.csv has no column 'txt' (--text); did you mean \"text\"?"),
        ("text,label\na,1\n", ["--label", "y"], "raw.csv has no column 'y' (--label); known are"),
        ("text,label\na\n", ["--text", "text"], "raw.csv, line 2: 1 cells, the header has 2"),
        ("text,text\na,b\n", ["--text", "text"], "the first row must name the columns, each once"),
        ("text,label\n,1\n", ["--text", "text"], "none of 1 rows is left (1 empty)"),
        (
            "text,size,label\na,1e39,1\n",
            [],
            "column size: 1e+39 is beyond what the float32 of a TFRecord file can hold",
        ),
        ("text,label\na,1\n", ["--html"], "--html cleans texts; name the column that holds them with --text"),
        ("text,label\na,1\n", ["--shards", "0"], "--shards: expected 1 to 99999, received 0"),
        ("text,label\na,1\n", ["--test", "0.99"], "--validation 0.05, --test 0.99: expected shares"),
        ("text,label\na,1\n", ["--input", "gone/*.csv"], "--input: gone/*.csv matches no file"),
        ("text,label\na,1\n", ["--input", "gs://bucket/a.csv"], "--input: Unable to get filesystem"),
        ("text,label\na,1\n", ["--runner", "NoRunner"], "--runner NoRunner: Unexpected pipeline runner: NoRunner."),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, content, arguments, expected):
    (tmp_path / "raw.csv").write_text(content)
    output = tmp_path / "out"
    assert run("--input", tmp_path / "raw.csv", "--output", output, *arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("error: ") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["raw.csv"]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_packed_file_that_is_damaged_is_no_shorter_one(tmp_path, capsys, suffix, damage):
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix]
    content = pack("\n".join(f"text {index}" for index in range(5_000)).encode())
    path = tmp_path / f"raw.txt.{suffix}"
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"text 1\n")
    assert run("--input", path, "--output", tmp_path / "out") == 2
    assert f"{path} cannot be read, or is damaged or cut off" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_archive_is_refused(tmp_path, capsys):
    (tmp_path / "raw.zip").write_bytes(b"PK")
    assert run("--input", tmp_path / "raw.zip", "--output", tmp_path / "out") == 2
    assert "raw.zip is packed in a way that is not read here; unpack it, or use gzip" in capsys.readouterr().err


def test_odd_values_of_json_are_missing_or_mended(tmp_path):
    rows = [{"text": f"text {index}", "size": float("nan"), "odd": "a\ud800b", "label": "x"} for index in range(30)]
    rows[20]["size"], rows[3]["label"], rows[4]["label"] = 7, " ", float("nan")
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--text", "text", "--label", "label", "--shards", 1, "--validation", 0, "--test", 0]
    assert run("--input", tmp_path / "raw.jsonl", "--output", tmp_path / "out", *options) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["left_out"]["without_label"] == 2
    assert report["columns"] == {"label": "text", "odd": "text", "size": "int", "text": "text"}
    features = features_of(next((tmp_path / "out").glob("*.tfrecord")))
    assert {feature["odd"].bytes_list.value[0].decode() for feature in features} == {"a\ufffdb"}
    assert {feature["size"].WhichOneof("kind") for feature in features} == {"int64_list"}, "also where it is missing"
    assert [list(feature["size"].int64_list.value) for feature in features].count([]) == 27


def test_a_byte_order_mark_before_quotes_is_none_of_the_name(tmp_path):
    (tmp_path / "raw.csv").write_text('\ufeff"te,xt","label"\n"a, b","1"\n', encoding="utf-8")
    options = ["--text", "te,xt", "--format", "parquet", "--validation", 0, "--test", 0]
    assert run("--input", tmp_path / "raw.csv", "--output", tmp_path / "out", *options) == 0
    assert parquet_rows(tmp_path / "out", "train") == [{"te,xt": "a, b", "label": 1}]


def test_bytes_of_another_encoding_are_told(tmp_path, capsys):
    (tmp_path / "raw.csv").write_bytes("text,city\ngood,北京\n好书,x\nbad,y\n".encode("gb18030"))
    command = ["--input", str(tmp_path / "raw.csv"), "--text", "text", "--validation", "0", "--test", "0"]
    assert main([*command, "--output", str(tmp_path / "wrong")]) == 0
    assert "2 rows have bytes that are no utf-8, now U+FFFD; is it another --encoding?" in capsys.readouterr().out
    assert main([*command, "--output", str(tmp_path / "right"), "--encoding", "gb18030"]) == 0
    assert "U+FFFD" not in capsys.readouterr().out


def test_two_parquet_columns_of_one_name_are_refused(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "raw.parquet")
    assert run("--input", tmp_path / "raw.parquet", "--output", tmp_path / "out") == 2
    assert "raw.parquet has two columns of the name 'text'; give each a name of its own" in capsys.readouterr().err


def test_a_number_of_too_many_digits_is_told_with_its_line(tmp_path, capsys):
    (tmp_path / "raw.jsonl").write_text('{"text": "a"}\n{"text": ' + "9" * 5_000 + "}\n")
    assert run("--input", tmp_path / "raw.jsonl", "--output", tmp_path / "out", "--text", "text") == 2
    assert "raw.jsonl, line 2: not valid JSON (Exceeds the limit" in capsys.readouterr().err


def test_an_output_that_is_there_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "raw.txt").write_text("one\n")
    (tmp_path / "out").mkdir()
    assert run("--input", tmp_path / "raw.txt", "--output", tmp_path / "out") == 2
    assert "out exists already and is not overwritten" in capsys.readouterr().err


def test_what_a_killed_run_left_is_told(tmp_path, capsys):
    (tmp_path / "raw.txt").write_text("one\n")
    command = [sys.executable, "-m", "pipelines.prepare", "--input", "raw.txt", "--output", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT})
    while process.poll() is None and not list(tmp_path.glob(".out.tmp-*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (remains,) = tmp_path.glob(".out.tmp-*")
    assert run("--input", tmp_path / "raw.txt", "--output", tmp_path / "out") == 0
    assert f"warning: {remains} is of a run that was killed, or still goes on; remove it" in capsys.readouterr().err


def test_what_is_no_parquet_file_is_told_and_nothing_else(tmp_path):
    path = tmp_path / "raw.parquet"
    path.write_bytes(b"no")
    command = [sys.executable, "-m", "pipelines.prepare", "--input", str(path), "--output", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()  # in a process of its own, since pytest keeps what is logged
    assert line.startswith(f"error: {path} is not a Parquet file, or is damaged: ")
    assert "while running" not in line
