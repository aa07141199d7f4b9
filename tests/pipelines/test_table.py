"""Tables that are as they should be: columns, splits, labels, numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

import pipelines
from pipelines.data import Data, Examples
from pipelines.tables.preprocess import TablePreprocessor

Load = Callable[..., Data]


def model_input(data: Data, split: str = "train") -> np.ndarray:
    return np.asarray(data.preprocess(data.examples(split).features)["features"])


def preprocessor(data: Data) -> TablePreprocessor:
    assert isinstance(data.preprocess, TablePreprocessor)
    return data.preprocess


def original(data: Data, split: str, rows: list[tuple]) -> list[tuple]:
    """The rows of the file that a split's examples come from."""
    return [rows[number - 1] for number in data.examples(split).rows]


def test_fewer_training_rows_are_a_part_of_the_same_split(load_table: Load) -> None:
    whole, part = load_table(), load_table(train_examples=20)
    assert dict(part.info.counts) == {"train": 20, "validation": 6, "test": 12}
    assert part.info.class_counts == (10, 10)
    assert set(part.examples("train").rows) < set(whole.examples("train").rows)
    assert part.examples("test").rows.tolist() == whole.examples("test").rows.tolist()


def test_columns_are_told_apart_by_what_they_hold(load_table: Load) -> None:
    data = load_table()
    assert preprocessor(data).feature_names == ("age", "score", "colour=blue", "colour=red")
    assert data.info.inputs == {"features": (4,)}
    assert data.info.class_names == ("no", "yes")
    assert data.info.class_counts == (21, 21)
    assert dict(data.info.counts) == {"train": 42, "validation": 6, "test": 12}
    assert data.info.label_name == "label"


def test_columns_can_be_chosen(load_table: Load) -> None:
    assert preprocessor(load_table(numeric=["score"])).feature_names == ("score",)
    assert preprocessor(load_table(ignore=["age"])).feature_names == ("score", "colour=blue", "colour=red")
    ages = preprocessor(load_table(categorical=["age"], numeric=["score"])).feature_names
    assert ages[0] == "score"
    assert set(ages[1:]) < {f"age={age}" for age in range(20, 80)}, "whole numbers keep their written form"


@pytest.mark.parametrize(("normalization", "scaler"), [("z_score", StandardScaler), ("min_max", MinMaxScaler)])
def test_normalisation_equals_scikit_learns(
    load_table: Load, rows: list[tuple], normalization: str, scaler: type
) -> None:
    data = load_table(normalization=normalization)
    train = np.array([[row[0], row[2]] for row in original(data, "train", rows)], float)
    test = np.array([[row[0], row[2]] for row in original(data, "test", rows)], float)
    expected = scaler().fit(train).transform(test)
    np.testing.assert_allclose(model_input(data, "test")[:, :2], expected, rtol=1e-6, atol=1e-6)


def test_no_normalisation_leaves_numbers_as_they_are(load_table: Load, rows: list[tuple]) -> None:
    data = load_table(normalization="none")
    expected = [[row[0], row[2]] for row in original(data, "train", rows)]
    np.testing.assert_array_equal(model_input(data)[:, :2], np.array(expected, np.float32))


def test_categories_equal_scikit_learns_one_hot(load_table: Load, rows: list[tuple]) -> None:
    data = load_table()
    colours = [[row[1]] for row in original(data, "train", rows)]
    expected = OneHotEncoder(sparse_output=False).fit_transform(colours)
    np.testing.assert_array_equal(model_input(data)[:, 2:], expected)


@pytest.mark.parametrize(
    ("missing", "statistic"),
    [("mean", pd.Series.mean), ("median", pd.Series.median), ("most_frequent", lambda s: s.mode()[0])],
)
def test_missing_values_are_filled_from_the_training_split(
    load_table: Load, rows: list[tuple], as_csv: Callable, missing: str, statistic: Callable
) -> None:
    holes = [("" if i % 7 == 3 else row[0], "" if i % 5 == 2 else row[1], *row[2:]) for i, row in enumerate(rows)]
    data = load_table(as_csv(holes), missing=missing, normalization="none")
    train = original(data, "train", holes)
    filled = statistic(pd.Series([row[0] for row in train if row[0] != ""], dtype=float))
    expected = [filled if row[0] == "" else row[0] for row in train]
    np.testing.assert_array_equal(model_input(data)[:, 0], np.array(expected, np.float32))
    colour = [row[1] or "red" for row in train]  # red is the most frequent
    np.testing.assert_array_equal(model_input(data)[:, 3], [c == "red" for c in colour])


@pytest.mark.parametrize("written", ["", "NaN", "nan", "NA", "n/a", "null", "None", " "])
def test_what_counts_as_a_missing_number(load_table: Load, as_csv: Callable, rows: list[tuple], written: str) -> None:
    data = load_table(as_csv([(written, *rows[0][1:]), *rows[1:]]), missing="mean")
    assert np.isfinite(model_input(data)).all()
    assert preprocessor(data).feature_names[0] == "age"


def test_nothing_is_learned_from_the_test_rows(load_table: Load, as_csv: Callable, rows: list[tuple]) -> None:
    data = load_table(missing="mean")
    tested = set(data.examples("test").rows) | set(data.examples("validation").rows)
    changed = [
        (10_000 + i, "violet", 1e6, row[3]) if number in tested else row
        for i, (number, row) in enumerate(enumerate(rows, start=1))
    ]
    again = load_table(as_csv(changed), missing="mean")
    assert preprocessor(again).numeric == preprocessor(data).numeric
    assert preprocessor(again).categorical == preprocessor(data).categorical
    assert again.info.fingerprint != data.info.fingerprint
    np.testing.assert_array_equal(model_input(again), model_input(data))


