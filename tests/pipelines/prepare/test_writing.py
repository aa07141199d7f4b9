"""Examples, kinds and contents, without Apache Beam."""

import importlib.util

import pytest
import tensorflow as tf

from pipelines.prepare.__main__ import main
from pipelines.prepare.content import content_key, shard_of, split_of
from pipelines.prepare.report import quantiles
from pipelines.prepare.writing import KINDS, example, kind_of


def test_an_example_is_the_one_of_tensorflow():
    values = {"文": "好书" * 100, "b": b"\xff\x00", "i": -7, "big": 2**62, "f": 0.1, "none": None}
    expected = tf.train.Example()
    feature = expected.features.feature
    feature["文"].bytes_list.value.append(("好书" * 100).encode())
    feature["b"].bytes_list.value.append(b"\xff\x00")
    feature["i"].int64_list.value.append(-7)
    feature["big"].int64_list.value.append(2**62)
    feature["f"].float_list.value.append(0.1)
    feature["none"].float_list.SetInParent()  # which says what is missing
    kinds = {"文": "text", "b": "bytes", "i": "int", "big": "int", "f": "float", "none": "float"}
    assert tf.train.Example.FromString(example(values, kinds)) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", "int"), (" -12 ", "int"), ("0", "int"), (5, "int"), ("1.5", "float"), (".5", "float"), ("1e5", "float"),
        ("-1.5E-3", "float"), (1.0, "float"), (2**63, "text"),
        ("12345678901234567890", "text"), ("+1", "float"), ("3.", "float"), ("007", "text"), ("nan", "text"),
        ("1-2", "text"), ("e5", "text"), (".", "text"), ("", "text"), ("１", "text"), (b"x", "bytes"),
    ],
)  # fmt: skip
def test_what_a_value_needs(value, kind):
    assert KINDS[kind_of(value)] == kind


def test_content_decides_on_split_and_shard():
    keys = [content_key({"text": f"text {index}", "label": index % 2}, "text", "label", 42) for index in range(10_000)]
    splits = [split_of(key, 0.1, 0.2) for key in keys]
    assert splits.count("validation") == pytest.approx(1_000, abs=100)
    assert splits.count("test") == pytest.approx(2_000, abs=130)
    # A split's contents are spread evenly over the shards.
    shards = [shard_of(key, 4) for key, split in zip(keys, splits, strict=True) if split == "test"]
    assert all(shards.count(shard) == pytest.approx(500, abs=80) for shard in range(4))
    same = [{"text": "Good  BOOK\n", "label": 1}, {"text": "Ｇood book", "label": 0, "id": 7}]
    assert len({content_key(row, "text", "label", 42) for row in same}) == 1
    # Without a text column all columns count, except the label and missing ones.
    table = [{"a": "1", "b": None, "label": "x"}, {"a": "1", "label": "y"}, {"a": "1", "b": "2", "label": "x"}]
    assert len({content_key(row, None, "label", 42) for row in table}) == 2
    assert content_key(same[0], "text", None, 1) != content_key(same[0], "text", None, 2)


def test_quantiles_of_a_histogram():
    found = quantiles({1: 1, 2: 49, 3: 45, 10: 5})
    assert found == {
        "min": 1, "p05": 2, "p25": 2, "median": 2, "p75": 3, "p95": 3, "max": 10, "mean": 2.84
    }  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed")
def test_a_missing_package_is_told_with_its_extra(tmp_path, capsys):
    assert main(["--input", "x.csv", "--output", str(tmp_path / "out")]) == 2
    assert "needs the package apache_beam, which is not installed here: `make beam` makes .venv-beam" in (
        capsys.readouterr().err
    )
