"""`load`: from a configuration to data, by a plain table of sources."""

import importlib

from pipelines.config import DataConfig
from pipelines.data import Data

# By name, because TensorFlow Datasets is an optional extra: only those who use it import it.
SOURCES = {
    "builtin": "pipelines.sources.builtin",
    "corpus": "pipelines.sources.corpus",
    "image_folder": "pipelines.sources.image_folder",
    "shards": "pipelines.sources.shards",
    "table": "pipelines.sources.table",
    "tfds": "pipelines.sources.tfds",
}


def load(config: DataConfig) -> Data:
    """Reads, divides and prepares the examples that a run's `data` section describes.

    Args:
        config: one of the `data` sections, such as `BuiltinConfig`. A `shuffle_seed` of None counts as 0 here;
            `tfbigmodel` puts `training.seed` in its place.

    Raises:
        UserError: something is missing from the data or wrong in it; the message names the place and the remedy.
    """
    data: Data = importlib.import_module(SOURCES[config.source]).load(config)
    return data
