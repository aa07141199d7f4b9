"""What users can do wrong with files of examples: one line each, with file and record."""

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import MissingFileError, UserError

Load = Callable[..., object]
Write = Callable[..., str]

ROWS = [{"number": i, "score": i / 2, "colour": "red", "label": "yes" if i % 2 else "no"} for i in range(40)]
SMALL = {"batch_size": 8, "split": {"validation": 0.0, "test": 0.0}}


def changed(at: int, **values: object) -> list[dict]:
    return [row | values if i == at else row for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "lable"}, r'tfrecord has no column "lable" \(data.label\); did you mean "label"\?'),
        ({"numeric": ["scores"]}, r'has no column "scores" \(data.numeric\); did you mean "score"\?'),
        ({"text": "number"}, r"column number holds whole numbers, and texts or bytes were expected \(data.text\)"),
        ({"numeric": ["colour"]}, r"column colour holds texts or bytes, and numbers or whole numbers were expected"),
        ({"categorical": ["score"]}, r"column score holds numbers, and whole numbers or texts or bytes were expected"),
        ({"label": "score"}, r"column score holds numbers, .*is it data.task: regression\?"),
        ({"task": "regression"}, r"column label holds texts or bytes, and .*data.task: regression needs numbers"),
        ({"numeric": ["score"], "ignore": ["score"]}, r'"score" is named in data.numeric and in data.ignore; leave it'),
        ({"text": "colour", "image": "label"}, r"data.text and data.image cannot be used together"),
        ({"text": "colour", "numeric": []}, r"data.numeric and data.text cannot be used together"),
        ({"ignore": ["number", "score", "colour"]}, r"no feature column is left beside the label label"),
        ({"tokenizer": {"kind": "words"}}, r"data.tokenizer is for texts, and data.text names no column of texts"),
        ({"images": {"size": 8}}, r"data.images is for images, and data.image names no column of images; remove it"),
        ({"service": {"address": "grpc://a:1"}}, r"data.service is not for data.source: shards, whose files each"),
        ({"train_examples": 10}, r"data.train_examples is not for data.source: shards; name fewer files"),
        ({"text": "colour", "cleaning": {"duplicates": "drop"}}, r"data.cleaning.duplicates: drop is not for .*shards"),
        ({"classes": ["no", "maybe"]}, r'record 2, column label: label "yes" is none of data.classes; known are "no"'),
        ({"classes": ["no", "yes", "no"]}, r'data.classes has "no" twice; each class has one index'),
        ({"batch_size": 64}, r"40 training examples are fewer than one batch of 64; set data.batch_size to at most 40"),
        ({"split": {"test": 0.001}}, r"the (test|validation) split would be empty: data.split.\w+ is 0.001"),
        ({"shuffle_window": 10**8, "max_memory_gb": 0.5}, r"6 × 100,000,000 examples \(data.shuffle_window\) and 8 b"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_files(load: Load, write: Write, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(write(ROWS), **SMALL | {"max_memory_gb": 4.0} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (changed(20, score=None), {}, r"record 21, column score: the cell is empty or NaN; fill it in the file"),
        (changed(20, score=float("inf")), {}, r"record 21, column score: inf is not finite"),
        (changed(20, colour=None), {}, r"record 21, column colour: the cell is empty or NaN"),
        (changed(20, label=None), {}, r"record 21, column label: the label is empty"),
        (changed(20, colour=b"\xb0\xec"), {}, r"record 21, column colour: the category is no text in UTF-8; write it"),
        (changed(20, colour="  "), {"text": "colour"}, r"record 21: the text is empty; fill it in"),
        (changed(20, colour="no image"), {"image": "colour"}, r"record 1, column colour: the image .*; replace it or"),
        (changed(20, number=7), {"label": "number", "classes": [str(i) for i in range(30)]},
         r"record 31, column number: label 30 is no index of data.classes, which has 30 classes \(0 to 29\)"),
        ([row | {"label": "no"} for row in ROWS], {}, r'training examples have one class only, "no" in label'),
        ([row | {"score": None} for row in ROWS], {"missing": "mean"}, r"column score is empty in every training exam"),
        ([], {}, r"is not there; files there: none"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["tfrecord", "parquet"])
def test_records_that_are_wrong(load: Load, write: Write, rows: list, options: dict, message: str, name: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(write(rows, name=name), **SMALL | options)
    assert "\n" not in str(caught.value)


def flipped(path: str, at: int) -> None:
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 0xFF
    Path(path).write_bytes(content)


@pytest.mark.parametrize("name", ["tfrecord", "parquet", "arrayrecord"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_files_that_are_damaged(load: Load, write: Write, name: str, damage: str) -> None:
    path = write(ROWS * 20, name=name)
    content = Path(path).read_bytes()
    if damage == "cut":
        Path(path).write_bytes(content[: len(content) // 2 + 3])
    elif damage == "flipped":
        # In the middle of a record; of what is compressed, somewhere in it.
        flipped(path, content.index(b"label", len(content) // 2 - 40) if name == "tfrecord" else 300)
    elif damage == "other":
        Path(path).write_text("a,b\n1,2\n" * 3)
    else:
        Path(path).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load(path, **SMALL)
    said = str(caught.value)
    assert said.startswith(path)
    assert "\n" not in said
    if name == "tfrecord" and damage in ("cut", "flipped"):
        assert " record 40" in said or " record 39" in said or " record 41" in said, "half of 800, or one beside it"
        assert "is damaged" in said or "is cut off" in said


@pytest.mark.parametrize("name", ["tfrecord", "parquet", "arrayrecord"])
def test_one_of_several_files_that_is_cut_off_is_no_empty_one(
    load: Load, write: Write, tmp_path: Path, name: str
) -> None:
    write(ROWS * 20, name=name)
    cut = Path(write(ROWS * 20, name=name, called="b"))
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"^{cut} (record 800|is no)"):
        load(tmp_path / "?" / "*", **SMALL)


def test_tfrecord_of_other_records_and_kinds(load: Load, write: Write, tmp_path: Path) -> None:
    import tensorflow as tf

    def example(**features: tf.train.Feature) -> bytes:
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    def numbers(*values: float) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def whole(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def refusal(records: list[bytes]) -> str:
        path = tmp_path / "b.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        with pytest.raises(UserError) as caught:
            load(path, **SMALL)
        return str(caught.value)

    good = [example(x=numbers(i), label=whole(i % 2)) for i in range(300)]
    assert "record 1 is no serialised tf.train.Example" in refusal([b"\xff\xffhello"])
    assert "record 280: feature x has 2 values, and one was expected" in refusal(
        [*good[:279], example(x=numbers(1, 2), label=whole(0)), *good[280:]]
    )
    assert "record 280: feature x holds whole numbers (int64_list), and numbers (float_list) were expected" in refusal(
        [*good[:279], example(x=whole(1), label=whole(0)), *good[280:]]
    )
    assert "record 2: feature x is a int64_list, and a float_list in a record before it" in refusal(
        [good[0], example(x=whole(1), label=whole(0))]
    )


def test_files_that_do_not_fit_together(load: Load, write: Write, tmp_path: Path) -> None:
    first = write(ROWS, called="a")
    write(ROWS, {"number": "int", "score": "float", "label": "bytes"}, called="b")
    with pytest.raises(
        UserError, match=r'b-00000.*d has no column "colour" in its first records, which .*a-00000.* has'
    ):
        load(tmp_path / "*" / "*.tfrecord", **SMALL)
    shutil.rmtree(tmp_path / "b")
    whole = [row | {"score": 1} for row in ROWS]
    kinds = {"number": "int", "score": "int", "colour": "bytes", "label": "bytes"}
    second = write(whole, kinds, called="c")
    with pytest.raises(UserError, match=f"column score holds whole numbers in {second} and numbers in {first}; write"):
        load(tmp_path / "*" / "*.tfrecord", **SMALL)
    write(ROWS, name="parquet", called="d")
    with pytest.raises(UserError, match=r"is tfrecord and .* is parquet; data.path must name files of one format"):
        load(tmp_path / "[ad]" / "*", **SMALL)
    with pytest.raises(UserError, match=r"is tfrecord and .* is parquet; all files must be of one format"):
        load(first, test_path=str(tmp_path / "d" / "*"), **SMALL)
    other = write([row | {"label": "perhaps"} for row in ROWS[:3]], called="e")
    with pytest.raises(
        UserError, match=r'the test split has 3 examples of label "perhaps", of which there is no train'
    ):
        load(first, test_path=other, **SMALL)


def test_parquet_files_with_columns_of_other_types(load: Load, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def put(name: str, **columns: pa.Array) -> str:
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        return str(tmp_path / f"{name}.parquet")

    label, numbers = pa.array(["a", "b"] * 20), pa.array(range(40))
    first = put("a", x=numbers, label=label)
    # What pandas writes of no rows, and of nothing but missing values.
    put("b", x=pa.array([], pa.null()), label=pa.array([], pa.null()))
    assert load(tmp_path / "*", **SMALL).info.counts["train"] == 40  # type: ignore[attr-defined]
    for other in (pa.nulls(40), pa.array([[1]] * 40)):
        second = put("c", x=other, label=label)
        kind = pq.read_schema(second).field("x").type
        said = f"column x is of type {kind} in {second} and holds whole numbers in {first}; write all files alike"
        with pytest.raises(UserError, match=re.escape(said)):
            load(tmp_path / "*", **SMALL)
    put("c", tags=pa.array([[1]] * 40))
    with pytest.raises(UserError, match=f'c.parquet has no column "label", which {first} has; known are none'):
        load(tmp_path / "*", **SMALL)
    put("c", x=pa.array([2**63] * 40, pa.uint64()), label=label)
    with pytest.raises(UserError, match=r"c.parquet: column x has whole numbers beyond 64 bits with a sign \(.*texts"):
        load(tmp_path / "*", **SMALL)


def test_files_that_are_not_there(load: Load, write: Write, tmp_path: Path) -> None:
    path = write(ROWS)
    with pytest.raises(MissingFileError, match=r"a-00000.tfrecord \(data.path\) is not there; did you mean .*of-00001"):
        load(tmp_path / "a" / "a-00000.tfrecord", **SMALL)
    with pytest.raises(MissingFileError, match=r"no file is like .*x\* \(data.test_path\); files there: .*a-00000-of"):
        load(path, test_path=str(tmp_path / "a" / "x*"), **SMALL)
    with pytest.raises(MissingFileError, match=r"no file is like .*; there is no folder .*nowhere"):
        load(tmp_path / "nowhere" / "*.tfrecord", **SMALL)
    with pytest.raises(UserError, match=r"a \(data.path\) is a folder; give a file, or a pattern such as .*a/\*.tfrec"):
        load(tmp_path / "a", **SMALL)
    Path(path).rename(tmp_path / "records")
    with pytest.raises(UserError, match=r"records \(data.path\) ends in none of .tfrecord, .parquet and .array_record"):
        load(tmp_path / "records", **SMALL)
    load(tmp_path / "records", format="tfrecord", **SMALL)


def test_a_file_of_two_splits_is_refused(load: Load, write: Write) -> None:
    path = write(ROWS)
    with pytest.raises(
        UserError, match=r"is named in data.path \(.*\) and in data.test_path \(.*its examples would be"
    ):
        load(path, test_path=str(Path(path).parent / "*"), **SMALL)


def test_labels_that_are_no_text_and_columns_that_are_nothing_usable(load: Load, write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record 21, column label: the label is no text in UTF-8; write it as one"):
        load(write(changed(20, label=b"\xffyes")), **SMALL)
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.array(range(40))
    pq.write_table(pa.table([numbers, numbers], ["x", "x"]), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r'twice.parquet has two columns of the name "x"; give each a name of its own'):
        load(tmp_path / "twice.parquet", **SMALL)
    dates = pa.array(range(40), pa.date32())
    pq.write_table(pa.table({"when": dates, "x": range(40), "label": ["a", "b"] * 20}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: column when \(data.numeric\) is of type date32\[day\], which is"):
        load(tmp_path / "a.parquet", numeric=["when"], **SMALL)


@pytest.mark.parametrize("length", [2**40, 2**64 - 1])
def test_a_record_that_says_it_is_enormous(load: Load, tmp_path: Path, length: int) -> None:
    # With checksums that agree: nobody's mistake. TensorFlow would end the process.
    import google_crc32c

    def checksum(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    head = struct.pack("<Q", length)
    (tmp_path / "a.tfrecord").write_bytes(head + checksum(head) + b"x" * 100)
    with pytest.raises(UserError, match=r"a.tfrecord record 1 is damaged"):
        load(tmp_path / "a.tfrecord", **SMALL)


def test_compressed_tfrecord_is_refused(load: Load, tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.tfrecord.gz").write_bytes(gzip.compress(b"anything"))
    with pytest.raises(UserError, match=r"a.tfrecord.gz is compressed, and there is no way into its middle; unpack it"):
        load(tmp_path / "a.tfrecord.gz", **SMALL)
