"""One call of a graph, between the half that reads a request and the half that writes its response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import Code, ServingError


@dataclass(frozen=True)
class GraphRun:
    """What to run: calls with the same signature, feeds and fetches may share one run of the graph.

    Attributes:
        signature_key: The signature that was asked for; for MultiInference all of them, joined by commas.
        feeds: Names of the tensors to feed, e.g. `("serving_default_x:0",)`.
        fetches: Names of the tensors to compute, each once.
        values: One array for each feed.
    """

    signature_key: str
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    values: list[np.ndarray]


# From what was fetched, in the order of `GraphRun.fetches`, to the response.
Respond = Callable[[list[np.ndarray]], Any]

# (model's name, version, LoadedModel, request) -> the run and what makes its response. Raises ServingError.
MakeCall = Callable[[str, int, Any, Any], tuple[GraphRun, Respond]]


def check_model_spec(request: Any) -> Any:
    """The `model_spec` of a request, which must name a model.

    Args:
        request: Any request of the protocol with a `model_spec`.

    Raises:
        ServingError: No spec, or a spec without a name.
    """
    if not request.HasField("model_spec"):
        raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    if not request.model_spec.name:
        raise ServingError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    return request.model_spec
