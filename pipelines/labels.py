"""Labels as they are written → class indices or targets."""

from collections.abc import Callable, Sequence

import numpy as np

from pipelines.errors import UserError
from pipelines.names import listing, shorten


def sorted_class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels in order: by value where all are whole numbers, by characters otherwise.

    Example:
        >>> sorted_class_names(["10", "9", "10"])
        ('9', '10')
    """
    names = set(labels)
    if all(name.isascii() and name.lstrip("+-").isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def encode_classes(
    labels: Sequence[str], class_names: Sequence[str], *, column: str, place: Callable[[int], str]
) -> np.ndarray:
    """Class indices, int32 `(num_examples,)`.

    Args:
        labels: as they are written.
        class_names: the classes known from training, in the order of their indices.
        column: the label's name, for messages.
        place: from an example's index to its file and row, for messages.

    Raises:
        UserError: a label is not among the known classes.
    """
    index_of = {name: index for index, name in enumerate(class_names)}
    try:
        return np.fromiter((index_of[label] for label in labels), np.int32, len(labels))
    except KeyError:
        index = next(i for i, label in enumerate(labels) if label not in index_of)
        raise UserError(
            f'{place(index)}, column {column}: label "{shorten(labels[index])}" was not seen in training; '
            f"the classes are {listing(class_names)}"
        ) from None


def check_classes(class_counts: np.ndarray, class_names: Sequence[str], *, origin: str, label_name: str) -> None:
    """Refuses training data from which no classifier can be learned.

    Raises:
        UserError: fewer than two classes have training examples.
    """
    present = [name for name, count in zip(class_names, class_counts, strict=True) if count]
    if len(present) < 2:
        what = f'one class only, "{shorten(present[0])}"' if present else "no class at all"
        raise UserError(
            f"{origin}: the training examples have {what} in {label_name}; a classifier needs at least two "
            "(check data.label, or that the file is not sorted and cut off)"
        )


def target_scaling(targets: np.ndarray, normalize: bool) -> tuple[float, float]:
    """Mean and scale to divide regression targets by; 0 and 1 where they are left as they are."""
    if not normalize:
        return 0.0, 1.0
    values = np.asarray(targets, np.float64)
    scale = float(values.std())
    # A target that never changes has no spread to divide by; rounding can leave a spread of a few last bits.
    if scale <= 1e-12 * max(1.0, float(np.abs(values).max())):
        scale = 1.0
    return float(values.mean()), scale
