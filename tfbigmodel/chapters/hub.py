"""KerasHub, an optional extra: imported when it is needed, and its layers given seeds."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.errors import UserError


def import_keras_hub(texts: bool) -> Any:
    """KerasHub.

    Args:
        texts: whether tensorflow-text is needed, too.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        import keras_hub

        if texts:
            import tensorflow_text  # noqa: F401  KerasHub imports without it, and fails later
    except ImportError as error:
        needs = (
            "BERT needs KerasHub and tensorflow-text: pip install 'tfbigmodel[text]'"
            if texts
            else "ResNet50 needs KerasHub: pip install 'tfbigmodel[images]'"
        )
        raise UserError(f"{needs} ({error})") from error
    return keras_hub


@contextmanager
def seeded_layers(seed: int) -> Iterator[None]:
    """Layers that are made inside get seeds that follow from `seed`, each another one.

    KerasHub's layers take no seeds: Keras draws those of their initialisers and of their dropout from Python's
    generator, which is as it was before when the block ends.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
