"""Batches: order, sharding, starting anywhere, filling up, and what they hold."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from pipelines import MemoryData, batches
from pipelines.config import BatchingConfig, CleaningConfig, TextConfig
from pipelines.data import DatasetInfo, Examples
from pipelines.errors import UserError
from pipelines.sources.arrays import image_data
from pipelines.sources.texts import token_counts
from pipelines.text.characters import CharacterTokenizer
from pipelines.text.preprocess import TextPreprocessor
from pipelines.text.tokenizer import SPECIAL_TOKENS

NUM_TRAIN, NUM_TEST = 103, 37


def digits_like(num: int, seed: int = 0) -> Examples:
    """Images whose every pixel is the example's own number, so that a row shows which example it is."""
    pixels = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 2, 2, 1)).copy()
    return Examples({"pixels": pixels}, (np.arange(num) % 2).astype(np.int32), "made up", np.arange(num))


def make(batch_size: int = 8, **options) -> MemoryData:
    splits = {"train": digits_like(NUM_TRAIN), "validation": digits_like(9), "test": digits_like(NUM_TEST)}
    config = BatchingConfig(batch_size=batch_size, **options)
    data = image_data(splits, ["even", "odd"], "label", config)
    assert isinstance(data, MemoryData)
    return data


def numbers(dataset: tf.data.Dataset) -> list[list[int]]:
    """The example in each row of each element."""
    return [np.rint(np.asarray(element[0]["image"])[:, 0, 0, 0] * 255).astype(int).tolist() for element in dataset]


def context(worker: int, workers: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(workers, worker, replicas)


def test_an_epoch_shows_examples_once_and_drops_the_rest() -> None:
    data = make()
    shown = np.concatenate(numbers(data.train()))
    assert data.steps_per_epoch == 12
    assert len(shown) == len(set(shown)) == 96


def test_epochs_differ_and_repeat_themselves() -> None:
    data, again = make(shuffle_seed=5), make(shuffle_seed=5)
    first, second = numbers(data.train(epoch=0)), numbers(data.train(epoch=1))
    assert first != second
    assert (first, second) == (numbers(again.train(epoch=0)), numbers(again.train(epoch=1)))
    assert first != numbers(make(shuffle_seed=6).train(epoch=0))


def test_over_the_epochs_every_example_is_left_out_at_times() -> None:
    data = make()
    left_out = [set(range(NUM_TRAIN)) - set(np.concatenate(numbers(data.train(epoch)))) for epoch in range(5)]
    assert len(set().union(*left_out)) > 20


def test_the_order_is_well_mixed() -> None:
    data = make(batch_size=100)
    first = np.array([numbers(data.train(epoch))[0] for epoch in range(40)])
    # The mean of 40 × 10 draws from 0 … 102 has standard deviation 29.7 / 20.
    assert abs(first[:, :10].mean() - 51) < 5 * 1.5
    assert abs(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]) < 0.1


def test_without_shuffling_the_order_is_the_files() -> None:
    assert np.concatenate(numbers(make(shuffle=False).train(epoch=3))).tolist() == list(range(96))


@pytest.mark.parametrize("step", [0, 1, 7, 12])
def test_an_epoch_can_start_anywhere(step: int) -> None:
    data = make()
    assert numbers(data.train(epoch=2, step=step)) == numbers(data.train(epoch=2))[step:]


def test_one_dataset_can_hold_several_epochs() -> None:
    data = make()
    joined = numbers(data.train(epoch=1, step=10)) + numbers(data.train(epoch=2))
    assert numbers(data.train(epoch=1, step=10, epochs=2)) == joined
    halves = [numbers(data.train(1, 10, context(worker, 2, 2), epochs=2)) for worker in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == joined


def test_a_step_beyond_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="step 13 is not within the epoch's 12 steps"):
        make().train(step=13)


