"""Every mistake in a table is one line that names the place and the remedy."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines
from pipelines.errors import MissingFileError, UserError

Change = Callable[[list[tuple]], list[tuple]]


def cell(row: int, column: int, value: object) -> Change:
    """Puts a value into a cell; rows from 1 as in messages."""

    def change(rows: list[tuple]) -> list[tuple]:
        return [
            (*old[:column], value, *old[column + 1 :]) if number == row else old
            for number, old in enumerate(rows, start=1)
        ]

    return change


def everywhere(column: int, value: Callable[[int], object]) -> Change:
    return lambda rows: [(*old[:column], value(i), *old[column + 1 :]) for i, old in enumerate(rows)]


CELLS = [
    (
        cell(17, 0, "abc"),
        {"numeric": ["age"]},
        r'data.csv row 17, column age: "abc" is not a number; .*data.categorical',
    ),
    (cell(17, 0, "1_000"), {"numeric": ["age"]}, r'row 17, column age: "1_000" is not a number'),
    (cell(5, 2, ""), {}, r"row 5, column score: the cell is empty or NaN; .*data.missing to mean"),
    (cell(5, 2, "NaN"), {}, r"row 5, column score: the cell is empty or NaN"),
    (cell(5, 1, ""), {}, r"row 5, column colour: the cell is empty or NaN"),
    (cell(5, 2, "inf"), {}, r"row 5, column score: inf is not finite"),
    (cell(5, 2, "-inf"), {"missing": "mean"}, r"row 5, column score: -inf is not finite"),
    (cell(5, 2, "1e39"), {}, r"row 5, column score: 1e\+39 is beyond what float32 can hold \(3.4e\+38\)"),
    (cell(5, 3, ""), {}, r"row 5, column label: the label is empty"),
    (cell(5, 3, "maybe"), {}, r'class "maybe" has 1 example, and a stratified division into 3 splits needs at least 3'),
    (everywhere(0, lambda i: ""), {}, r"column age is empty in every training row; list it under data.ignore"),
    (
        everywhere(0, lambda i: ""),
        {"numeric": ["age"], "missing": "mean"},
        r"column age is empty in every training row",
    ),
    (
        everywhere(1, lambda i: ""),
        {"categorical": ["colour"], "missing": "mean"},
        r"column colour is empty in every tr",
    ),
    (
        everywhere(0, lambda i: "x" if i % 5 == 1 else i),
        {},
        r'row \d+, column age: "x" is not a number, and 3\d cells of',
    ),
    (cell(17, 0, "abc"), {}, r'row 17, column age: "abc" is not a number'),
    (everywhere(0, lambda i: 1.7e9 + i), {}, r"column age has values near 1.7e\+09 .* float32.* steps of 128 there"),
    (everywhere(3, lambda i: "yes"), {}, r'the training examples have one class only, "yes" in label'),
    (
        cell(5, 3, "much"),
        {"label": "label", "task": "regression"},
        r'the label "(no|yes)" is not a number, and data.task',
    ),
    (lambda rows: rows, {"label": "lable"}, r'has no column "lable" \(data.label\); did you mean "label"\?'),
    (lambda rows: rows, {"numeric": ["agee"]}, r'has no column "agee" \(data.numeric\); did you mean "age"\?'),
    (lambda rows: rows, {"ignore": ["zzz"]}, r'has no column "zzz" \(data.ignore\); known are "age", "colour"'),
    (
        lambda rows: rows,
        {"numeric": ["age"], "categorical": ["age"]},
        r'"age" is named in data.numeric and in data.cat',
    ),
    (lambda rows: rows, {"numeric": ["age", "age"]}, r'"age" is named in data.numeric and in data.numeric'),
    (lambda rows: rows, {"categorical": ["label"]}, r'"label" is named in data.label and in data.categorical'),
    (lambda rows: rows, {"ignore": ["age", "score", "colour"]}, r"no feature column is left beside the label label"),
    (
        lambda rows: rows,
        {"batch_size": 64},
        r"42 training examples are fewer than one batch of 64; set data.batch_size",
    ),
    (lambda rows: rows[:5], {}, r"the validation split would be empty|needs at least 3"),
    (lambda rows: [], {}, r"has a header and no rows"),
    (lambda rows: rows, {"max_memory_gb": 1e-7}, r"takes at least .* GiB of memory, and data.max_memory_gb is 1e-07"),
]


@pytest.mark.parametrize(("change", "options", "message"), CELLS)
def test_wrong_cells_and_columns(
    load_table: Callable, as_csv: Callable, rows: list[tuple], change: Change, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_table(as_csv(change(rows)), **options)
    assert "\n" not in str(caught.value)


def test_identifiers_are_not_taken_for_categories(load_table: Callable, as_csv: Callable, rows: list[tuple]) -> None:
    many = [(i, f"Mr {i}", i, "yes" if i % 2 else "no") for i in range(200)]
    with pytest.raises(UserError, match=r"column colour has 140 different values in 140 training rows.*data.ignore"):
        load_table(as_csv(many))
    assert len(load_table(as_csv(many), categorical=["colour"]).preprocess.feature_names) == 140


TEXTS = [
    ("data.csv", "", r"data.csv is empty; a header"),
    ("data.csv", "\n\n", r"data.csv is empty"),
    ("data.csv", "a,b\n", r"data.csv has a header and no rows"),
    ("data.csv", "a,b,a\n1,2,3\n", r'columns 1 and 3 of the header are both named "a"'),
    ("data.csv", "a,,b\n1,2,3\n", r"column 2 of the header has no name \(pandas writes"),
    ("data.csv", "a,b\n1,2\n3\n", r"row 2 \(line 3\) has 1 cells and the header has 2 \(\"a\", \"b\"\); put quotes"),
    ("data.csv", "a,b\n1,2\n\n3,4,5\n", r"row 2 \(line 4\) has 3 cells and the header has 2"),
    ("data.csv", 'a,b\n1,"2\n', r"data.csv line 2: unexpected end of data"),
    ("data.csv", 'a,b\n1,"2" x\n', r"data.csv line 2: .*; a cell with quotes in it is written"),
    (
        "data.csv",
        "a,b\n1,x\n2,中\n".encode("gb18030"),
        r"line 3 .*byte 0xd6 at offset 10 is not utf-8;.*encoding: gb18030",
    ),
    ("data.jsonl", "", r"data.jsonl is empty; one JSON object a line"),
    ("data.jsonl", '{"a": 1}\n{"a": }\n', r"data.jsonl line 2 is not valid JSON: Expecting value at column 7"),
    ("data.jsonl", '{"a": 1}\n[1]\n', r"data.jsonl line 2 is no JSON object"),
    ("data.jsonl", '{"a": 1}\n{"a": 2, "b": 3}\n', r'line 2 has the key "b", which the first object has not'),
    ("data.jsonl", '{"a": 1, "a": 2}\n', r'line 1 has the key "a" twice'),
    ("data.jsonl", "[" * 100_000 + "\n", r"line 1 is nested too deeply|line 1 is not valid JSON"),
    ("data.parquet", "no", r"data.parquet is no Parquet file, or a damaged one"),
    ("data.xlsx", "no", r'data.xlsx ends in ".xlsx"; tables are read from files that end in ".csv", ".tsv"'),
]


@pytest.mark.parametrize(("name", "text", "message"), TEXTS)
def test_wrong_files(load_table: Callable, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_table(text, path=name, label="a")
    assert "\n" not in str(caught.value)


def test_gb18030_that_is_not(load_table: Callable) -> None:
    with pytest.raises(
        UserError, match=r"byte 0xff at offset 4 is not gb18030; if the file is utf-8, set data.encoding"
    ):
        load_table(b"a,b\n\xff,1\n", encoding="gb18030")


def test_a_missing_file_and_what_looks_like_it(write: Callable, table_config: Callable) -> None:
    write("data.csv")
    with pytest.raises(MissingFileError, match=r'dta.csv \(data.path\) is not there; did you mean "data.csv"\?'):
        pipelines.load(table_config(path="dta.csv"))
    with pytest.raises(MissingFileError, match=r"nowhere/a.csv \(data.path\) is not there: there is no folder"):
        pipelines.load(table_config(path="nowhere/a.csv"))
    with pytest.raises(
        MissingFileError, match=r'quite another.csv \(data.test_path\) is not there; files there: "data.csv"'
    ):
        pipelines.load(table_config(test_path="quite another.csv"))


def test_a_folder_is_no_file(tmp_path: Path, table_config: Callable) -> None:
    (tmp_path / "data.csv").mkdir()
    with pytest.raises(UserError, match=r"data.csv \(data.path\) is a folder; a file was expected"):
        pipelines.load(table_config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(write: Callable, table_config: Callable) -> None:
    write().chmod(0)
    with pytest.raises(UserError, match="no permission to read"):
        pipelines.load(table_config())


def test_a_label_that_training_has_not(
    write: Callable, load_table: Callable, as_csv: Callable, rows: list[tuple]
) -> None:
    write("test.csv", as_csv([*rows[:3], (*rows[3][:3], "maybe")]))
    with pytest.raises(
        UserError,
        match=r'test.csv row 4, column label: label "maybe" was not seen in training; the classes are "no", "yes"',
    ):
        load_table(test_path="test.csv")


def test_a_label_that_only_another_split_has(load_table: Callable, as_csv: Callable, rows: list[tuple]) -> None:
    # Without stratification the division depends on the seed and the number of rows alone.
    options = {"split": {"stratify": False}}
    tested = load_table(**options).examples("test").rows[0]
    with pytest.raises(UserError, match=rf'row {tested}, column label: label "maybe" was not seen in training'):
        load_table(as_csv(cell(tested, 3, "maybe")(rows)), **options)


def test_a_column_that_another_file_lacks(
    write: Callable, load_table: Callable, as_csv: Callable, rows: list[tuple]
) -> None:
    write("test.csv", as_csv(rows, "aeg,colour,score,label"))
    with pytest.raises(
        UserError, match=r'test.csv has no column "age" \(a feature of this run\); did you mean "aeg"\?'
    ):
        load_table(test_path="test.csv")


def test_messages_show_the_line_where_it_is_not_the_row(load_table: Callable) -> None:
    text = "a,b,label\n" + "".join(f'{i},"x\n\ny",{i % 2}\n' for i in range(29)) + 'oops,"x",1\n'
    with pytest.raises(UserError, match=re.escape('row 30 (line 89), column a: "oops" is not a number')):
        load_table(text, numeric=["a"])
