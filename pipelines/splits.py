"""Which example is in which split: seeded, stratified, and the same on every machine and NumPy version."""

from collections.abc import Sequence

import numpy as np

from pipelines.config import SplitConfig
from pipelines.errors import UserError
from pipelines.names import shorten

Indices = np.ndarray


def divide(
    num_examples: int,
    config: SplitConfig,
    *,
    origin: str,
    classes: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    with_validation: bool = True,
    with_test: bool = True,
    train_examples: int | None = None,
) -> dict[str, Indices]:
    """Divides examples among `train`, `validation` and `test`.

    Args:
        num_examples: how many there are.
        config: shares, seed, and whether to stratify.
        origin: where the examples come from, for messages.
        classes: integer class of each example, `(num_examples,)`; None for regression, which is not stratified.
        class_names: the classes' names, for messages.
        with_validation: hold out `config.validation` of the examples; otherwise that split is empty.
        with_test: hold out `config.test` of the examples; otherwise that split is empty.
        train_examples: `data.train_examples`: so many of the training split are drawn, the others left out.

    Returns:
        Split → indices in ascending order; every index is in exactly one split, or left out of the training split. With
        `stratify`, every class has at least one example in each split that is not empty.

    Raises:
        UserError: a split with a share above 0 would be empty, a class has too few examples to be in every split, or
            `train_examples` is more than there are or fewer than the classes.
    """
    shares = {"test": config.test if with_test else 0.0, "validation": config.validation if with_validation else 0.0}
    for split, share in shares.items():
        if share > 0 and round(num_examples * share) == 0:
            raise UserError(
                f"{origin}: the {split} split would be empty: data.split.{split} is {share:g} and there are "
                f"{num_examples} examples; raise the share, set it to 0, or add examples"
            )
    # The raw output of Philox is fixed by its definition, unlike `Generator.permutation`, which NumPy may change.
    keys = np.random.Philox(config.seed).random_raw(num_examples)
    stratify = config.stratify and classes is not None and any(shares.values())
    groups = classes if stratify and classes is not None else np.zeros(num_examples, np.int64)
    counts = np.bincount(groups, minlength=1)
    if stratify:
        _check_class_sizes(counts, class_names, 1 + sum(share > 0 for share in shares.values()), origin)

    held_out = {split: _allocate(counts, share, at_least_one=stratify) for split, share in shares.items()}
    # Rounding up in both must not take a small class's last training example.
    excess = np.maximum(held_out["test"] + held_out["validation"] - (counts - 1), 0) * (counts > 0)
    from_test = np.minimum(excess, np.maximum(held_out["test"] - 1, 0))
    held_out["test"] -= from_test
    held_out["validation"] -= excess - from_test

    order = np.lexsort((keys, groups))  # group by group, in random order within each
    starts = np.cumsum(counts) - counts
    place = np.empty(num_examples, np.int64)
    place[order] = np.arange(num_examples) - np.repeat(starts, counts)
    in_test = place < held_out["test"][groups]
    in_validation = ~in_test & (place < (held_out["test"] + held_out["validation"])[groups])
    train = np.flatnonzero(~in_test & ~in_validation)
    if train_examples is not None:
        key = "data.train_examples"
        of_train = None if classes is None else classes[train]
        train = train[draw(len(train), train_examples, config.seed, origin=origin, key=key, classes=of_train)]
    return {
        "train": train,
        "validation": np.flatnonzero(in_validation),
        "test": np.flatnonzero(in_test),
    }


def draw(
    num_examples: int, wanted: int, seed: int, *, origin: str, key: str, classes: np.ndarray | None = None
) -> Indices:
    """Draws some of the examples at random; with the same seed, a smaller draw is a part of a larger one.

    Args:
        num_examples: how many there are.
        wanted: how many to draw.
        seed: fixes which.
        origin: where the examples come from, for messages.
        key: the configuration key that `wanted` comes from, for messages.
        classes: integer class of each example, `(num_examples,)`, whose shares are kept as far as whole numbers allow,
            at least one example of each; None where there are no classes.

    Returns:
        Indices in ascending order.

    Raises:
        UserError: there are not so many examples, or fewer are wanted than there are classes.
    """
    if wanted > num_examples:
        raise UserError(f"{origin}: {key} is {wanted:,} and there are {num_examples:,} training examples; lower it")
    groups = np.zeros(num_examples, np.int64) if classes is None else classes
    counts = np.bincount(groups, minlength=1)
    num_classes = int((counts > 0).sum())
    if wanted < num_classes:
        raise UserError(f"{origin}: {key} is {wanted:,} and there are {num_classes:,} classes; raise it")
    # Other random numbers than those that `divide` takes with this seed.
    keys = np.random.Philox([seed, 1]).random_raw(num_examples)
    order = np.lexsort((keys, groups))
    place = np.empty(num_examples, np.int64)
    place[order] = np.arange(num_examples) - np.repeat(np.cumsum(counts) - counts, counts)
    # In order of the share of its class that comes before it, every class's first example first.
    share = np.where(place == 0, -1.0, (place + 0.5) / counts[groups])
    return np.sort(np.lexsort((keys, share))[:wanted])


def _check_class_sizes(counts: np.ndarray, class_names: Sequence[str], needed: int, origin: str) -> None:
    for index, count in enumerate(counts):
        if 0 < count < needed:
            name = class_names[index] if index < len(class_names) else str(index)
            raise UserError(
                f'{origin}: class "{shorten(name)}" has {count} example{"s" if count > 1 else ""}, and a stratified '
                f"division into {needed} splits needs at least {needed} of each class; add examples, remove the "
                "class, or set data.split.stratify: false (or data.task: regression, if the label is a quantity)"
            )


def _allocate(counts: np.ndarray, share: float, at_least_one: bool) -> np.ndarray:
    """How many of each group to take so that the whole is as near to the share as whole numbers allow."""
    if share == 0:
        return np.zeros_like(counts)
    exact = counts * share
    taken = np.floor(exact).astype(np.int64)
    if at_least_one:
        taken = np.maximum(taken, (counts > 0).astype(np.int64))
    missing = round(counts.sum() * share) - int(taken.sum())
    if missing > 0:
        # The largest remainders get one more; a stable sort makes ties fall the same way everywhere.
        order = np.argsort(-(exact - taken), kind="stable")
        taken[order[:missing]] += 1
    return taken
