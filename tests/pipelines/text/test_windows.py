"""Windows and continuations: every token predicted once, characters counted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.text.store import Store, StoreWriter, cached
from pipelines.text.windows import Continuations, Windows

SPECIAL = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
LENGTHS = [1, 7, 8, 9, 16, 17, 30, 2, 0, 5]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    def build(folder: Path) -> None:
        number = 10
        with StoreWriter(folder, {"tokens": np.uint16, "characters": np.uint16}) as writer:
            for length in LENGTHS:
                ids = np.arange(number, number + length)
                writer.add([length], tokens=ids, characters=ids % 5)
                number += length

    return cached(tmp_path / "store", build)


def texts(store: Store) -> list[list[int]]:
    return [store.arrays["tokens"][slice(*store.bounds(number))].tolist() for number in range(len(store))]


def test_every_token_and_every_end_is_predicted_once(store: Store) -> None:
    windows = Windows(store, np.arange(len(LENGTHS)), SPECIAL, 8)
    assert windows.num_left_out == 1
    assert len(windows) == sum(-(-(length + 1) // 8) for length in LENGTHS if length)
    batch = windows.batch(np.arange(len(windows)))
    predicted, row = [], 0
    for tokens in texts(store):
        if not tokens:
            continue
        sequence, at = [2, *tokens, 3], 0
        while at < len(sequence) - 1:
            part = sequence[at : at + 9]
            real = batch.padding_mask[row].astype(bool)
            assert batch.token_ids[row][real].tolist() == part[:-1]
            assert batch.targets[row][real].tolist() == part[1:]
            assert not batch.targets[row][~real].any()
            assert batch.characters[row] == sum(token % 5 for token in part[1:] if token != 3)
            at, row = at + 8, row + 1
        predicted += tokens + [3]
    assert row == len(windows)
    assert batch.targets[batch.padding_mask > 0].tolist() == predicted
    assert batch.characters.sum() == store.arrays["characters"].sum()
    assert windows.mean_tokens == len(predicted) / len(windows)
    assert windows.lengths(np.arange(len(windows))).tolist() == batch.padding_mask.sum(1).tolist()


def test_any_windows_in_any_order(store: Store) -> None:
    windows = Windows(store, np.array([6, 0, 3]), SPECIAL, 8)
    assert len(windows) == 4 + 1 + 2
    batch = windows.batch(np.array([4, 1]))
    assert batch.token_ids[:, :2].tolist() == [[2, 10], [10 + 58 + 7, 10 + 58 + 8]]
    assert batch.token_ids.shape == (2, 8)
    assert (batch.token_ids.dtype, batch.characters.dtype) == (np.int32, np.float32)


@pytest.fixture
def continuations(store: Store) -> Callable[..., Continuations]:
    def make(length: int = 64, random_cuts: bool = False) -> Continuations:
        return Continuations(store, np.arange(len(LENGTHS)), SPECIAL, length, random_cuts)

    return make


def test_in_evaluation_the_middle_cuts(store: Store, continuations: Callable) -> None:
    examples = continuations()
    assert (len(examples), examples.num_left_out) == (8, 2)
    batch, prompts, mask = examples.batch(np.arange(8), 0, 0)
    for row, tokens in enumerate(tokens for tokens in texts(store) if len(tokens) > 1):
        half = len(tokens) // 2
        assert prompts[row][mask[row] > 0].tolist() == [2, *tokens[:half], 3]
        real = batch.padding_mask[row] > 0
        assert batch.token_ids[row][real].tolist() == [2, *tokens[half:]]
        assert batch.targets[row][real].tolist() == [*tokens[half:], 3]
        assert batch.characters[row] == sum(token % 5 for token in tokens[half:])
    assert examples.mean_tokens == batch.padding_mask.sum(1).mean()


def test_in_training_random_places_cut(continuations: Callable) -> None:
    examples = continuations(random_cuts=True)
    index = np.full(2_000, 5)  # the document of 30 tokens
    shares = [examples.batch(index[:1], 0, epoch)[2].sum() - 2 for epoch in range(300)]
    assert min(shares) == 6
    assert max(shares) == 23
    assert abs(np.mean(shares) - 14.5) < 5 * 5.2 / np.sqrt(300)
    for one, other in zip(examples.batch(np.arange(8), 1, 2), examples.batch(np.arange(8), 1, 2), strict=True):
        assert str(one) == str(other)


def test_what_is_too_long_is_cut_at_the_far_ends(store: Store, continuations: Callable) -> None:
    batch, prompts, _ = continuations(8).batch(np.array([5]), 0, 0)
    tokens = texts(store)[6]
    assert prompts[0].tolist() == [2, *tokens[9:15], 3]
    assert batch.token_ids[0].tolist() == [2, *tokens[15:22]]
    assert batch.targets[0].tolist() == tokens[15:23]
    assert batch.characters[0] == sum(token % 5 for token in tokens[15:23])


def test_two_tokens_are_enough(continuations: Callable) -> None:
    for epoch in range(20):
        batch, _, mask = continuations(random_cuts=True).batch(np.array([6]), 0, epoch)
        assert mask.sum() == 3
        assert batch.padding_mask.sum() == 2
