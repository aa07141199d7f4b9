"""Pairs: what follows, or a part of another document, half and half, with nothing else that tells them apart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from pipelines.errors import UserError
from pipelines.text.pairs import Pairs
from pipelines.text.store import Store, StoreWriter, cached

SPECIAL = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
FIRST_ID = 5
CONTINUES = np.zeros(60_000, bool)


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[[list[list[int]]], Store]:
    """A store of documents with sentences of these lengths, in which every token has an id of its own."""

    def make(documents: list[list[int]]) -> Store:
        def build(folder: Path) -> None:
            number = FIRST_ID
            with StoreWriter(folder, {"tokens": np.uint16}) as writer:
                for lengths in documents:
                    writer.add(lengths, tokens=np.arange(number, number + sum(lengths)))
                    number += sum(lengths)

        return cached(tmp_path / "store", build)

    return make


def documents_of(num: int, seed: int = 0) -> list[list[int]]:
    """Documents as they are: most of a few sentences, some long, one in five of one sentence."""
    rng = np.random.default_rng(seed)
    return [
        [int(n) for n in rng.integers(2, 15, 1 if rng.random() < 0.2 else rng.geometric(0.25) + 1)] for _ in range(num)
    ]


def make(store: Store, length: int = 48, continues: np.ndarray = CONTINUES) -> Pairs:
    return Pairs(store, np.arange(len(store)), SPECIAL, continues, length, "the train split")


@pytest.mark.parametrize("length", [16, 48, 128])
def test_segments_are_what_they_should_be(store_of: Callable, length: int) -> None:
    documents = documents_of(300)
    store = store_of(documents)
    pairs = make(store, length)
    limits = [store.bounds(number) for number in range(len(documents))]
    for epoch in range(2):
        for pair in pairs.segments(np.arange(len(pairs)), 7, epoch):
            (first, middle), (second, last) = pair.first, pair.second
            low, high = limits[pair.document]
            assert low <= first < middle <= high
            low, high = limits[pair.partner]
            assert low <= second < last <= high
            assert middle - first + last - second <= length - 3
            starts = store.sentence_bounds(pair.partner)
            if len(starts) > 2:
                assert second in starts[1:]  # a sentence, and not the document's first
            if pair.is_next:
                assert middle == second
            else:
                assert pair.partner != pair.document


def test_a_document_that_fits_is_shown_whole(store_of: Callable) -> None:
    store = store_of([[3, 4, 5], [6, 7], [2, 2, 2]])
    pairs = make(store, 32)
    seen = [pair for epoch in range(300) for pair in pairs.segments(np.arange(3), 0, epoch) if pair.is_next]
    whole = [(pair.first[0], pair.second[1]) == store.bounds(pair.document) for pair in seen]
    assert 0.85 < np.mean(whole) < 1.0  # one in ten is made shorter
    assert {pair.second[0] for pair in seen if pair.document == 0} >= {3, 7}  # divided between all its sentences


def test_half_are_positives(store_of: Callable) -> None:
    pairs = make(store_of(documents_of(500)))
    positive = [pair.is_next for epoch in range(20) for pair in pairs.segments(np.arange(len(pairs)), 0, epoch)]
    assert abs(np.mean(positive) - 0.5) < 5 * 0.5 / np.sqrt(len(positive))


def test_each_document_gives_both(store_of: Callable) -> None:
    """Also one without sentences to divide it by: its words tell nothing about the label."""
    pairs = make(store_of([[6], [9], [3, 4], [5, 5]] * 10))
    shares: dict[int, list[bool]] = {}
    for epoch in range(200):
        for pair in pairs.segments(np.arange(len(pairs)), 0, epoch):
            shares.setdefault(pair.document, []).append(pair.is_next)
            # A negative's second part comes from a document that is divided in the same way.
            assert (pair.document % 4 < 2) == (pair.partner % 4 < 2)
    assert len(shares) == 40
    assert all(abs(np.mean(share) - 0.5) < 5 * 0.5 / np.sqrt(len(share)) for share in shares.values())


@pytest.mark.parametrize("length", [24, 48, 128])
def test_lengths_do_not_tell_the_label(store_of: Callable, length: int) -> None:
    pairs = make(store_of(documents_of(1_000)), length)
    rows, labels = [], []
    for epoch in range(6):
        for pair in pairs.segments(np.arange(len(pairs)), 0, epoch):
            first, second = pair.first[1] - pair.first[0], pair.second[1] - pair.second[0]
            rows.append((first, second, first + second))
            labels.append(pair.is_next)
    half = len(rows) // 2
    model = HistGradientBoostingClassifier(max_iter=50).fit(rows[:half], labels[:half])
    assert abs(model.score(rows[half:], labels[half:]) - 0.5) < 5 * 0.5 / np.sqrt(half)


def test_the_way_segments_end_does_not_tell_the_label(store_of: Callable) -> None:
    store = store_of(documents_of(800))
    pairs = make(store, 40)
    ends: dict[bool, list[tuple[bool, bool, bool]]] = {True: [], False: []}
    for epoch in range(4):
        for pair in pairs.segments(np.arange(len(pairs)), 0, epoch):
            bounds = store.sentence_bounds(pair.partner)
            full = pair.first[1] - pair.first[0] + pair.second[1] - pair.second[0] == 37
            ends[pair.is_next].append((pair.second[1] == bounds[-1], pair.second[1] in bounds, full))
    for positive, negative in zip(np.mean(ends[True], 0), np.mean(ends[False], 0), strict=True):
        assert abs(positive - negative) < 5 * np.sqrt(0.5 / len(ends[True]))


def test_rows(store_of: Callable) -> None:
    store = store_of(documents_of(100))
    pairs = make(store, 32)
    index = np.arange(40)
    batch = pairs.batch(index, 0, 0)
    segments = pairs.segments(index, 0, 0)
    longest = max(p.first[1] - p.first[0] + p.second[1] - p.second[0] + 3 for p in segments)
    assert batch.token_ids.shape == (40, -(-longest // 8) * 8)
    assert {array.dtype for array in vars(batch).values()} == {np.dtype(np.int32)}
    for row, pair in enumerate(segments):
        first, second = (store.arrays["tokens"][slice(*part)].tolist() for part in (pair.first, pair.second))
        expected = [2, *first, 3, *second, 3]
        padding = [0] * (batch.token_ids.shape[1] - len(expected))
        assert batch.token_ids[row].tolist() == expected + padding
        assert batch.padding_mask[row].tolist() == [1] * len(expected) + padding
        assert batch.segment_ids[row].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1) + padding
        assert batch.is_next[row] == pair.is_next


def test_a_pair_depends_on_seed_epoch_and_index_alone(store_of: Callable) -> None:
    pairs = make(store_of(documents_of(100)))
    index = np.arange(len(pairs))
    whole = pairs.segments(index, 3, 4)
    assert pairs.segments(index[10:20], 3, 4) == whole[10:20]
    assert pairs.segments(index, 3, 5) != whole != pairs.segments(index, 4, 4)


def test_long_documents_give_more_pairs_from_all_their_parts(store_of: Callable) -> None:
    store = store_of([[5] * 100, [5] * 100, [4, 4]])
    pairs = make(store, 53)
    assert len(pairs) == 10 + 10 + 1
    seen = [pair for epoch in range(20) for pair in pairs.segments(np.arange(len(pairs)), 0, epoch)]
    starts = sorted(pair.first[0] for pair in seen if pair.document == 0)
    assert starts[0] < 10
    assert starts[-1] >= 440
    assert max(np.diff(starts)) <= 60


def test_words_are_not_divided(store_of: Callable) -> None:
    continues = CONTINUES.copy()
    continues[[6, 8, 9, 11, 13]] = True  # documents: a ##a b ##b ##b | c ##c | d ##d | e
    store = store_of([[5], [2], [2], [1], [3]])
    pairs = make(store, 16, continues)
    assert pairs.num_left_out == 3  # of one word each
    found = {pair.second[0] for epoch in range(40) for pair in pairs.segments(np.arange(len(pairs)), 0, epoch)}
    assert found == {2, 11, 12}  # before b; before the last document's second and third word


def test_lengths_are_near(store_of: Callable) -> None:
    pairs = make(store_of(documents_of(300)))
    index = np.arange(len(pairs))
    real = pairs.batch(index, 0, 0).padding_mask.sum(1)
    assert (real <= 48).all()
    assert np.corrcoef(real, pairs.lengths(index))[0, 1] > 0.8


def test_one_document_is_not_enough(store_of: Callable) -> None:
    with pytest.raises(UserError, match="train split of the corpus has one document of two words or more"):
        make(store_of([[3, 4], [1]]))


def test_too_short_a_sequence(store_of: Callable) -> None:
    with pytest.raises(UserError, match=r"sequence_length is 4; a pair of segments takes 5 tokens at least"):
        make(store_of([[3, 4], [3, 4]]), 4)


def test_no_documents(store_of: Callable) -> None:
    store = store_of([[3, 4]])
    assert len(Pairs(store, np.zeros(0, np.int64), SPECIAL, CONTINUES, 16, "the test split")) == 0
