"""Division of examples: complete, seeded, stratified, and fixed for all time."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import SplitConfig
from pipelines.errors import UserError
from pipelines.splits import divide, draw


def division(num: int, config: SplitConfig, classes: np.ndarray | None = None, **options) -> dict[str, np.ndarray]:
    return divide(
        num, config, origin="data.csv", classes=classes, class_names=[f"class{i}" for i in range(99)], **options
    )


@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    validation=st.floats(0.0, 0.45),
    test=st.floats(0.0, 0.45),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_every_example_is_in_one_split_and_every_class_in_all(counts, validation, test, seed, data) -> None:
    classes = np.array(data.draw(st.permutations(np.repeat(np.arange(len(counts)), counts).tolist())))
    config = SplitConfig(validation=validation, test=test, seed=seed)
    if any(share and round(len(classes) * share) == 0 for share in (validation, test)):
        with pytest.raises(UserError, match="split would be empty"):
            division(len(classes), config, classes)
        return
    splits = division(len(classes), config, classes)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(classes)))
    for split, share in (("train", 1 - validation - test), ("validation", validation), ("test", test)):
        found = np.bincount(classes[splits[split]], minlength=len(counts))
        assert (found >= 1).all() if share else not found.any()
        # Two roundings, to whole examples and to the whole split, and the first example of a class.
        assert (np.abs(found - share * np.array(counts)) <= 2.01).all()
        assert (np.diff(splits[split]) > 0).all()


def test_shares_are_exact_where_they_can_be() -> None:
    splits = division(1000, SplitConfig(validation=0.1, test=0.2), np.repeat([0, 1], [700, 300]))
    assert {split: len(index) for split, index in splits.items()} == {"train": 700, "validation": 100, "test": 200}
    assert np.bincount(np.repeat([0, 1], [700, 300])[splits["test"]]).tolist() == [140, 60]


def test_the_division_never_changes() -> None:
    # A run that is resumed after an upgrade must find the same examples in the same splits.
    splits = division(1797, SplitConfig(), np.arange(1797) % 10)
    digest = hashlib.sha256(b"".join(splits[s].astype("<i8").tobytes() for s in ("train", "validation", "test")))
    assert digest.hexdigest() == "760df14da17d104b7cfe12f5f5b26e14c781ad7d194d4d1de213e230825d35b2"


def test_the_seed_decides() -> None:
    classes = np.arange(100) % 2
    first, again, other = (division(100, SplitConfig(seed=seed), classes)["test"] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_each_example_is_equally_likely_to_be_tested() -> None:
    hits = sum(np.isin(np.arange(50), division(50, SplitConfig(seed=s, stratify=False))["test"]) for s in range(400))
    # Binomial(400, 0.2): mean 80, standard deviation 8.
    assert (np.abs(hits - 80) < 5 * 8).all()


def test_without_stratification_only_sizes_count() -> None:
    splits = division(10, SplitConfig(validation=0.1, test=0.2, stratify=False), np.repeat([0, 1], [9, 1]))
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [7, 1, 2]


def test_given_splits_are_not_carved() -> None:
    splits = division(20, SplitConfig(validation=0.1, test=0.2), with_test=False)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [18, 2, 0]


def test_a_class_too_small_is_named() -> None:
    with pytest.raises(UserError, match=r'class "class1" has 2 examples.*needs at least 3.*data.split.stratify: false'):
        division(12, SplitConfig(), np.repeat([0, 1], [10, 2]))


def test_an_empty_split_is_named() -> None:
    with pytest.raises(UserError, match=r"the test split would be empty: data.split.test is 0.01 and there are 20"):
        division(20, SplitConfig(test=0.01))


@pytest.mark.parametrize("wanted", [5, 6, 50, 103, 200])
def test_a_draw_keeps_the_shares_of_the_classes(wanted: int) -> None:
    classes = np.repeat(np.arange(5), [100, 50, 40, 9, 1])
    drawn = draw(200, wanted, 3, origin="file", key="data.train_examples", classes=classes)
    assert len(set(drawn.tolist())) == wanted
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(classes[drawn], minlength=5)
    assert (counts >= 1).all()
    if wanted >= 50:
        np.testing.assert_allclose(counts, np.bincount(classes) * wanted / 200, atol=2)


def test_a_smaller_draw_is_a_part_of_a_larger_one() -> None:
    draws = [set(draw(100, wanted, 3, origin="file", key="k").tolist()) for wanted in (1, 10, 99, 100)]
    assert all(first < second for first, second in itertools.pairwise(draws))
    assert draw(100, 10, 3, origin="f", key="k").tolist() != draw(100, 10, 4, origin="f", key="k").tolist()
    assert draw(20, 5, 3, origin="f", key="k").tolist() == [5, 8, 10, 16, 18], "fixed for all time"
