"""The REST interface: from a complete HTTP request to its answer, on the event loop.

Nothing here blocks the loop: graphs run in the Runner's threads, and large bodies are read and written in a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from serving.core import Core, find_servable, infer, known_model
from serving.errors import Code, ServingError
from serving.flags import ServerOptions
from serving.inference.classify import classify_call
from serving.inference.predict import make_run
from serving.inference.regress import regress_call
from serving.model_info import SIGNATURE_FIELD, get_model_metadata, get_model_status
from serving.operations.metrics import CONTENT_TYPE as METRICS_TYPE
from serving.operations.metrics import DEFAULT_PATH as METRICS_PATH
from serving.operations.request_log import prediction_log
from serving.rest.compression import MIN_PACKED_BYTES, accepts_gzip, is_gzipped, pack, unpack
from serving.rest.cors import cors_headers, is_contract, preflight
from serving.rest.http_messages import HttpRequest, HttpResponse
from serving.rest.json_examples import fill_examples_request
from serving.rest.json_request import parse_predict
from serving.rest.json_response import classify_body, error_body, predict_body, regress_body
from serving.rest.predict_messages import predict_messages
from serving.rest.proto_json import metadata_body, status_body
from serving.rest.routes import Route, match_route

logger = logging.getLogger(__name__)

# Reading or writing a body of this size takes some milliseconds, which others on the loop should not wait for.
LARGE_BYTES = 256 * 1024

_JSON = ("Content-Type", "application/json")
_HTTP_STATUS = {
    Code.OK: 200, Code.CANCELLED: 499, Code.INVALID_ARGUMENT: 400, Code.DEADLINE_EXCEEDED: 504, Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409, Code.PERMISSION_DENIED: 403, Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400, Code.ABORTED: 409, Code.OUT_OF_RANGE: 400, Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503, Code.UNAUTHENTICATED: 401,
}  # fmt: skip
_INFERENCES = ("predict", "classify", "regress")


def http_status(code: Code) -> int:
    """The HTTP status for a code, by TensorFlow Serving's table."""
    return _HTTP_STATUS.get(code, 500)


def max_bodies_bytes(options: ServerOptions) -> int:
    """How much the bodies of all requests together may take: some of the largest, or very many small ones."""
    return max(1 << 30, 4 * options.max_request_bytes)


def error_response(error: ServingError) -> HttpResponse:
    """The answer that tells a client of an error."""
    headers = [_JSON]
    if error.code == Code.UNAUTHENTICATED:
        headers.append(("WWW-Authenticate", "Bearer"))
    return HttpResponse(http_status(error.code), error_body(error.message), tuple(headers), {"code": error.code.name})


