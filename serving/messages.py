"""The protocol's message classes for the client, without importing TensorFlow.

The generated classes live in packages called `tensorflow.core…` but need only protobuf. Importing them the plain way
runs `tensorflow/__init__.py`: 5 seconds, 700 MB and a page of log lines before a client can say "server unreachable".
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple


class Messages(NamedTuple):
    """The modules that a client needs: those of the protocol, and ours that translates tensors."""

    predict: Any
    classification: Any
    regression: Any
    metadata: Any
    status: Any
    management: Any
    tensors: Any


@functools.cache
def client_messages() -> Messages:
    """Imports the modules, once, TensorFlow itself only if something else has imported it already."""
    with _bare_tensorflow_package():
        return Messages(
            predict=importlib.import_module("tensorflow_serving.apis.predict_pb2"),
            classification=importlib.import_module("tensorflow_serving.apis.classification_pb2"),
            regression=importlib.import_module("tensorflow_serving.apis.regression_pb2"),
            metadata=importlib.import_module("tensorflow_serving.apis.get_model_metadata_pb2"),
            status=importlib.import_module("tensorflow_serving.apis.get_model_status_pb2"),
            management=importlib.import_module("tensorflow_serving.apis.model_management_pb2"),
            tensors=importlib.import_module("serving.tensors"),
        )


@contextmanager
def _bare_tensorflow_package() -> Iterator[None]:
    """For a moment, a `tensorflow` that is only a place to find submodules in.

    It is taken away again, so that a later `import tensorflow` gets the real one; what was imported meanwhile are the
    real modules, which the real package then uses too.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None:
        yield  # nothing to stand in for: the import below says what is missing
        return
    package = ModuleType("tensorflow")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["tensorflow"] = package
    try:
        yield
    finally:
        del sys.modules["tensorflow"]
