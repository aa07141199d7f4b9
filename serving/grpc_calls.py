"""The protocol's calls on gRPC: a table of them, who may make them, and their errors' way to the wire.

The calls are registered from a table rather than through the generated servicer classes, and take the message as
bytes: what cannot be parsed is the client's mistake and answered as one, where gRPC's own answer is INTERNAL and a
traceback in the log.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    regression_pb2,
)

from serving.core import Core, infer, known_model
from serving.errors import Code, ServingError, status_text
from serving.inference.call import MakeCall, check_model_spec
from serving.inference.classify import classify_call
from serving.inference.multi_inference import multi_inference_call, multi_inference_spec
from serving.inference.predict import predict_call
from serving.inference.regress import regress_call
from serving.model_info import get_model_metadata, get_model_status
from serving.operations.access_log import request_id
from serving.operations.request_log import prediction_log
from serving.reload import reload_config

logger = logging.getLogger(__name__)

# From the files that define them, because reflection can only describe what has been imported.
PREDICTION_SERVICE: str = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name
MODEL_SERVICE: str = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
# A reload waits until models are loaded. The threads of `asyncio.to_thread` are few, and large messages and the end of
# the server need them.
_RELOADS = ThreadPoolExecutor(16, thread_name_prefix="reload")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of the protocol.

    Attributes:
        service: The service's full name.
        name: The call's name.
        request_class: The message that it takes.
        action: What a token must allow.
        answer: `(core, request, deadline, facts)` to the response.
    """

    service: str
    name: str
    request_class: Any
    action: Literal["infer", "read", "admin"]
    answer: Callable[[Core, Any, float | None, Facts], Awaitable[Any]]


def _inference(
    api: str, make_call: MakeCall, find_spec: Callable[[Any], Any] = check_model_spec
) -> Callable[[Core, Any, float | None, Facts], Awaitable[Any]]:
    async def answer(core: Core, request: Any, deadline: float | None, facts: Facts) -> Any:
        response = await infer(core, api, find_spec(request), make_call, request, deadline, facts)
        if core.request_log.wanted(facts["model"]):
            core.request_log.log(facts["model"], prediction_log(request, response))
        return response

    return answer


async def _metadata(core: Core, request: Any, deadline: float | None, facts: Facts) -> Any:
    return get_model_metadata(core.manager, request)


async def _status(core: Core, request: Any, deadline: float | None, facts: Facts) -> Any:
    return get_model_status(core.manager, request)


async def _reload(core: Core, request: Any, deadline: float | None, facts: Facts) -> Any:
    timeout = None if deadline is None else deadline - time.monotonic()
    gone = threading.Event()
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_RELOADS, reload_config, core.manager, request, timeout, gone)
    finally:
        gone.set()  # without a deadline its thread would wait for ever for a model that does not come


CALLS = (
    Call(
        PREDICTION_SERVICE, "Predict", predict_pb2.PredictRequest, "infer",
        _inference("Predict", predict_call),
    ),
    Call(
        PREDICTION_SERVICE, "Classify", classification_pb2.ClassificationRequest, "infer",
        _inference("Classify", classify_call),
    ),
    Call(
        PREDICTION_SERVICE, "Regress", regression_pb2.RegressionRequest, "infer",
        _inference("Regress", regress_call),
    ),
    Call(
        PREDICTION_SERVICE, "MultiInference", inference_pb2.MultiInferenceRequest, "infer",
        _inference("MultiInference", multi_inference_call, multi_inference_spec),
    ),
    Call(
        PREDICTION_SERVICE, "GetModelMetadata", get_model_metadata_pb2.GetModelMetadataRequest, "read", _metadata
    ),
    Call(MODEL_SERVICE, "GetModelStatus", get_model_status_pb2.GetModelStatusRequest, "read", _status),
    Call(MODEL_SERVICE, "HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest, "admin", _reload),
)  # fmt: skip


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """Finds a call by its path, and refuses it before its message is received: that may be 2 GB from a stranger."""

    def __init__(self, core: Core) -> None:
        """Answers the calls with this server's parts."""
        self._core = core
        self._calls = {
            f"/{call.service}/{call.name}": (call, grpc.unary_unary_rpc_method_handler(_behaviour(core, call)))
            for call in CALLS
        }

    def service(self, handler_call_details: Any) -> Any:
        found = self._calls.get(handler_call_details.method)
        if found is None:
            return None
        call, handler = found
        try:
            self._core.gate.check_room()
            self._core.gate.authenticate(_find_metadata(handler_call_details.invocation_metadata, "authorization"))
        except ServingError as error:
            # As if of a stream of messages, of which none is asked for.
            return grpc.stream_unary_rpc_method_handler(_refusal(self._core, call, error))
        return handler


def _refusal(core: Core, call: Call, error: ServingError) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]:
    async def refuse(messages: Any, context: grpc.aio.ServicerContext) -> None:
        core.metrics.request("", call.name, "GRPC", error.code.name, 0.0)
        if core.access_log.enabled:
            _log_access(core, call, context, {"request_bytes": 0, "model": ""}, error.code, 0.0, 0)
        await context.abort(_STATUS_CODES[int(error.code)], status_text(error.message))

    return refuse


