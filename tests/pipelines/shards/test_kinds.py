"""Tables, texts and images in files of examples: what is learned from them, and what batches hold."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipelines.remote import write_text_to
from pipelines.shards import write as command
from pipelines.shards.data import StreamedData
from pipelines.shards.statistics import NumericStatistics
from pipelines.stateless import random_keys
from pipelines.tables.fitting import fit

Load = Callable[..., StreamedData]
Write = Callable[..., str]

ALL = {"validation": 0.0, "test": 0.0}


def values_of(data: StreamedData, name: str) -> np.ndarray:
    return np.concatenate([np.asarray(element[0][name]) for element in data.evaluation("train")])


@pytest.mark.parametrize("missing", ["refuse", "mean", "median", "most_frequent"])
@pytest.mark.parametrize("normalization", ["none", "min_max", "z_score"])
def test_statistics_of_parts_are_those_of_the_whole(missing: str, normalization: str) -> None:
    values = np.random.default_rng(0).normal(1e3, 3.0, 1_000).round(1)
    if missing != "refuse":
        values[::7] = np.nan
    expected = fit({"x": values}, {}, missing=missing, normalization=normalization, origin="").numeric[0]
    statistics = NumericStatistics(sampled=missing in ("median", "most_frequent"))
    for start in range(0, 1_000, 93):
        part = values[start : start + 93]
        statistics.add(part, random_keys(np.arange(start, start + len(part))))
    found = statistics.fitted("x", "x", missing, normalization, "")
    for field in ("center", "scale", "fill"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-9)
    assert dataclasses.replace(found, center=(), scale=(), fill=()) == dataclasses.replace(
        expected, center=(), scale=(), fill=()
    )


@pytest.mark.parametrize("name", ["tfrecord", "parquet", "arrayrecord"])
def test_a_table_is_learned_from_its_training_examples(load: Load, files: dict[str, str], name: str) -> None:
    data = load(files[name], split={"validation": 0.2, "test": 0.0})
    assert data.preprocess.feature_names == ("number", "score", "colour=green", "colour=red", "colour=蓝")  # type: ignore[attr-defined]
    batches = list(data.evaluation("train"))
    training = np.concatenate([features["features"] for features, _, _ in batches])
    assert training[:, :2].mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    assert training[:, :2].std(axis=0) == pytest.approx(1.0, abs=1e-5)
    validation = np.concatenate([features["features"] for features, _, _ in data.validation()])
    assert abs(validation[:, :2].mean(axis=0)).max() > 1e-3, "they were not looked at"
    assert (training[:, 2:].sum(axis=1) == 1).all()
    assert data.info.class_names == ("no", "yes")
    assert data.info.class_counts == tuple(np.bincount(np.concatenate([y for _, y, _ in batches])))


def test_missing_values_are_filled_in(load: Load, write: Write) -> None:
    rows = [{"x": None if i % 4 == 1 else float(i % 4), "n": None if i == 7 else i, "label": i % 2} for i in range(64)]
    kinds = {"x": "float", "n": "int", "label": "int"}
    for name in ("tfrecord", "parquet"):
        data = load(write(rows, kinds, name, called=name), split=ALL, missing="mean", normalization="none")
        features = values_of(data, "features")
        assert features[1::4, 1] == pytest.approx(5 / 3)
        assert features[7, 0] == pytest.approx(np.mean([i for i in range(64) if i != 7]))
        assert data.info.class_names == ("0", "1")


def test_parquet_files_may_have_columns_of_different_types_of_a_kind(load: Load, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "data [v2] 中%20"
    folder.mkdir()
    texts = pa.array(["红", "blue"] * 20)
    for name, number, text in (
        ("a", pa.int32(), texts.dictionary_encode()), ("b", pa.int64(), texts.cast(pa.large_string())),
        ("c", pa.uint8(), texts.cast(pa.string_view())),
    ):  # fmt: skip
        columns = {"x": pa.array(range(40), number), "colour": text, "label": pa.array(["yes", "no"] * 20)}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=16)
    data = load("*.parquet", data_dir=folder, split=ALL, normalization="none", shuffle_window=64, streams=1)
    shown = np.concatenate([features["features"] for features, _ in data.train()])
    assert len(shown) == 96
    assert (shown[:, 1] == (shown[:, 0] % 2 == 1)).all(), "blue ones are odd"
    assert values_of(data, "features")[:, 0].tolist() == [*range(40)] * 3
    assert load("b.parquet", data_dir=folder, split=ALL).info.counts["train"] == 40


def test_regression_has_targets_in_their_own_units(load: Load, write: Write) -> None:
    rows = [{"x": float(i), "price": 100.0 + i} for i in range(96)]
    data = load(write(rows, {"x": "float", "price": "float"}), label="price", task="regression", split=ALL)
    assert data.info.target_mean == pytest.approx(147.5)
    assert data.info.target_scale == pytest.approx(np.arange(96).std())
    targets = np.concatenate([label for _, label, _ in data.evaluation("train")])
    assert targets == pytest.approx((np.arange(96) - 47.5) / np.arange(96).std(), abs=1e-6)
    assert data.examples("train").labels.tolist() == [100.0 + i for i in range(96)]


def test_examples_are_read_when_they_are_wanted(load: Load, files: dict[str, str]) -> None:
    data = load(files["tfrecord"])
    examples = data.examples("test")
    numbers, colours = examples.features["number"], examples.features["colour"]
    assert len(examples) == len(numbers) == data.info.counts["test"]
    whole = np.asarray(numbers)
    assert whole.dtype == np.float32
    assert (examples.labels == (whole % 3 == 0)).all()
    assert tf.constant(numbers[[5, 3]]).numpy().tolist() == whole[[5, 3]].tolist()
    assert [value.decode() for value in colours[2:4]] == [value.decode() for value in np.asarray(colours)[2:4]]
    assert np.asarray(numbers[[]]).shape == (0,)
    assert list(numbers) == whole.tolist()
    with pytest.raises(TypeError, match="by a slice or an array of indices"):
        numbers[3]
    # Records by their number among those of the files, which come in the order of their names.
    per_file = len(range(0, 1_201, 3))
    first_file = examples.rows <= per_file
    assert (whole[first_file] == 3 * (examples.rows[first_file] - 1)).all()


def test_nothing_is_read_again_until_a_file_changes(load: Load, write: Write) -> None:
    import os

    rows = [{"x": float(i), "label": i % 2} for i in range(64)]
    path = write(rows, {"x": "float", "label": "int"}, "parquet")
    first = load(path, split=ALL)
    content, stat = Path(path).read_bytes(), os.stat(path)
    # The same size and time: the survey does not look inside, where there is nothing to find now.
    Path(path).write_bytes(content[:4] + b"\0" * 100 + content[104:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load(path, split=ALL).info == first.info
    Path(path).write_bytes(content)
    again = load(path, split=ALL)
    assert again.info.fingerprint == first.info.fingerprint, "by content, not by time"
    assert load(path, batch_size=8, split={"test": 0.3}).info.fingerprint != first.info.fingerprint


TEXTS = [{"text": "好" * (1 + i % 40) + "坏"[: i % 2], "label": ["negative", "positive"][i % 2]} for i in range(512)]


def test_texts_of_similar_length_come_together(load: Load, write: Write) -> None:
    path = write(TEXTS, {"text": "bytes", "label": "bytes"})
    options = {"text": "text", "split": ALL, "tokenizer": {"min_count": 1}, "batch_size": 16}
    lengths = {}
    for batches in (0, 50):
        data = load(path, bucket_batches=batches, **options)
        shown = [features["padding_mask"].numpy().sum(axis=1) for features, _ in data.train()]
        assert sorted(np.concatenate(shown)) == sorted(len(row["text"]) for row in TEXTS)
        lengths[batches] = shown
    parts = [
        [features["padding_mask"].numpy().sum(axis=1) for features, _ in data.train(0, 0, context)]
        for context in (tf.distribute.InputContext(2, worker, 2) for worker in range(2))
    ]
    joined = [np.concatenate(pair).tolist() for pair in zip(*parts, strict=True)]
    assert joined == [each.tolist() for each in lengths[50]]
    spread = {batches: np.mean([np.ptp(each) for each in shown]) for batches, shown in lengths.items()}
    assert spread[50] < 8 < 25 < spread[0]
    means = [each.mean() for each in lengths[50]]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.8, "and batches come in random order"
    assert data.info.text is not None
    assert data.info.text.vocabulary_size == 5 + 2


def test_a_vocabulary_can_be_learned_from_a_part(load: Load, write: Write) -> None:
    rows = [{"text": chr(0x4E00 + i // 1024), "label": i % 2} for i in range(4096)]
    path = write(rows, {"text": "bytes", "label": "int"})
    tokenizer = {"min_count": 1}
    whole = load(path, text="text", split=ALL, tokenizer=tokenizer)
    half = load(path, text="text", split=ALL, tokenizer=tokenizer, vocabulary_examples=2048)
    sizes = [data.info.text.vocabulary_size for data in (whole, half)]  # type: ignore[union-attr]
    assert sizes == [9, 7]
    assert half.preprocess.tokenizer.vocabulary[5:] == (chr(0x4E00), chr(0x4E03)), "evenly spread"  # type: ignore[attr-defined]


def png(value: int) -> bytes:
    content: bytes = tf.io.encode_png(np.full((4, 4, 1), value, np.uint8)).numpy()
    return content


def test_images_are_varied_by_seed_epoch_and_example_alone(load: Load, write: Write) -> None:
    rows = [{"photo": png(i), "label": i % 2} for i in range(200)]
    path = write(rows, {"photo": "bytes", "label": "int"}, "parquet")
    plain = load(path, image="photo", split=ALL)
    assert plain.preprocess.shape == (4, 4, 1)  # type: ignore[attr-defined]
    unvaried, labels = (
        np.concatenate(parts) for parts in zip(*((f["image"], y) for f, y in plain.train(1)), strict=True)
    )
    values = (unvaried[:, 0, 0, 0] * 255).round().astype(int)
    assert len(set(values)) == len(values) == 192
    assert (values % 2 == labels).all()
    varied = load(path, image="photo", split=ALL, augmentation={"brightness": 0.5})
    batches = [features["image"].numpy() for features, _ in varied.train(1)]
    second = tf.distribute.InputContext(2, 1, 2)
    for batch, (features, _) in zip(batches[2:], varied.train(1, 2, second), strict=True):
        assert (batch[16:] == features["image"].numpy()).all()
    whole = np.concatenate(batches)
    assert (whole != unvaried).any()
    assert np.abs(whole[:, 0, 0, 0] / np.maximum(unvaried[:, 0, 0, 0], 1e-6)).max() <= 1.5 + 1e-5


@pytest.mark.parametrize("name", ["tfrecord", "parquet", "arrayrecord"])
def test_the_command_writes_what_is_read(
    load: Load, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "text,stars,price,code,label\n" + "".join(f"第{i}本,{i % 5},{i / 4},0{i},{i % 2}\n" for i in range(100))
    (tmp_path / "books.csv").write_text(text)
    arguments = ["--input", str(tmp_path / "books.csv"), "--output", str(tmp_path / "out"), "--format", name]
    assert command.main([*arguments, "--shards", "3"]) == 0
    kinds = "text (bytes), stars (int), price (float), code (bytes), label (int)"
    assert capsys.readouterr().out == f"{tmp_path}/out: 100 examples; columns: {kinds}\n"
    suffix = {"arrayrecord": "array_record"}.get(name, name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"examples-0000{i}-of-00003.{suffix}" for i in range(3)
    ]
    data = load(tmp_path / "out" / "*", split=ALL, numeric=["price", "stars"], categorical=["code"])
    examples = data.examples("train")
    prices = np.asarray(examples.features["price"])
    assert sorted(prices.tolist()) == [i / 4 for i in range(100)]
    assert sorted(prices.tolist()) != prices.tolist(), "they are shuffled once"
    assert [int(code) for code in np.asarray(examples.features["code"])] == (prices * 4).astype(int).tolist()
    assert examples.labels.tolist() == (prices * 4 % 2).astype(int).tolist()
    assert command.main(arguments) == 2
    assert "out exists already and is not overwritten" in capsys.readouterr().err


def test_the_command_reads_and_writes_in_a_store(
    load: Load, tmp_path: Path, new_bucket: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = new_bucket("s3")
    write_text_to(f"{bucket}/books.csv", "x,label\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    arguments = ["--input", f"{bucket}/books.csv", "--output", f"{bucket}/out/books", "--shards", "2"]
    assert command.main(arguments) == 0
    assert capsys.readouterr().out == f"{bucket}/out/books: 40 examples; columns: x (int), label (int)\n"
    data = load("books/*", data_dir=f"{bucket}/out", split=ALL)
    assert data.info.counts["train"] == 40
    assert command.main(arguments) == 2
    assert f"--output: {bucket}/out/books exists already and is not overwritten" in capsys.readouterr().err


def test_the_command_writes_a_folder_of_images(load: Load, tmp_path: Path) -> None:
    for index in range(80):
        path = tmp_path / "photos" / ("train" if index < 64 else "test") / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    arguments = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--shards", "2"]
    assert command.main(arguments) == 0
    names = ["test-00000-of-00002", "test-00001-of-00002", "train-00000-of-00002", "train-00001-of-00002"]
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == names
    options: dict[str, Any] = {"image": "image", "split": {"validation": 0.2}, "batch_size": 8}
    data = load(tmp_path / "out" / "train-*", test_path=str(tmp_path / "out" / "test-*"), **options)
    assert data.info.class_names == ("cat", "dog")
    assert data.info.counts["test"] == 16
    for features, label, _ in data.test():
        values = (features["image"].numpy()[:, 0, 0, 0] * 255).round().astype(int)
        assert (values % 2 == label.numpy()).all()
        assert values.min() >= 64


def test_the_command_refuses_what_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,2\n")
    base = ["--input", str(tmp_path / "a.csv"), "--output", str(tmp_path / "out")]
    for arguments, message in (
        (["--shards", "0"], "--shards: expected 1 to 500, received 0"),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0, received -1"),
        (["--as_text", "y"], 'a.csv has no column "y" (--as_text)'),
    ):
        assert command.main([*base, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command.main([*base, "--as_text", "x"]) == 0
    assert "x (bytes), label (int)" in capsys.readouterr().out
