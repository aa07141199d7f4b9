"""What all workers of a run must have alike."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tfbigmodel.training.distribution import agree

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.data import DatasetInfo
    from tfbigmodel.config import RunConfig


def differing(strategy: tf.distribute.Strategy, config: RunConfig, info: DatasetInfo) -> list[str]:
    """The sections of the configuration in which workers differ, and "examples" where those do; all workers call it.

    Args:
        strategy: the workers; a single process agrees with itself.
        config: this worker's.
        info: describes the examples that this worker has loaded.
    """
    return [name for name, digest in digests(config, info).items() if len(set(agree(strategy, digest))) > 1]


def digests(config: RunConfig, info: DatasetInfo) -> dict[str, int]:
    """A number of 48 bits, which a double holds exactly, for each section and for the examples."""
    # Where the data lies may differ from machine to machine.
    sections = config.model_dump(mode="json", exclude={"data": {"data_dir", "cache_dir"}})
    values = {**sections, "examples": info.fingerprint}
    return {name: int(hashlib.sha256(f"{value}".encode()).hexdigest()[:12], 16) for name, value in values.items()}
