"""What a run costs, before it is paid: operations, memory and time, from the training graph and two real updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfbigmodel.config import RunConfig
    from tfbigmodel.cost.figures import Cost


def estimate(config: RunConfig, tell: Callable[[str], None] = lambda text: None) -> Cost:
    """Counts what a run needs, and measures two of its updates. Nothing is written but the user's cache of data.

    The data is read and the model built as for training, with random weights: pretrained ones cost the same. Under
    `multi_worker` every worker must call this, as they train together.

    Args:
        config: the run's configuration.
        tell: is given a line at the beginning of what takes long.

    Raises:
        UserError: the configuration or the data is not fit for training.

    Example:
        >>> cost = tfbigmodel.estimate(tfbigmodel.load_config("configs/dense.yaml"))
        >>> cost.phases[0].trainable
        9610
    """
    from tfbigmodel.cost import estimation

    return estimation.estimate(config, tell)
