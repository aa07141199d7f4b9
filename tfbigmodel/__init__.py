"""From a small company's data to a served TensorFlow model. The functions here are the Keras-API face.

They are loaded on first use, so that `import tfbigmodel`, and every command's `--help`, costs nothing.

Example:
    >>> import keras
    >>> import tfbigmodel
    >>> config = tfbigmodel.load_config("configs/dense.yaml")
    >>> data = tfbigmodel.load_data(config)
    >>> model = tfbigmodel.build_model(config, data.info)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    >>> model.fit(data.train(epochs=3), validation_data=data.validation())

    Or with the project's own loop, which writes a workdir:

    >>> metrics = tfbigmodel.train(config, "runs/dense")
    >>> tfbigmodel.export("runs/dense", "exported/dense")
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Keras chooses its backend when it is first imported; this project's graphs are TensorFlow's.
os.environ["KERAS_BACKEND"] = "tensorflow"
# GPU memory grows as it is needed, so that training and serving can share a card; TensorFlow would take all of it.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

if TYPE_CHECKING:
    from tfbigmodel.config import load_config
    from tfbigmodel.cost import estimate
    from tfbigmodel.evaluate import evaluate
    from tfbigmodel.export import export
    from tfbigmodel.model import build_model, load_data, load_model
    from tfbigmodel.predict import predict
    from tfbigmodel.train import train

__all__ = [
    "build_model",
    "estimate",
    "evaluate",
    "export",
    "load_config",
    "load_data",
    "load_model",
    "predict",
    "train",
]

_HOMES = {
    "build_model": "tfbigmodel.model",
    "estimate": "tfbigmodel.cost",
    "evaluate": "tfbigmodel.evaluate",
    "export": "tfbigmodel.export",
    "load_config": "tfbigmodel.config",
    "load_data": "tfbigmodel.model",
    "load_model": "tfbigmodel.model",
    "predict": "tfbigmodel.predict",
    "train": "tfbigmodel.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfbigmodel' has no attribute {name!r}")
    # Some functions have their command module's name. Importing the module sets the attribute to it; such modules are
    # callable (see `command_line.callable_module`), so `tfbigmodel.train(…)` works whoever was imported first.
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
