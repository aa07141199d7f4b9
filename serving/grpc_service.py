"""The gRPC server: its ports, limits and end, and the services of libraries (health, reflection)."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.core import Core
from serving.errors import UsageError
from serving.grpc_calls import MODEL_SERVICE, PREDICTION_SERVICE, Calls
from serving.grpc_checked import CheckedServer

MAX_MESSAGE_BYTES = 2**31 - 1

# A client that opens a connection and says nothing is let go after this.
_HANDSHAKE_MILLISECONDS = 10_000
# So is one that has asked for nothing for so long; gRPC's clients connect again without a word.
_IDLE_MILLISECONDS = 300_000
_STREAM_SECONDS = 0.3  # for the last answers to be written, and for watchers of health to hear of the end


class GrpcServer:
    """A gRPC server over a core, on the running event loop: bound when made, answering after `start`.

    Attributes:
        address: What clients connect to, e.g. `127.0.0.1:8500`, with the port that was really taken.
    """

    def __init__(
        self,
        core: Core,
        host: str,
        port: int,
        socket_path: str = "",
        channel_arguments: str = "",
        credentials: grpc.ServerCredentials | None = None,
        max_streams: int = 1000,
        max_connections: int = 4096,
    ) -> None:
        """Binds the ports.

        Args:
            core: The server's parts.
            host: Address to listen on.
            port: TCP port; 0 = a free one.
            socket_path: A UNIX socket to listen on too, without TLS; empty = none.
            channel_arguments: `name=value,name=value` for gRPC itself; they win over ours.
            credentials: TLS for the TCP port; None = plain text.
            max_streams: Requests at once on one connection; more wait at the client.
            max_connections: At once; further ones are closed.

        Raises:
            UsageError: The address is taken or no address, or the channel arguments are not `name=value`.
        """
        # Without so_reuseport=0 a second server could silently share the port and take half of the requests.
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),
            ("grpc.max_connection_idle_ms", _IDLE_MILLISECONDS),
            ("grpc.max_allowed_incoming_connections", max_connections),
            ("grpc.max_concurrent_streams", max_streams),
            *parse_channel_arguments(channel_arguments),
        ]
        self._core = core
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((Calls(core),))
        self._health = health.aio.HealthServicer()
        checked = CheckedServer(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, checked)
        services = (PREDICTION_SERVICE, MODEL_SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflector = reflection.aio.ReflectionServicer(services)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, checked)
        bracketed = f"[{host}]" if ":" in host else host
        self.address = f"{bracketed}:{self._bind(f'{bracketed}:{port}', credentials)}"
        if socket_path:
            self._bind(f"unix:{socket_path}", None)

    async def start(self) -> None:
        """Begins to answer; the health service says SERVING for the server ("") and for both services."""
        await self._server.start()
        for service in ("", PREDICTION_SERVICE, MODEL_SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new requests at once and lets those under way finish.

        Args:
            grace_seconds: How long; what is still running then is cancelled.
        """
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.ensure_future(self._server.stop(grace_seconds))
        # Streams of health and reflection have no end of their own: only requests are waited for.
        while not stopping.done():
            await asyncio.wait((stopping,), timeout=_STREAM_SECONDS)
            if not self._core.gate.in_flight:
                await self._server.stop(0)

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is not None:
                return self._server.add_secure_port(address, credentials)
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
