"""Services of libraries (health, reflection) for messages from anyone.

Left alone, gRPC answers a message that cannot be parsed with UNKNOWN, and writes a traceback into the log each time. It
is the client's mistake, and answered as one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

_CORRUPT = object()
_TEXT = "the message is no request of this call"


class CheckedServer:
    """Stands in for a `grpc.aio.Server` where a library registers its service.

    Example:
        >>> health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), CheckedServer(server))
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        """Takes the server that shall have the service."""
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Registers a service's calls, with a check of their messages."""
        self._server.add_generic_rpc_handlers(tuple(map(_CheckedHandler, handlers)))

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """The same calls again: what generated code registers in both ways, once is enough of."""


class _CheckedHandler(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: Any) -> Any:
        found = self._handler.service(handler_call_details)
        return None if found is None else _checked(found)


def _checked(handler: Any) -> Any:
    read = handler.request_deserializer

    def parse(message: bytes) -> Any:
        try:
            return read(message)
        except DecodeError:
            return _CORRUPT

    async def check(request: Any, context: grpc.aio.ServicerContext) -> None:
        if request is _CORRUPT:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _TEXT)

    async def answer_one(request: Any, context: grpc.aio.ServicerContext) -> Any:
        await check(request, context)
        return await (handler.unary_unary or handler.unary_stream)(request, context)

    async def answer_many(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async def checked() -> AsyncIterator[Any]:
            async for request in requests:
                await check(request, context)
                yield request

        async for response in handler.stream_stream(checked(), context):
            yield response

    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(answer_one, parse, handler.response_serializer)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(answer_one, parse, handler.response_serializer)
    return grpc.stream_stream_rpc_method_handler(answer_many, parse, handler.response_serializer)
