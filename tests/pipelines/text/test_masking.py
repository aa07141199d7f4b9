"""Masking: shares within binomial bounds, labels the originals, whole words together, alone and in tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.config import MaskingConfig
from pipelines.stateless import random_keys
from pipelines.text.masking import Masking

# The special tokens are not the first ones, as in other people's vocabularies.
SPECIAL = {"pad": 0, "unknown": 3, "start": 4, "end": 7, "mask": 9}
VOCABULARY = [f"t{number}" for number in range(10)] + [f"w{i}" for i in range(60)] + [f"##p{i}" for i in range(30)]
ORDINARY = [number for number in range(100) if number not in SPECIAL.values()]
LENGTH = 64


def make(**config: object) -> Masking:
    return Masking(MaskingConfig.model_validate(config), VOCABULARY, SPECIAL, LENGTH)


def batch(rows: int, seed: int = 0, length: int = LENGTH) -> np.ndarray:
    """Rows of [CLS] tokens [SEP] tokens [SEP] of different lengths, padded."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((rows, length), np.int32)
    for row in ids:
        end = rng.integers(8, length)
        row[:end] = rng.choice(ORDINARY, end)
        row[0] = SPECIAL["start"]
        row[[end // 2, end - 1]] = SPECIAL["end"]
    return ids


def masked(masking: Masking, ids: np.ndarray, epoch: int = 0) -> tuple[np.ndarray, ...]:
    keys = random_keys(1, epoch, np.arange(len(ids)))
    return tuple(np.asarray(tensor) for tensor in masking(tf.constant(ids), tf.constant(keys)))


def within(count: int, total: int, share: float) -> bool:
    """Within 5 standard deviations of a binomial."""
    return abs(count - total * share) < 5 * np.sqrt(total * share * (1 - share))


def test_places_and_labels() -> None:
    ids = batch(200)
    seen, positions, originals, weights = masked(make(), ids)
    assert positions.shape == originals.shape == weights.shape == (200, 10)  # 15 % of 64 is 9.6
    assert (positions.dtype, originals.dtype, weights.dtype) == (np.int32, np.int32, np.float32)
    for row in range(200):
        count = int(weights[row].sum())
        num_tokens = np.isin(ids[row], ORDINARY).sum()
        assert count == max(1, np.round(np.float32(0.15) * np.float32(num_tokens))) == make().num_masked(num_tokens)
        assert weights[row].tolist() == [1.0] * count + [0.0] * (10 - count)
        chosen = positions[row, :count]
        assert (np.diff(chosen) > 0).all()  # different ones, in order
        assert (originals[row, :count] == ids[row, chosen]).all()
        assert not np.isin(ids[row, chosen], list(SPECIAL.values())).any()
        assert not positions[row, count:].any()
        assert not originals[row, count:].any()
        others = np.setdiff1d(np.arange(LENGTH), chosen)
        assert (seen[row, others] == ids[row, others]).all()


def test_shares() -> None:
    ids = batch(4_000)
    seen, positions, originals, weights = masked(make(), ids)
    there = weights > 0
    now = np.take_along_axis(seen, positions, 1)[there]
    before, total = originals[there], int(there.sum())
    assert abs(total / np.isin(ids, ORDINARY).sum() - 0.15) < 0.005  # rounding, and one at least
    is_mask = now == SPECIAL["mask"]
    assert within(is_mask.sum(), total, 0.8)
    # A random token is the original itself once in as many as there are.
    assert within((now == before).sum(), total, 0.1 + 0.1 / len(ORDINARY))
    random = now[~is_mask & (now != before)]
    assert set(random) <= set(ORDINARY)
    assert len(set(random)) == len(ORDINARY)


def test_every_place_is_chosen_as_often() -> None:
    ids = np.full((5_000, 22), 20, np.int32)
    ids[:, 0], ids[:, -1] = SPECIAL["start"], SPECIAL["end"]
    _, positions, _, weights = masked(make(), ids)
    counts = np.bincount(positions[weights > 0], minlength=22)
    assert counts[0] == counts[21] == 0
    assert all(within(count, 5_000, 3 / 20) for count in counts[1:21])


def test_it_depends_on_the_key_alone() -> None:
    ids = batch(32)
    whole = masked(make(), ids)
    some = np.pad(ids, [[0, 0], [0, 8]])[5:9]  # other rows, other places, other padding
    keys = random_keys(1, 0, np.arange(5, 9))
    again = [np.asarray(tensor) for tensor in make()(tf.constant(some), tf.constant(keys))]
    assert (again[0][:, :LENGTH] == whole[0][5:9]).all()
    for one, other in zip(again[1:], whole[1:], strict=True):
        assert (one == other[5:9]).all()
    assert (masked(make(), ids, epoch=1)[1] != whole[1]).any()


def test_other_shares() -> None:
    seen, positions, originals, weights = masked(make(share=0.5, masked=0.0, random=1.0), batch(2_000))
    now = np.take_along_axis(seen, positions, 1)[weights > 0]
    assert not (now == SPECIAL["mask"]).any()
    assert within((now == originals[weights > 0]).sum(), len(now), 1 / len(ORDINARY))
    seen, *_ = masked(make(masked=0.0, random=0.0), batch(50))
    assert (seen == batch(50)).all()


def test_whole_words_stay_together() -> None:
    ids = batch(3_000)
    _, positions, _, weights = masked(make(whole_words=True), ids)
    chosen = np.zeros(ids.shape, bool)
    np.put_along_axis(chosen, positions, weights > 0, 1)
    chosen[:, 0] = False
    ordinary = np.isin(ids, ORDINARY)
    assert not chosen[~ordinary].any()
    # A piece is chosen exactly when the token before it, if that is of its word, is.
    pieces = (ids[:, 1:] >= 70) & ordinary[:, :-1]
    assert (chosen[:, 1:][pieces] == chosen[:, :-1][pieces]).all()
    assert (chosen.sum(1) >= 1).all()
    assert abs(chosen.sum() / ordinary.sum() - 0.15) < 0.01


def test_a_word_of_more_pieces_than_may_be_guessed() -> None:
    long = np.full((1, LENGTH), 80, np.int32)
    long[0, :2], long[0, -1] = [SPECIAL["start"], 20], SPECIAL["end"]
    _, positions, _, weights = masked(make(whole_words=True), long)
    assert positions.tolist() == [list(range(1, 11))]
    assert weights.sum() == 10
    long[0, 30] = 30  # two words, both too long; then a short one, which is chosen
    long[0, 60:63] = 25
    _, positions, _, weights = masked(make(whole_words=True, share=0.04), long)
    assert set(positions[weights > 0]) <= {60, 61, 62}


def test_inside_tf_data_it_is_the_same() -> None:
    ids, masking = batch(16), make(whole_words=True)
    keys = random_keys(1, 0, np.arange(16))
    dataset = tf.data.Dataset.from_tensor_slices((ids, keys)).batch(4).map(masking)
    joined = [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]
    for one, other in zip(joined, masked(masking, ids), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("share", "length", "expected"), [(0.15, 128, 20), (0.15, 20, 3), (0.15, 100, 15), (0.2, 5, 1)]
)
def test_number_of_predictions(share: float, length: int, expected: int) -> None:
    assert Masking(MaskingConfig(share=share), VOCABULARY, SPECIAL, length).num_predictions == expected
