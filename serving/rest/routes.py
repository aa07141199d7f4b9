"""Which request a method and a path stand for: TensorFlow Serving's routes under `/v1/`, and ours beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import unquote_to_bytes

from serving.errors import Code, ServingError
from serving.operations.metrics import DEFAULT_PATH as METRICS_PATH

LARGEST_VERSION = 2**63 - 1

Kind = Literal[
    "predict", "classify", "regress", "status", "metadata",
    "models", "live", "ready", "metrics", "unknown", "wrong_method",
]  # fmt: skip

# As TensorFlow Serving writes them: a name has neither "/" nor ":" (both may be percent-encoded), a model has either a
# version or a label. The name may be missing only to get the contract's text for that.
_INFERENCE = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(classify|regress|predict)", re.IGNORECASE
)
_INFORMATION = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata))?", re.IGNORECASE
)
_CONTRACT = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_OURS: dict[str, Kind] = {"/models": "models", "/health/live": "live", "/health/ready": "ready"}


@dataclass(frozen=True)
class Route:
    """What is asked: `kind`, and of which model.

    `kind` is "unknown" for a path outside the contract that nobody serves, and "wrong_method" for one of our paths
    asked by another method than GET or HEAD.
    """

    kind: Kind
    model: str = ""
    version: int | None = None
    label: str | None = None


def match_route(method: str, path: str, metrics_path: str = METRICS_PATH) -> Route:
    """Finds what a request asks for.

    Args:
        method: The HTTP method, e.g. `POST`.
        path: The path as it was sent, still percent-encoded, without the query.
        metrics_path: Where the Prometheus metrics are; empty = nowhere.

    Returns:
        The route.

    Raises:
        ServingError: INVALID_ARGUMENT, a path under `/v1/` that TensorFlow Serving does not know either.

    Example:
        >>> match_route("POST", "/v1/models/dense/versions/7:predict")
        Route(kind='predict', model='dense', version=7, label=None)
    """
    if metrics_path and path == metrics_path:
        return _ours("metrics", method)
    if path in _OURS:
        return _ours(_OURS[path], method)
    if not _CONTRACT.fullmatch(path):
        return Route("unknown")
    found = None
    if method == "POST":
        found = _INFERENCE.fullmatch(path)
    elif method == "GET":
        found = _INFORMATION.fullmatch(path)
    if found is None:
        raise ServingError(Code.INVALID_ARGUMENT, f"Malformed request: {method} {path}")
    name, version, label, word = found.groups()
    if name is None:
        raise ServingError(Code.INVALID_ARGUMENT, "Missing model name in request.")
    # Python refuses to convert very long numbers, so the length is looked at first.
    if version is not None and (len(version.lstrip("0")) > 19 or int(version) > LARGEST_VERSION):
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to convert version: {version} to numeric.")
    kind = cast(Kind, word.lower() if word else "status")
    return Route(
        kind, _decoded(name), None if version is None else int(version), None if label is None else _decoded(label)
    )


def _ours(kind: Kind, method: str) -> Route:
    return Route(kind if method in ("GET", "HEAD") else "wrong_method")


def _decoded(text: str) -> str:
    # No model's name is bytes that are not UTF-8: they become a name that is not found.
    return unquote_to_bytes(text).decode("utf-8", "replace")