@pytest.mark.parametrize(("workers", "replicas"), [(1, 1), (1, 2), (2, 2), (2, 4), (4, 8)])
@pytest.mark.parametrize("step", [0, 5])
def test_replicas_together_see_the_batch_of_one_process(workers: int, replicas: int, step: int) -> None:
    data = make()
    shards = [numbers(data.train(1, step, context(worker, workers, replicas))) for worker in range(workers)]
    local = replicas // workers
    joined = [
        [row for shard in shards for element in shard[s * local : (s + 1) * local] for row in element]
        for s in range(len(shards[0]) // local)
    ]
    assert joined == numbers(data.train(1, step))
    assert {len(element) for shard in shards for element in shard} == {8 // replicas}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_evaluation_shows_every_example_once_over_all_workers(workers: int) -> None:
    data = make()
    seen: list[int] = []
    for worker in range(workers):
        for features, label, weight in data.test(context(worker, workers, 4)):
            assert features["image"].shape == (2, 2, 2, 1)
            shown = np.rint(features["image"].numpy()[:, 0, 0, 0] * 255).astype(int)
            assert (shown % 2 == label.numpy()).all()
            seen += shown[weight.numpy() == 1].tolist()
    assert sorted(seen) == list(range(NUM_TEST))


def test_evaluation_keeps_the_order(labels_of: Callable) -> None:
    data = make()
    assert np.concatenate(numbers(data.test())).tolist() == list(range(NUM_TEST))
    assert labels_of(data.test(), part=2).tolist() == [1.0] * NUM_TEST
    assert data.test() is data.evaluation("test"), "made once: every epoch ends with one"


def test_for_a_strategy_the_last_batch_is_filled_up_with_weight_0(labels_of: Callable) -> None:
    data = make()
    filled_up = data.test(context(0, 1, 1))
    assert np.concatenate(numbers(filled_up))[:NUM_TEST].tolist() == list(range(NUM_TEST))
    assert labels_of(filled_up, part=2).tolist() == [1.0] * NUM_TEST + [0.0] * 3


def test_an_empty_split_has_no_batches() -> None:
    splits = {"train": digits_like(NUM_TRAIN), "validation": digits_like(0), "test": digits_like(NUM_TEST)}
    data = image_data(splits, ["even", "odd"], "label", BatchingConfig(batch_size=8))
    assert data.info.counts["validation"] == 0
    assert list(data.validation()) == []
    assert len(data.examples("validation")) == 0


def test_shapes_are_static_and_types_as_the_contract_says() -> None:
    data = make()
    features, label = data.train().element_spec
    assert features == {"image": tf.TensorSpec([8, 2, 2, 1], tf.float32)}
    assert label == tf.TensorSpec([8], tf.int32)
    one = context(0, 1, 1)
    assert data.validation(one).element_spec[2] == tf.TensorSpec([8], tf.float32)
    assert data.validation().element_spec[2] == tf.TensorSpec([None], tf.float32)
    assert data.train(input_context=context(0, 2, 2)).element_spec[1].shape == [4]


def test_the_number_of_elements_is_known() -> None:
    data = make()
    assert data.train(step=2).cardinality() == 10
    assert data.test().cardinality() == 5


def test_under_a_strategy_two_replicas_see_one_batch() -> None:
    data = make()
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < 2:
        pytest.skip("the whole suite's conftest.py makes two devices of the CPU")
    strategy = tf.distribute.MirroredStrategy(devices[:2])
    dataset = strategy.distribute_datasets_from_function(lambda given: data.train(0, 0, given))
    shown = [
        np.concatenate([np.asarray(part) for part in strategy.experimental_local_results(label)])
        for _, label in dataset
    ]
    assert [labels.tolist() for labels in shown] == [label.numpy().tolist() for _, label in data.train(0)]


def test_a_batch_that_does_not_divide_names_both_numbers() -> None:
    with pytest.raises(UserError, match=r"data.batch_size 8 cannot be divided equally among 3 replicas.*such as 9"):
        make().train(input_context=context(0, 1, 3))


def test_fewer_examples_than_a_batch_names_both_numbers() -> None:
    with pytest.raises(UserError, match=r"103 training examples are fewer than one batch of 200; set data.batch_size"):
        make(batch_size=200)


def test_making_the_next_epoch_traces_nothing() -> None:
    data = make()
    calls = []
    preprocess = data.preprocess
    data.preprocess = lambda raw: calls.append(1) or preprocess(raw)  # type: ignore[assignment]
    for epoch in range(4):
        data.train(epoch, step=epoch)
    assert len(calls) == 1


def test_the_fingerprint_follows_examples_and_division() -> None:
    original = make().info.fingerprint
    assert original == make(shuffle_seed=9, batch_size=4).info.fingerprint
    splits = {"train": digits_like(NUM_TRAIN), "validation": digits_like(9), "test": digits_like(NUM_TEST)}
    splits["train"].features["pixels"][5, 1, 1, 0] += 1
    assert image_data(splits, ["even", "odd"], "label", BatchingConfig(batch_size=8)).info.fingerprint != original
    splits["train"].features["pixels"][5, 1, 1, 0] -= 1
    splits["validation"], splits["test"] = splits["test"], splits["validation"]
    assert image_data(splits, ["even", "odd"], "label", BatchingConfig(batch_size=8)).info.fingerprint != original


def test_examples_of_any_file_come_in_batches() -> None:
    data = make()
    examples = digits_like(5)
    labelled = list(batches(examples, data.preprocess, data.info, 4))
    assert [len(element) for element in labelled] == [3, 3]
    unlabelled = Examples(examples.features, None, examples.origin, examples.rows)
    features, weight = list(batches(unlabelled, data.preprocess, data.info, 4))[1]
    assert features["image"].shape == (1, 2, 2, 1)
    assert weight.numpy().tolist() == [1]
    _, weight = list(batches(unlabelled, data.preprocess, data.info, 4, context(0, 1, 1)))[1]
    assert weight.numpy().tolist() == [1, 0, 0, 0]


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    data = make()
    orders = {tuple(np.concatenate(numbers(data.train(epoch=epoch))).tolist()) for epoch in range(600)}
    assert len(orders) == 600
    # Neighbouring epochs have nothing to do with each other: correlations are at chance, 1 / sqrt(n).
    first = [np.argsort(np.concatenate(numbers(data.train(epoch=epoch)))) for epoch in range(40)]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(first)]
    assert abs(np.mean(correlations)) < 4 / np.sqrt(len(first[0]) * len(correlations))


# --- batches of similar length

NUM_TEXTS, TEXT_BATCH = 211, 8


def texts_like(num: int, longest: int = 60) -> Examples:
    """Texts "a…a" of different lengths; row i has label i % 2, and its number is what is found in `rows`."""
    lengths = np.random.default_rng(0).integers(1, longest, num)
    texts = np.array([b"a" * length for length in lengths], object)
    return Examples({"text": texts}, np.arange(num, dtype=np.float32), "made up", np.arange(num))


def make_texts(bucket_batches: int = 5, **options) -> MemoryData:
    tokenizer = CharacterTokenizer([*SPECIAL_TOKENS.values(), "a"])
    preprocess = TextPreprocessor(tokenizer, 64, "plain", CleaningConfig())
    splits = {"train": texts_like(NUM_TEXTS), "validation": texts_like(9), "test": texts_like(37)}
    info = DatasetInfo("regression", dict.fromkeys(preprocess.input_names, (None,)), {}, {})
    config = TextConfig(batch_size=TEXT_BATCH, bucket_batches=bucket_batches, **options)
    return MemoryData(info, preprocess, splits, config, token_counts(preprocess, splits["train"].features["text"]))


def text_numbers(dataset: tf.data.Dataset) -> list[list[int]]:
    return [element[1].numpy().astype(int).tolist() for element in dataset]


def lengths_of(dataset: tf.data.Dataset) -> list[np.ndarray]:
    return [element[0]["padding_mask"].numpy().sum(axis=1) for element in dataset]


@pytest.mark.parametrize("bucket_batches", [1, 4, 5, 26, 1000])
def test_bucketed_epochs_show_every_example_once_at_most(bucket_batches: int) -> None:
    data = make_texts(bucket_batches)
    assert data.steps_per_epoch == 26
    shown = np.concatenate(text_numbers(data.train(2)))
    assert len(shown) == len(set(shown)) == 208
    plain = make_texts(0)
    for window in range(0, 26, bucket_batches):
        # A window holds the same examples as it would without buckets.
        rows = slice(window * TEXT_BATCH, min(window + bucket_batches, 26) * TEXT_BATCH)
        assert set(shown[rows]) == set(np.concatenate(text_numbers(plain.train(2)))[rows])


def test_batches_are_of_similar_length() -> None:
    def spread(data: MemoryData) -> float:
        return float(np.mean([np.ptp(lengths) for lengths in lengths_of(data.train())]))

    assert spread(make_texts(26)) < 4
    assert spread(make_texts(5)) < 15
    assert spread(make_texts(0)) > 40
    for features, _ in make_texts(26).train():
        longest = int(features["padding_mask"].numpy().sum(axis=1).max())
        assert features["token_ids"].shape == (8, -(-longest // 8) * 8)


def test_long_and_short_batches_come_in_random_order() -> None:
    data = make_texts(26)
    means = np.array([[lengths.mean() for lengths in lengths_of(data.train(epoch))] for epoch in range(12)])
    assert len({tuple(np.argsort(row)) for row in means}) == 12
    correlations = [np.corrcoef(row, np.arange(26))[0, 1] for row in means]
    assert abs(np.mean(correlations)) < 4 / np.sqrt(26 * 12)


def test_bucketed_epochs_differ_and_repeat_themselves() -> None:
    data, again = make_texts(shuffle_seed=5), make_texts(shuffle_seed=5)
    first = text_numbers(data.train(0))
    assert first == text_numbers(again.train(0))
    assert first != text_numbers(data.train(1))
    assert first != text_numbers(make_texts(shuffle_seed=6).train(0))


def test_a_bucketed_epoch_can_start_anywhere() -> None:
    data = make_texts()
    whole = text_numbers(data.train(epoch=3, epochs=2))
    for step in (0, 1, 4, 5, 25, 26):
        assert text_numbers(data.train(epoch=3, step=step, epochs=2)) == whole[step:]


@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 2), (2, 4)])
def test_replicas_together_see_the_bucketed_batch_of_one_process(workers: int, replicas: int) -> None:
    data = make_texts()
    shards = [text_numbers(data.train(1, 7, context(worker, workers, replicas))) for worker in range(workers)]
    local = replicas // workers
    joined = [
        [row for shard in shards for element in shard[s * local : (s + 1) * local] for row in element]
        for s in range(len(shards[0]) // local)
    ]
    assert joined == text_numbers(data.train(1, 7))


def test_without_shuffling_there_are_no_buckets() -> None:
    assert np.concatenate(text_numbers(make_texts(shuffle=False).train())).tolist() == list(range(208))


def test_bucketed_batches_have_static_rows() -> None:
    features, _ = make_texts().train().element_spec
    assert features["token_ids"] == tf.TensorSpec([8, None], tf.int32)
    assert make_texts().train(input_context=context(0, 2, 2)).element_spec[0]["token_ids"].shape[0] == 4
    assert make_texts().train(step=2).cardinality() == 24
