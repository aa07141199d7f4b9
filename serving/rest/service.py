"""The REST port: the transport, who may come in, and the access log, around the interface itself."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from serving.core import Core
from serving.errors import ServingError
from serving.flags import ServerOptions
from serving.operations.access_log import request_id
from serving.rest.api import RestApi, error_response, max_bodies_bytes
from serving.rest.http_messages import HttpLimits, HttpRequest, HttpResponse
from serving.rest.http_server import HttpServer
from serving.rest.json_response import error_body

_REQUEST_ID = "x-request-id"


class RestService:
    """A REST server over a core, on the running event loop.

    Attributes:
        address: `host:port` that was really taken, once started.
    """

    def __init__(self, core: Core, options: ServerOptions, metrics_path: str) -> None:
        """Does not listen yet.

        Args:
            core: The server's parts.
            options: The command line.
            metrics_path: Where Prometheus asks; empty = nowhere.
        """
        self._core = core
        self._cors = options.rest_api_enable_cors_support
        self._metrics_path = metrics_path
        self._api = RestApi(core, options, metrics_path)
        limits = HttpLimits(
            max_body_bytes=options.max_request_bytes,
            max_connections=options.max_connections,
            request_seconds=options.rest_api_timeout_in_ms / 1000,
            max_buffered_bytes=max_bodies_bytes(options),
        )
        self._server = HttpServer(self._admit, self._answer, error_body, self._done, limits)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._server.address

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Begins to answer on a bound socket, with TLS or without."""
        await self._server.start(listener, tls)

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new connections, lets requests under way finish."""
        self._api.draining = True
        await self._server.stop(grace_seconds)

    def _admit(self, method: str, path: str, headers: Mapping[str, str], peer: str) -> Any:
        """Who sends a request, by its head; health needs no token, nor does a browser that asks whether it may ask."""
        authorization = headers.get("authorization")
        try:
            if path == self._metrics_path:
                return self._core.gate.authorise_metrics(authorization, peer)
            if path.startswith("/health/") or (self._cors and method == "OPTIONS"):
                return None
            return self._core.gate.authenticate(authorization)
        except ServingError as error:
            return error_response(error)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        response = await self._api(request)
        sent = request.headers.get(_REQUEST_ID)
        if sent is not None or self._core.access_log.enabled:
            facts = response.facts = response.facts or {}
            facts["request_id"] = request_id(sent)
            response.headers += (("X-Request-Id", facts["request_id"]),)
        return response

    def _done(self, request: HttpRequest, response: HttpResponse) -> None:
        if not self._core.access_log.enabled:
            return
        facts = response.facts or {}
        self._core.access_log.log(
            {
                # What was refused by its head, or given up, has not passed `_answer`.
                "request_id": facts.get("request_id") or request_id(request.headers.get(_REQUEST_ID)),
                "entrypoint": "REST",
                "method": request.method,
                "path": request.path,
                "request_bytes": len(request.body),
                **facts,
                "http_status": response.status,
                "latency_ms": round((time.perf_counter() - request.started) * 1e3, 3) if request.started else 0.0,
                "response_bytes": len(response.body),
                "peer": request.peer,
                "caller": request.caller.name if request.caller is not None else "",
            }
        )