def _behaviour(core: Core, call: Call) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
    async def behave(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        started = time.perf_counter()
        facts: Facts = {"request_bytes": len(message), "model": ""}
        code, text, answer = Code.OK, "", b""
        try:
            answer = await _answer(core, call, message, context, facts)
        except ServingError as error:
            code, text = error.code, status_text(error.message)
        except asyncio.CancelledError:
            code = Code.CANCELLED  # the client has gone, or its deadline has passed
            raise
        except Exception as error:
            # The boundary to the network: whatever goes wrong in us is logged in full here and told in brief there.
            logger.exception("%s failed", call.name)
            code, text = Code.INTERNAL, f"{call.name} failed: {type(error).__name__}"
        finally:
            seconds = time.perf_counter() - started
            model = known_model(core, facts["model"])
            core.metrics.request(model, call.name, "GRPC", code.name, seconds * 1e6)
            if core.access_log.enabled:
                _log_access(core, call, context, facts, code, seconds, len(answer))
        if code != Code.OK:
            await context.abort(_STATUS_CODES[int(code)], text)
        return answer

    return behave


async def _answer(core: Core, call: Call, message: bytes, context: grpc.aio.ServicerContext, facts: Facts) -> bytes:
    facts["caller"] = caller = core.gate.authenticate(_metadata_value(context, "authorization"))
    try:
        request = call.request_class.FromString(message)
    except DecodeError:
        raise ServingError(Code.INVALID_ARGUMENT, f"the message is no {call.request_class.DESCRIPTOR.name}") from None
    facts["model"] = model = _model_name(request)
    core.gate.authorise(caller, call.action, model or None)
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    with core.gate.admit(caller), core.gate.memory.hold(len(message)):
        response = await call.answer(core, request, deadline, facts)
    serialised: bytes = response.SerializeToString()
    return serialised


def _model_name(request: Any) -> str:
    """The model that a request is about; of a reload none, of a MultiInference the first task's (they must agree)."""
    if hasattr(request, "tasks"):
        return request.tasks[0].model_spec.name if request.tasks else ""
    return request.model_spec.name if hasattr(request, "model_spec") else ""


def _metadata_value(context: grpc.aio.ServicerContext, key: str) -> str | None:
    return _find_metadata(context.invocation_metadata(), key)


def _find_metadata(metadata: Any, key: str) -> str | None:
    for name, value in metadata or ():
        if name == key and isinstance(value, str):
            return value
    return None


def _log_access(
    core: Core,
    call: Call,
    context: grpc.aio.ServicerContext,
    facts: Facts,
    code: Code,
    seconds: float,
    response_bytes: int,
) -> None:
    caller = facts.pop("caller", None)
    core.access_log.log(
        {
            "request_id": request_id(_metadata_value(context, "x-request-id")),
            "entrypoint": "GRPC",
            "method": f"{call.service}/{call.name}",
            **facts,
            "code": code.name,
            "latency_ms": round(seconds * 1e3, 3),
            "response_bytes": response_bytes,
            "peer": context.peer(),
            "caller": caller.name if caller is not None else "",
        }
    )
