"""Batches of files of examples: order, streams, replicas, starting anywhere."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.shards.data import StreamedData

FORMATS = ("tfrecord", "parquet", "arrayrecord")
NUM = 1_201  # examples in the files of conftest.py

Load = Callable[..., StreamedData]


def numbers(dataset: Iterable[Any]) -> list[list[int]]:
    """The example in each row of each element."""
    return [np.asarray(element[0]["features"])[:, 0].astype(int).tolist() for element in dataset]


def context(worker: int, workers: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(workers, worker, replicas)


@pytest.fixture(scope="module")
def by_format(load: Load, files: dict[str, str]) -> dict[str, StreamedData]:
    split = {"validation": 0.1, "test": 0.2}
    return {name: load(files[name], normalization="none", split=split) for name in FORMATS}


@pytest.fixture(params=FORMATS)
def data(request: pytest.FixtureRequest, by_format: dict[str, StreamedData]) -> StreamedData:
    return by_format[request.param]


@pytest.fixture(scope="module")
def some(load: Load, files: dict[str, str]) -> StreamedData:
    """One format is enough where the order alone is looked at."""
    return load(files["arrayrecord"], normalization="none", shuffle_seed=5, split={"validation": 0.0, "test": 0.0})


def test_an_epoch_shows_examples_once_with_their_labels_and_drops_the_rest(data: StreamedData) -> None:
    batches = list(data.train())
    shown = np.concatenate(numbers(batches))
    assert np.concatenate([label for _, label in batches]).tolist() == (shown % 3 == 0).astype(int).tolist()
    assert data.steps_per_epoch == data.info.counts["train"] // 32
    assert len(shown) == len(set(shown)) == data.steps_per_epoch * 32


def test_splits_hold_every_example_once_with_its_label(data: StreamedData) -> None:
    assert sum(data.info.counts.values()) == NUM
    assert [round(data.info.counts[split] / NUM, 1) for split in ("train", "validation", "test")] == [0.7, 0.1, 0.2]
    seen = []
    for split in ("train", "validation", "test"):
        batches = list(data.evaluation(split))
        shown = np.concatenate(numbers(batches))
        labels = np.concatenate([label for _, label, _ in batches])
        assert len(shown) == data.info.counts[split]
        assert labels.tolist() == (shown % 3 == 0).astype(int).tolist(), "classes are no, yes"
        seen += shown.tolist()
    assert sorted(seen) == list(range(NUM))


def test_an_epoch_can_start_anywhere(data: StreamedData) -> None:
    assert numbers(data.train(epoch=2, step=17)) == numbers(data.train(epoch=2))[17:]


def test_an_epoch_can_start_anywhere_in_a_window(some: StreamedData) -> None:
    whole = numbers(some.train(epoch=2))
    # Within a window of sixteen batches, at its end, and in the last one, which is not full.
    for step in (1, 16, 36):
        assert numbers(some.train(epoch=2, step=step)) == whole[step:]


def test_the_end_of_an_epoch_is_a_place_to_start_too(some: StreamedData) -> None:
    last = some.steps_per_epoch
    assert numbers(some.train(0, last)) == []
    assert numbers(some.train(0, last, epochs=2)) == numbers(some.train(1))
    with pytest.raises(ValueError, match=f"step {last + 1} is not within the epoch's {last} steps"):
        some.train(0, last + 1)


@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 2), (2, 4)])
def test_replicas_together_see_the_batch_of_one_process(some: StreamedData, workers: int, replicas: int) -> None:
    step = 25
    shards = [numbers(some.train(1, step, context(worker, workers, replicas))) for worker in range(workers)]
    local = replicas // workers
    joined = [
        [row for shard in shards for element in shard[s * local : (s + 1) * local] for row in element]
        for s in range(len(shards[0]) // local)
    ]
    assert joined == numbers(some.train(1, step))
    assert {len(element) for shard in shards for element in shard} == {32 // replicas}


def test_one_dataset_can_hold_several_epochs(some: StreamedData) -> None:
    joined = numbers(some.train(epoch=1, step=30)) + numbers(some.train(epoch=2))
    assert numbers(some.train(epoch=1, step=30, epochs=2)) == joined


def test_epochs_and_seeds_have_orders_of_their_own(some: StreamedData, load: Load, files: dict[str, str]) -> None:
    first, second = (np.concatenate(numbers(some.train(epoch))) for epoch in range(2))
    assert (first != second).any()
    options = {"normalization": "none", "split": {"validation": 0.0, "test": 0.0}}
    other = load(files["arrayrecord"], shuffle_seed=6, **options)
    assert (np.concatenate(numbers(other.train(0))) != first).any()


def test_the_order_does_not_depend_on_the_format_where_blocks_are_alike(by_format: dict[str, StreamedData]) -> None:
    assert numbers(by_format["tfrecord"].train(3)) == numbers(by_format["arrayrecord"].train(3))


def test_over_the_epochs_every_example_is_left_out_at_times(load: Load, files: dict[str, str]) -> None:
    data = load(files["arrayrecord"], batch_size=800, streams=4, normalization="none", split={"test": 0.0})
    everything = set(np.concatenate(numbers(data.evaluation("train"))).tolist())
    shown = [set(np.concatenate(numbers(data.train(epoch)))) for epoch in range(3)]
    assert data.steps_per_epoch == 1
    left_out = [everything - each for each in shown]
    assert all(left_out)
    assert len(set().union(*left_out)) > len(left_out[0])


def test_batches_have_rows_of_every_stream_and_the_window_is_mixed(some: StreamedData) -> None:
    # 1,201 examples in 8 streams of 150 or 151 consecutive records; record n of file f is number 3 n + f.
    per_file = [len(range(file, NUM, 3)) for file in range(3)]
    record = {3 * n + file: sum(per_file[:file]) + n for file in range(3) for n in range(per_file[file])}
    bounds = np.arange(9) * NUM // 8
    for shown in numbers(some.train(4)):
        streams = np.searchsorted(bounds, [record[number] for number in shown], side="right") - 1
        assert streams.tolist() == np.repeat(np.arange(8), 4).tolist()
    places = np.array([[record[number] for number in shown[:4]] for shown in numbers(some.train(4))]).ravel()
    correlations = [np.corrcoef(places[:-1], places[1:])[0, 1]]
    assert abs(np.mean(correlations)) < 5 / np.sqrt(len(places))


def test_neighbouring_epochs_have_nothing_to_do_with_each_other(some: StreamedData) -> None:
    shown = np.concatenate(numbers(some.train(0, epochs=8))).reshape(8, -1)
    orders = [np.argsort(order) for order in shown]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(orders)]
    # Within a stream only: which stream a place belongs to never changes, so places of one stream are compared.
    assert abs(np.mean(correlations)) < 6 / np.sqrt(1152 * len(correlations))


def test_without_shuffling_streams_come_in_their_order(load: Load, files: dict[str, str]) -> None:
    options = {"normalization": "none", "split": {"validation": 0.0, "test": 0.0}, "shuffle": False}
    one = load(files["parquet"], streams=1, **options)
    in_order = np.concatenate([np.arange(file, NUM, 3) for file in range(3)])
    assert np.concatenate(numbers(one.train(3))).tolist() == in_order[: one.steps_per_epoch * 32].tolist()
    two = load(files["parquet"], streams=2, **options)
    assert numbers(two.train())[0] == [*in_order[:16], *in_order[NUM // 2 : NUM // 2 + 16]]


@pytest.mark.parametrize("workers", [1, 4])
def test_evaluation_shows_every_example_once_over_all_workers(some: StreamedData, workers: int) -> None:
    parts = [list(some.evaluation("train", context(worker, workers, 4))) for worker in range(workers)]
    for part in parts:
        assert {element[1].shape[0] for element in part} == {8}
    steps = -(-NUM // 32)
    local = 4 // workers
    joined = [element for s in range(steps) for part in parts for element in part[s * local : (s + 1) * local]]
    weights = np.concatenate([weight for _, _, weight in joined])
    shown = np.concatenate(numbers(joined))
    assert shown[weights == 1].tolist() == np.concatenate(numbers(some.evaluation("train"))).tolist()
    assert len(weights) == steps * 32
    assert weights.sum() == NUM


def test_shapes_are_static_and_the_number_of_elements_is_known(some: StreamedData) -> None:
    features, label = some.train().element_spec
    assert features == {"features": tf.TensorSpec([32, 5], tf.float32)}
    assert label == tf.TensorSpec([32], tf.int32)
    assert some.train(step=2).cardinality() == 35
    assert some.train(0, 2, context(0, 1, 2)).cardinality() == 70
    assert some.evaluation("train", context(0, 2, 2)).element_spec[2] == tf.TensorSpec([16], tf.float32)
    assert some.evaluation("train").element_spec[2] == tf.TensorSpec([None], tf.float32)
    assert some.evaluation("train").cardinality() == 38


def test_under_a_strategy_two_replicas_see_one_batch(some: StreamedData) -> None:
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(devices[:2])
    dataset = strategy.distribute_datasets_from_function(lambda given: some.train(0, 33, given))
    shown = [
        np.concatenate([np.asarray(part) for part in strategy.experimental_local_results(label)])
        for _, label in dataset
    ]
    assert [labels.tolist() for labels in shown] == [label.numpy().tolist() for _, label in some.train(0, 33)]


def test_numbers_that_do_not_divide_are_named(some: StreamedData, load: Load, files: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"8 streams \(data.streams\) cannot be divided equally among 16 replicas; set"):
        some.train(input_context=context(0, 1, 16))
    with pytest.raises(UserError, match=r"data.batch_size 32 cannot be divided equally among 3 replicas"):
        some.train(input_context=context(0, 1, 3))
    with pytest.raises(
        UserError, match=r"data.batch_size 32 cannot be divided equally among 5 streams .*multiple of 5"
    ):
        load(files["tfrecord"], streams=5)


def test_making_the_next_epoch_traces_nothing(some: StreamedData) -> None:
    some.train()
    calls = []
    preprocess = some.preprocess
    some.preprocess = lambda raw: calls.append(1) or preprocess(raw)  # type: ignore[assignment]
    try:
        for epoch in range(4):
            some.train(epoch, step=epoch)
    finally:
        some.preprocess = preprocess
    assert not calls
