"""The gRPC face: a table of calls, the errors' way to the wire, and the server with its ports.

The calls are registered from a table rather than through the generated servicer classes: a call that is not served
yet answers UNIMPLEMENTED with a sentence, where the generated classes log a traceback at every such request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.core import find_servable
from serving.errors import Code, ServingError, UsageError, status_text
from serving.inference.call import check_model_spec
from serving.inference.predict import predict_call
from serving.manager import Manager
from serving.model_info import get_model_metadata, get_model_status

logger = logging.getLogger(__name__)

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
MAX_MESSAGE_BYTES = 2**31 - 1

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

Answer = Callable[[Manager, Any], Any]


def predict(manager: Manager, request: Any) -> Any:
    """Answers a PredictRequest."""
    with find_servable(manager, check_model_spec(request)) as servable:
        run, respond = predict_call(servable.name, servable.version, servable.model, request)
        return respond(servable.model.run(run.feeds, run.fetches, run.values))


# (service, call, request class, how it is answered); None = known, and not served yet.
CALLS: tuple[tuple[str, str, Any, Answer | None], ...] = (
    (PREDICTION_SERVICE, "Predict", predict_pb2.PredictRequest, predict),
    (PREDICTION_SERVICE, "GetModelMetadata", get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata),
    (PREDICTION_SERVICE, "Classify", classification_pb2.ClassificationRequest, None),
    (PREDICTION_SERVICE, "Regress", regression_pb2.RegressionRequest, None),
    (PREDICTION_SERVICE, "MultiInference", inference_pb2.MultiInferenceRequest, None),
    (MODEL_SERVICE, "GetModelStatus", get_model_status_pb2.GetModelStatusRequest, get_model_status),
    (MODEL_SERVICE, "HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest, None),
)


class GrpcServer:
    """A gRPC server over a manager: bound when made, answering after `start`, drained by `stop`.

    Attributes:
        address: What clients connect to, e.g. `127.0.0.1:8500`, with the port that was really taken.
    """

    def __init__(
        self,
        manager: Manager,
        host: str,
        port: int,
        socket_path: str = "",
        channel_arguments: str = "",
        max_threads: int = 0,
    ) -> None:
        """Binds the ports.

        Args:
            manager: Where the models are.
            host: Address to listen on.
            port: TCP port; 0 = a free one.
            socket_path: A UNIX socket to listen on too; empty = none.
            channel_arguments: `name=value,name=value` for gRPC itself; they win over ours.
            max_threads: Requests answered at once; 0 = four per core, at least 16.

        Raises:
            UsageError: The address is taken or no address, or the channel arguments are not `name=value`.
        """
        # Without so_reuseport=0 a second server could silently share the port and take half of the requests.
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            *parse_channel_arguments(channel_arguments),
        ]
        threads = max_threads or max(16, 4 * (os.cpu_count() or 1))
        self._server = grpc.server(ThreadPoolExecutor(threads, thread_name_prefix="grpc"), options=options)
        self._server.add_generic_rpc_handlers(_handlers(manager))
        self._health = health.HealthServicer()  # its Watch streams hold none of the threads above
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        bracketed = f"[{host}]" if ":" in host else host
        self.address = f"{bracketed}:{self._bind(f'{bracketed}:{port}')}"
        if socket_path:
            self._bind(f"unix:{socket_path}")

    def start(self) -> None:
        """Begins to answer; the health service says SERVING for the server ("") and for both services."""
        self._server.start()
        for service in ("", PREDICTION_SERVICE, MODEL_SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_seconds: float) -> Any:
        """Refuses new requests at once and lets those under way finish.

        Args:
            grace_seconds: How long; what is still running then is cancelled.

        Returns:
            A `threading.Event`, set when the last request has ended. Calling again with less time shortens the wait.
        """
        self._health.enter_graceful_shutdown()
        return self._server.stop(grace_seconds)

    def _bind(self, address: str) -> int:
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UsageError(f"cannot listen on {address}: it is in use or no address of this machine") from error


def parse_channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Reads `--grpc_channel_arguments`; whole numbers are passed as such.

    Example:
        >>> parse_channel_arguments("grpc.max_connection_age_ms=2000,grpc.lb_policy_name=x")
        [('grpc.max_connection_age_ms', 2000), ('grpc.lb_policy_name', 'x')]

    Raises:
        UsageError: A part is not `name=value`.
    """
    arguments: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise UsageError(f"--grpc_channel_arguments must be name=value,name=value, but {part!r} was given")
        try:
            arguments.append((name, int(value)))
        except ValueError:
            arguments.append((name, value))
    return arguments


def _handlers(manager: Manager) -> tuple[grpc.GenericRpcHandler, ...]:
    services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
    for service, call, request_class, answer in CALLS:
        services.setdefault(service, {})[call] = grpc.unary_unary_rpc_method_handler(
            _behaviour(manager, call, answer),
            request_deserializer=request_class.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
    return tuple(grpc.method_handlers_generic_handler(service, calls) for service, calls in services.items())


def _behaviour(manager: Manager, call: str, answer: Answer | None) -> Callable[[Any, grpc.ServicerContext], Any]:
    def behave(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            if answer is None:
                raise ServingError(Code.UNIMPLEMENTED, f"{call} is not served by this server yet")
            return answer(manager, request)
        except ServingError as error:
            code, message = error.code, error.message
        except Exception as error:
            # The boundary to the network: whatever goes wrong in us is logged in full here and told in brief there.
            logger.exception("%s failed", call)
            code, message = Code.INTERNAL, f"{call} failed: {type(error).__name__}"
        context.abort(_STATUS_CODES[int(code)], status_text(message))

    return behave
