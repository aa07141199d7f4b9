"""Data on disk → batches ready for a model, and the preprocessing that serving shares with training.

The functions here are loaded on first use: `import pipelines` brings neither TensorFlow nor pandas, so that commands
can check a configuration and print their help at once.

Example:
    >>> from pydantic import TypeAdapter
    >>> import pipelines
    >>> from pipelines.config import DataConfig
    >>> config = TypeAdapter(DataConfig).validate_python({"source": "builtin", "name": "digits"})
    >>> data = pipelines.load(config)
    >>> for features, label in data.train(epoch=0).take(1):
    ...     print(features["image"].shape, label.shape)
    (64, 8, 8, 1) (64,)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.batching import MemoryData, batches
    from pipelines.loading import load
    from pipelines.preprocessors import load_preprocessor
    from pipelines.reading import read_examples, read_image_files, read_table, read_texts

__all__ = [
    "MemoryData",
    "batches",
    "load",
    "load_preprocessor",
    "read_examples",
    "read_image_files",
    "read_table",
    "read_texts",
]

_HOMES = {
    "MemoryData": "pipelines.batching",
    "batches": "pipelines.batching",
    "load": "pipelines.loading",
    "load_preprocessor": "pipelines.preprocessors",
    "read_examples": "pipelines.reading",
    "read_image_files": "pipelines.reading",
    "read_table": "pipelines.reading",
    "read_texts": "pipelines.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