class RestApi:
    """Answers REST requests over a core.

    Attributes:
        draining: Set when the server is about to stop: `/health/ready` says so, everything else goes on.
    """

    def __init__(self, core: Core, options: ServerOptions, metrics_path: str = METRICS_PATH) -> None:
        """Takes the parts that requests use.

        Args:
            core: The server's parts.
            options: The command line: CORS, and the limit of bodies when unpacked.
            metrics_path: Where Prometheus asks; empty = nowhere.
        """
        self.draining = False
        self._core = core
        self._max_bytes = options.max_request_bytes
        self._unpacked_bytes, self._max_unpacked_bytes = 0, max_bodies_bytes(options)
        self._cors = options.rest_api_enable_cors_support
        self._metrics_path = metrics_path
        self._answers: dict[str, Callable[[HttpRequest, Route, dict[str, Any]], Awaitable[HttpResponse]]] = {
            "predict": self._infer, "classify": self._infer, "regress": self._infer, "status": self._read,
            "metadata": self._read, "models": self._models, "live": self._live, "ready": self._ready,
            "metrics": self._metrics, "unknown": self._refuse, "wrong_method": self._refuse,
        }  # fmt: skip

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answers a request; bad input is answered too, never raised.

        Args:
            request: A complete request. Its `caller` has been found out; what it may do is checked here.

        Returns:
            The answer, with `facts` for the access log.
        """
        facts: dict[str, Any] = {"model": "", "request_bytes": len(request.body)}
        route = Route("unknown")
        try:
            if self._cors and request.method == "OPTIONS" and is_contract(request):
                response = preflight(request)
            else:
                route = match_route(request.method, request.path, self._metrics_path)
                facts["model"] = route.model
                response = await self._answers[route.kind](request, route, facts)
                response = await _packed(request, response)
        except ServingError as error:
            response = error_response(error)
        except Exception as error:
            # The boundary to the network: whatever goes wrong in us is logged in full here and told in brief there.
            logger.exception("%s %s failed", request.method, request.path)
            response = error_response(ServingError(Code.INTERNAL, f"{route.kind} failed: {type(error).__name__}"))
        if self._cors and is_contract(request):
            response.headers += cors_headers(request)
        response.facts = {"code": "OK", **facts, **(response.facts or {})}
        if route.kind in _INFERENCES:
            microseconds = (time.perf_counter() - request.started) * 1e6
            model = known_model(self._core, route.model)
            self._core.metrics.request(model, route.kind, "REST", response.facts["code"], microseconds)
        return response

    async def _infer(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        core = self._core
        core.gate.authorise(request.caller, "infer", route.model)
        answer = self._predict if route.kind == "predict" else self._infer_examples
        with core.gate.admit(request.caller):
            if not is_gzipped(request.headers):
                return await answer(request.body, request.deadline, route, facts)
            body = await asyncio.to_thread(unpack, request.body, self._max_bytes)
            # The transport bounds what is held as it was sent; unpacked, it can be a thousand times as much.
            if self._unpacked_bytes + len(body) > self._max_unpacked_bytes:
                raise ServingError(Code.UNAVAILABLE, "Too many request bodies at once")
            self._unpacked_bytes += len(body)
            try:
                return await answer(body, request.deadline, route, facts)
            finally:
                self._unpacked_bytes -= len(body)

    async def _predict(self, body: bytes, deadline: float, route: Route, facts: dict[str, Any]) -> HttpResponse:
        core = self._core
        with find_servable(core.manager, _spec(route)) as servable:
            facts["version"] = servable.version
            signatures = servable.model.signatures
            parsed = await _call(len(body) > LARGE_BYTES, parse_predict, body, signatures)
            facts["signature"] = parsed.signature_name
            names = sorted(signatures[parsed.signature_name].outputs)
            run = make_run(servable.model, parsed.signature_name, parsed.inputs, names)
            started = time.perf_counter()
            results = await core.runner.run(servable, run, deadline, facts)
            core.metrics.runtime(servable.name, "Predict", (time.perf_counter() - started) * 1e6)
            outputs = dict(zip(names, results, strict=True))
            large = _size(results) > LARGE_BYTES
            text = await _call(large, predict_body, outputs, parsed.row_format)
            if core.request_log.wanted(servable.name):
                asked = _spec(route, parsed.signature_name)
                messages = predict_messages(asked, parsed.inputs, servable.version, outputs)
                core.request_log.log(servable.name, prediction_log(*messages))
            return HttpResponse(200, text, (_JSON,))

    async def _infer_examples(self, body: bytes, deadline: float, route: Route, facts: dict[str, Any]) -> HttpResponse:
        core = self._core
        request: Any
        if route.kind == "classify":
            request, api = classification_pb2.ClassificationRequest(), "Classify"
            make_call, make_body = classify_call, classify_body
        else:
            request, api = regression_pb2.RegressionRequest(), "Regress"
            make_call, make_body = regress_call, regress_body
        request.model_spec.CopyFrom(_spec(route))
        await _call(len(body) > LARGE_BYTES, fill_examples_request, body, request)
        # How much there is to read tells `infer` whether to read it in a thread.
        facts["request_bytes"] = len(body)
        response = await infer(core, api, request.model_spec, make_call, request, deadline, facts)
        text = await _call(len(body) > LARGE_BYTES, make_body, response)
        if core.request_log.wanted(route.model):
            core.request_log.log(route.model, prediction_log(request, response))
        return HttpResponse(200, text, (_JSON,))

    async def _read(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        core = self._core
        core.gate.authorise(request.caller, "read", route.model)
        with core.gate.admit(request.caller):
            if route.kind == "status":
                asked = get_model_status_pb2.GetModelStatusRequest(model_spec=_spec(route))
                body = status_body(get_model_status(core.manager, asked))
            else:
                asked = get_model_metadata_pb2.GetModelMetadataRequest(
                    model_spec=_spec(route), metadata_field=[SIGNATURE_FIELD]
                )
                body = metadata_body(get_model_metadata(core.manager, asked))
            return HttpResponse(200, body, (_JSON,))

    async def _models(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        """The models that the caller may ask about, with the states and labels of their versions."""
        with self._core.gate.admit(request.caller):
            return _json_response(200, {"models": self._model_list(request)})

    def _model_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        manager = self._core.manager
        models = []
        for name in sorted(manager.models()):
            if not self._core.gate.allows(request.caller, "read", name):
                continue
            config = manager.config(name)
            labels = config.labels if config else {}
            versions = [
                {
                    "version": str(status.version),
                    "state": status.state.name,
                    "labels": sorted(label for label, version in labels.items() if version == status.version),
                    "error": status.error.message if status.error else "",
                }
                for status in manager.statuses(name)
            ]
            models.append({"name": name, "versions": versions})
        return models

    async def _live(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        return _json_response(200, {"status": "live"})

    async def _ready(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        if self.draining:
            return _not_ready("draining")
        if not self._core.manager.ready():
            # Not which: whoever asks for health need not have a token.
            return _not_ready("no model is available, or not all of them since the start")
        return _json_response(200, {"status": "ready"})

    async def _metrics(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        page = await asyncio.to_thread(self._core.metrics.render)
        return HttpResponse(200, page, (("Content-Type", METRICS_TYPE),))

    async def _refuse(self, request: HttpRequest, route: Route, facts: dict[str, Any]) -> HttpResponse:
        if route.kind == "wrong_method":
            body = error_body(f"{request.path} takes GET, not {request.method}")
            return HttpResponse(405, body, (_JSON, ("Allow", "GET, HEAD")), {"code": Code.UNIMPLEMENTED.name})
        raise ServingError(Code.NOT_FOUND, f"Nothing is served at {request.path}")


async def _call(in_thread: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments) if in_thread else function(*arguments)


def _spec(route: Route, signature_name: str = "") -> Any:
    spec = model_pb2.ModelSpec(name=route.model, signature_name=signature_name)
    if route.version is not None:
        spec.version.value = route.version
    elif route.label is not None:
        spec.version_label = route.label
    return spec


def _size(arrays: list[Any]) -> int:
    """About how many bytes the arrays hold, strings included."""
    size = 0
    for array in map(np.asarray, arrays):
        size += array.nbytes
        if array.dtype == object and size <= LARGE_BYTES:
            size += sum(map(len, array.ravel().tolist()))
    return size


async def _packed(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    if len(response.body) >= MIN_PACKED_BYTES and accepts_gzip(request.headers):
        response.body = await asyncio.to_thread(pack, response.body)
        response.headers += (("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return response


def _json_response(status: int, value: Any) -> HttpResponse:
    body = json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return HttpResponse(status, body, (_JSON, ("Cache-Control", "no-store")))


def _not_ready(reason: str) -> HttpResponse:
    response = _json_response(503, {"status": "not ready", "reason": reason})
    response.facts = {"code": Code.UNAVAILABLE.name}
    return response
