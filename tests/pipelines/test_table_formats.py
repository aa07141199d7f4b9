"""One table, many formats; and any cells at all."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.data import Data
from pipelines.errors import UserError
from pipelines.names import input_names
from pipelines.tables.reading import read


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.jsonl", "data.parquet", "DATA.CSV"])
def test_every_format_gives_the_same_data(
    tmp_path: Path, table_config: Callable, load_table: Callable, rows: list[tuple], name: str
) -> None:
    expected: Data = load_table()
    frame = pd.DataFrame(rows, columns=["age", "colour", "score", "label"])
    path = tmp_path / name
    if name.endswith(".tsv"):
        frame.to_csv(path, sep="\t", index=False)
    elif name.endswith(".jsonl"):
        frame.to_json(path, orient="records", lines=True)
    elif name.endswith(".parquet"):
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    import pipelines

    data = pipelines.load(table_config(path=name))
    assert data.info == expected.info
    for split in ("train", "test"):
        for column, values in data.examples(split).features.items():
            np.testing.assert_array_equal(values, expected.examples(split).features[column])


def test_a_delimiter_of_ones_own(load_table: Callable, as_csv: Callable) -> None:
    assert load_table(as_csv().replace(",", ";"), delimiter=";").info == load_table().info


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_encodings(load_table: Callable, as_csv: Callable, encoding: str) -> None:
    text = as_csv().replace("red", "红").replace("age", "年龄")
    data = load_table(text.encode(encoding), encoding="gb18030" if encoding == "gb18030" else "utf-8")
    assert data.preprocess.feature_names == ("年龄", "score", "colour=blue", "colour=红")


def test_windows_line_ends_and_blank_lines_do_not_count(load_table: Callable, as_csv: Callable) -> None:
    assert load_table(as_csv().replace("\n", "\r\n\r\n")).info == load_table().info


def test_json_keeps_written_forms_and_nulls(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"a": 1, "b": true, "c": "x", "d": [1, 2.50], "e": {"f": "g"}}\n\n{"a": 1.0, "b": null, "c": ""}\n'
    )
    table = read(tmp_path / "a.jsonl")
    assert table.cells("a") == ["1", "1.0"]
    assert table.cells("b")[0] == "true"
    assert np.isnan(table.cells("b")[1])
    assert table.cells("c") == ["x", ""]
    assert json.loads(table.cells("d")[0]) == [1, 2.5]
    assert json.loads(table.cells("e")[0]) == {"f": "g"}
    assert table.place(1) == f"{tmp_path / 'a.jsonl'} row 2", "blank lines shift lines by no more than a header does"


def test_parquet_keeps_whole_numbers_whole_beside_nulls(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "real": [0.1, 1e20, np.nan],
            "narrow": np.float32([0.1, 2, 3]),
            "flag": [True, False, True],
            "kind": pd.Categorical(["x", "y", "x"]),
            "when": pd.to_datetime(["2026-01-31"] * 3),
            "many": [[1, 2], [3], []],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    table = read(tmp_path / "a.parquet")
    assert table.cells("whole")[::2] == ["1", "3"]
    assert np.isnan(table.cells("whole")[1])
    assert [float(cell) for cell in table.cells("real")[:2]] == [0.1, 1e20]
    assert table.cells("narrow") == ["0.1", "2.0", "3.0"]
    assert table.cells("flag") == ["true", "false", "true"]
    assert table.cells("kind") == ["x", "y", "x"]
    assert table.cells("when")[0].startswith("2026-01-31")
    assert table.cells("many") == ["[1, 2]", "[3]", "[]"]
    assert table.lines is None


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cells_survive_csv(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([("first", "second"), *rows])
    (tmp_path / "any.csv").write_bytes(file.getvalue().encode())
    table = read(tmp_path / "any.csv")
    assert list(zip(table.cells("first"), table.cells("second"), strict=True)) == rows


@given(content=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["any.csv", "any.jsonl", "any.parquet"])
def test_any_bytes_are_a_table_or_the_users_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    message, num_rows = "", 1
    try:
        num_rows = len(read(tmp_path / name))
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert num_rows > 0


@given(columns=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6, unique=True))
def test_input_names_are_python_names_and_unique(columns: list[str]) -> None:
    names = input_names(columns)
    assert all(name.isidentifier() and name.isascii() and not name.startswith("_") for name in names)
    assert len({name.casefold() for name in names}) == len(columns)


def test_parquet_of_bytes_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [b"\xff\xfe"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"column a has the type binary, which cannot be read as text"):
        read(tmp_path / "a.parquet")
