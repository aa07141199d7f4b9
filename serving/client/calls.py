"""Every call of the client as a conversation: what to send, when to wait, what the answer means.

A conversation is a generator that yields `Attempt` (send this; the response, or gRPC's error, comes back) or `Pause`
(wait so long). It neither sends nor sleeps, so the same one serves the blocking client and the asyncio client.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from serving.client.info import ClientError, ModelMetadata, ModelVersionStatus
from serving.client.requests import (
    ModelSpec,
    check_reload,
    converted,
    fill_examples,
    predict_request,
    read_metadata,
    read_prediction,
    read_statuses,
    reload_request,
)
from serving.errors import Code
from serving.messages import client_messages

if TYPE_CHECKING:
    import numpy as np

Result = TypeVar("Result")

_PREDICTION_SERVICE = "/tensorflow.serving.PredictionService/"
_MODEL_SERVICE = "/tensorflow.serving.ModelService/"
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Attempt:
    """Send `request`; `timeout` is what is left of the time for the whole conversation."""

    path: str
    request: Any
    response_class: Any
    timeout: float
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


Conversation = Generator[Attempt | Pause, Any, Result]

# In what gRPC itself says of a connection that failed.
_CONNECTION_WORDS = ("connect", "socket", "dns", "resol", "handshake", "goaway", "reset by peer", "broken pipe")


class Terms:
    """What holds for every attempt of one call: until when, and under which headers."""

    def __init__(self, timeout: float, headers: tuple[tuple[str, str], ...], request_id: str | None) -> None:
        """The time begins now.

        Raises:
            ClientError: The time or the request's id cannot be sent.
        """
        if not timeout > 0:
            raise ClientError(f"timeout must be a number of seconds above 0, but {timeout} was given")
        if request_id is not None and not (request_id.isascii() and request_id.isprintable() and request_id.strip()):
            raise ClientError(f"request_id must be printable ASCII, but {request_id!r} was given")
        self.timeout = timeout
        self.end = time.monotonic() + timeout
        self.headers = headers if request_id is None else (*headers, ("x-request-id", request_id.strip()))


class Calls:
    """The conversations with one server."""

    def __init__(
        self, target: str, headers: tuple[tuple[str, str], ...], retries: int, retried: frozenset[Code]
    ) -> None:
        """Nothing is sent.

        Args:
            target: The server, for error messages.
            headers: Sent with every request.
            retries: How often a request is sent again.
            retried: After which codes.
        """
        self._target = target
        self._headers = headers
        self._retries = retries
        self._retried = retried
        self._metadata: dict[ModelSpec, ModelMetadata] = {}

    def predict(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        timeout: float,
        request_id: str | None,
    ) -> Conversation[dict[str, np.ndarray]]:
        """Asks for the metadata once, if there is anything to convert, then for the prediction."""
        import numpy as np

        terms = Terms(timeout, self._headers, request_id)
        known = ModelSpec(spec.name, spec.version, spec.label)
        metadata = self._metadata.get(known)
        arrays = {}
        for name, value in inputs.items():
            if not isinstance(value, np.ndarray):
                if metadata is None:
                    metadata = self._metadata[known] = yield from self._ask_metadata(known, terms)
                value = converted(value, name, metadata, spec.signature)
            arrays[name] = value
        request = predict_request(spec, arrays, outputs)
        try:
            response = yield from self._ask(
                _PREDICTION_SERVICE + "Predict", request, client_messages().predict.PredictResponse, terms
            )
        except ClientError:
            # A newer version may want other types: the next call shall not be converted by what the old one said.
            self._metadata.pop(known, None)
            raise
        return read_prediction(response)

    def classify(
        self,
        spec: ModelSpec,
        examples: Sequence[Mapping[str, Any]],
        context: Mapping[str, Any] | None,
        timeout: float,
        request_id: str | None,
    ) -> Conversation[list[list[tuple[str, float]]]]:
        """Classify."""
        messages = client_messages().classification
        terms, request = Terms(timeout, self._headers, request_id), messages.ClassificationRequest()
        spec.fill(request.model_spec)
        fill_examples(request.input, examples, context)
        response = yield from self._ask(
            _PREDICTION_SERVICE + "Classify", request, messages.ClassificationResponse, terms
        )
        return [[(item.label, item.score) for item in row.classes] for row in response.result.classifications]

    def regress(
        self,
        spec: ModelSpec,
        examples: Sequence[Mapping[str, Any]],
        context: Mapping[str, Any] | None,
        timeout: float,
        request_id: str | None,
    ) -> Conversation[list[float]]:
        """Regress."""
        messages = client_messages().regression
        terms, request = Terms(timeout, self._headers, request_id), messages.RegressionRequest()
        spec.fill(request.model_spec)
        fill_examples(request.input, examples, context)
        response = yield from self._ask(_PREDICTION_SERVICE + "Regress", request, messages.RegressionResponse, terms)
        return [item.value for item in response.result.regressions]

    def metadata(self, spec: ModelSpec, timeout: float, request_id: str | None) -> Conversation[ModelMetadata]:
        """GetModelMetadata."""
        return (yield from self._ask_metadata(spec, Terms(timeout, self._headers, request_id)))

    def status(self, spec: ModelSpec, timeout: float, request_id: str | None) -> Conversation[list[ModelVersionStatus]]:
        """GetModelStatus."""
        messages = client_messages().status
        terms, request = Terms(timeout, self._headers, request_id), messages.GetModelStatusRequest()
        spec.fill(request.model_spec)
        response = yield from self._ask(
            _MODEL_SERVICE + "GetModelStatus", request, messages.GetModelStatusResponse, terms
        )
        return read_statuses(response)

    def reload_config(self, text: str, timeout: float, request_id: str | None) -> Conversation[None]:
        """HandleReloadConfigRequest."""
        terms, request = Terms(timeout, self._headers, request_id), reload_request(text)
        response = yield from self._ask(
            _MODEL_SERVICE + "HandleReloadConfigRequest",
            request,
            client_messages().management.ReloadConfigResponse,
            terms,
        )
        check_reload(response)

    def _ask_metadata(self, spec: ModelSpec, terms: Terms) -> Conversation[ModelMetadata]:
        messages = client_messages().metadata
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        spec.fill(request.model_spec)
        response = yield from self._ask(
            _PREDICTION_SERVICE + "GetModelMetadata", request, messages.GetModelMetadataResponse, terms
        )
        return read_metadata(spec.name, response)

    def _ask(self, path: str, request: Any, response_class: Any, terms: Terms) -> Conversation[Any]:
        """One request, sent again after a pause while that makes sense and the time allows.

        The pauses double, and each is a random part of its length ("full jitter"), so that the clients of a server
        that failed do not all come back at the same moment.
        """
        import grpc

        for attempt in range(self._retries + 1):
            try:
                left = max(terms.end - time.monotonic(), 0.0)
                return (yield Attempt(path, request, response_class, left, terms.headers))
            except grpc.RpcError as error:
                failure = self._error(error, terms.timeout)
            longest = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
            seconds = random.uniform(0, longest)
            out_of_time = time.monotonic() + seconds >= terms.end
            if failure.code not in self._retried or attempt == self._retries or out_of_time:
                raise failure
            yield Pause(seconds)
        raise AssertionError("the last attempt returns or raises")

    def _error(self, error: Any, timeout: float) -> ClientError:
        """The error in words."""
        code, details = Code(error.code().value[0]), " ".join((error.details() or "").split())
        details = details.partition(" [[{{")[0]  # where in the graph it happened: for the model's makers
        reasons = {
            Code.UNAVAILABLE: f"server {self._target} {_unavailable(details)}: {details}",
            Code.DEADLINE_EXCEEDED: f"server {self._target} did not answer within {timeout:g} s",
            Code.NOT_FOUND: f"model not found on server {self._target}: {details}",
            Code.UNAUTHENTICATED: f"server {self._target} wants a token that it knows: {details}",
        }
        return ClientError(reasons.get(code, f"{code.name}: {details}"), code)


def _unavailable(details: str) -> str:
    """What UNAVAILABLE means: gRPC says it of a server that it cannot reach, a server of itself when it is too busy."""
    if any(word in details.lower() for word in _CONNECTION_WORDS):
        return "cannot be reached (is one running there?)"
    return "cannot answer now"