def test_an_unknown_category_gives_zeros(load_table: Load) -> None:
    raw = {"age": np.float32([30]), "score": np.float32([0]), "colour": np.array(["violet"])}
    np.testing.assert_array_equal(np.asarray(load_table().preprocess(raw)["features"])[0, 2:], [0, 0])


def test_a_constant_column_gives_zeros(load_table: Load, as_csv: Callable, rows: list[tuple]) -> None:
    text = as_csv([(0.1, *row[1:]) for row in rows])
    for normalization in ("z_score", "min_max"):
        data = load_table(text, normalization=normalization)
        np.testing.assert_array_equal(model_input(data)[:, 0], 0)


def test_time_stamps_keep_their_digits(load_table: Load, as_csv: Callable, rows: list[tuple]) -> None:
    stamps = [1_700_000_000 + 86_400 * i for i in range(60)]
    data = load_table(as_csv([(stamp, *row[1:]) for stamp, row in zip(stamps, rows, strict=True)]))
    days = np.array([stamps[number - 1] for number in data.examples("train").rows], float)
    # float32 has steps of 128 seconds there; subtracting in float32 would lose no more, but scaling before would.
    np.testing.assert_allclose(model_input(data)[:, 0], (days - days.mean()) / days.std(), atol=128 / days.std())


def test_given_files_are_the_splits(write: Callable, load_table: Load, as_csv: Callable, rows: list[tuple]) -> None:
    write("valid.csv", as_csv(rows[:7]))
    write("test.csv", as_csv(rows[7:20]))
    data = load_table(as_csv(rows[20:]), validation_path="valid.csv", test_path="test.csv")
    assert dict(data.info.counts) == {"train": 40, "validation": 7, "test": 13}
    assert data.examples("test").rows.tolist() == list(range(1, 14))
    assert Path(data.examples("test").origin).name == "test.csv"
    carved = load_table(as_csv(rows[20:]), test_path="test.csv")
    assert dict(carved.info.counts) == {"train": 36, "validation": 4, "test": 13}


def test_a_split_may_be_left_out(load_table: Load) -> None:
    data = load_table(split={"validation": 0.0, "test": 0.5})
    assert dict(data.info.counts) == {"train": 30, "validation": 0, "test": 30}
    assert list(data.validation()) == []


def test_class_names_are_sorted_as_numbers_where_they_are(
    load_table: Load, as_csv: Callable, rows: list[tuple]
) -> None:
    for names in (("9", "10"), ("-1", "1"), ("b", "ä"), ("1.0", "10")):
        text = as_csv([(*row[:3], names[i % 2]) for i, row in enumerate(rows)])
        assert load_table(text).info.class_names == names


def test_white_space_around_labels_and_categories_does_not_count(
    load_table: Load, as_csv: Callable, rows: list[tuple]
) -> None:
    text = as_csv([(a, f" {b}\t" if i % 2 else b, c, f"{d} ") for i, (a, b, c, d) in enumerate(rows)])
    data = load_table(text)
    assert data.info.class_names == ("no", "yes")
    assert preprocessor(data).feature_names[2:] == ("colour=blue", "colour=red")
    np.testing.assert_array_equal(model_input(data), model_input(load_table()))


def test_regression_trains_on_the_z_score(load_table: Load, rows: list[tuple], labels_of: Callable) -> None:
    data = load_table(label="score", task="regression", ignore=["label"])
    targets = np.array([row[2] for row in original(data, "train", rows)])
    assert data.info.target_mean == pytest.approx(targets.mean())
    assert data.info.target_scale == pytest.approx(targets.std())
    assert (data.info.num_classes, data.info.class_counts) == (0, ())
    np.testing.assert_array_equal(data.examples("train").labels, targets.astype(np.float32))
    test = np.array([row[2] for row in original(data, "test", rows)])
    np.testing.assert_allclose(
        labels_of(data.test())[: len(test)], (test - targets.mean()) / targets.std(), rtol=1e-5, atol=1e-6
    )
    plain = load_table(label="score", task="regression", ignore=["label"], normalize_target=False)
    assert (plain.info.target_mean, plain.info.target_scale) == (0.0, 1.0)


def test_names_that_no_graph_takes_get_others(load_table: Load, as_csv: Callable, rows: list[tuple]) -> None:
    data = load_table(as_csv(rows, "sepal length (cm),颜色,class,label"))
    specs = data.preprocess.signatures["serving_default"]
    assert list(specs) == ["sepal_length_cm", "column_class", "column"]
    assert list(data.preprocess.served_names.values()) == ["sepal length (cm)", "class", "颜色"]
    assert preprocessor(data).feature_names == ("sepal length (cm)", "class", "颜色=blue", "颜色=red")
    assert set(data.examples("train").features) == set(specs)


def test_batches_are_what_the_preprocessor_gives(load_table: Load) -> None:
    data = load_table(shuffle=False)
    features, label = next(iter(data.train()))
    examples: Examples = data.examples("train")
    np.testing.assert_array_equal(features["features"], model_input(data)[:8])
    np.testing.assert_array_equal(label, examples.labels[:8])


def test_the_public_table_keeps_cells_as_they_are_written(write: Callable, table_config: Callable) -> None:
    path = write("other.csv", 'a,b\n007," x, ""y"" "\n1e5,\n')
    frame = pipelines.read_table(path, table_config())
    assert frame["a"].tolist() == ["007", "1e5"]
    assert frame["b"].tolist() == [' x, "y" ', ""]
    assert frame.index.tolist() == [1, 2]
