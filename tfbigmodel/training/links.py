"""Connections between workers: where the chief listens, and lines of JSON in both directions."""

import errno
import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

from pipelines.errors import UserError
from tfbigmodel.training.cluster import Cluster, split_address
from tfbigmodel.training.config import WorkersConfig

_MAX_LINE = 16384


def health_address(cluster: Cluster, settings: WorkersConfig) -> tuple[str, int]:
    """Host and port where the chief listens for the others' heartbeats.

    Raises:
        UserError: there is no such port, or it is a worker's own.
    """
    host, port = split_address(cluster.addresses[0], "TF_CONFIG")
    health_port = port + settings.health_port_offset
    offset = f"training.workers.health_port_offset {settings.health_port_offset}"
    if health_port > 65535:
        raise UserError(
            f"{offset}: the chief's port {port} and this make {health_port}, above 65535; lower one of them"
        )
    if (host, health_port) in (split_address(address, "TF_CONFIG") for address in cluster.addresses):
        raise UserError(f"{offset}: {host}:{health_port} is a worker's own address; choose another")
    return host, health_port


def listen(host: str, port: int) -> socket.socket:
    """Listens at a host's own address; at all of this machine's where that name stands for another one's.

    The latter is so behind a service's address, and while a cluster's name service does not know a new pod yet.
    """
    try:
        return _server(host, port)
    except socket.gaierror:
        pass
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise _cannot_listen(host, port, error) from error
    try:
        return _server("", port)
    except OSError as error:
        raise _cannot_listen("", port, error) from error


def _server(host: str, port: int) -> socket.socket:
    if not host:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family)


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"cannot listen at {host}:{port} for the other workers' heartbeats: {reason(error)}; end what is "
        "there, or choose another training.workers.health_port_offset"
    )


def reason(error: OSError) -> str:
    """What is wrong, in the system's words, without what Python adds to them."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


class Link:
    """One end of a connection: whole lines of JSON in both directions.

    Args:
        connection: connected.
        timeout: how long reading waits; 0 for not at all.
    """

    def __init__(self, connection: socket.socket, timeout: float = 0.0) -> None:
        connection.settimeout(timeout)
        self.connection = connection
        self.worker: int | None = None
        self.open = True
        self.since = self.heard = time.monotonic()
        self._buffer = b""

    def messages(self) -> list[dict[str, Any]]:
        """What has come; `open` is false once the other end has closed, or has sent what is no message."""
        try:
            received = self.connection.recv(65536)
        except (BlockingIOError, TimeoutError, InterruptedError):
            return []
        except OSError:
            received = b""
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        if not received or len(self._buffer) > _MAX_LINE:
            self.open = False
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                self.open = False
                break
            messages.append(message)
        if messages:
            self.heard = time.monotonic()
        return messages

    def send(self, message: dict[str, Any]) -> None:
        """Sends a line. One that cannot be sent is not missed: the other end's silence counts, or its end."""
        with suppress(OSError):
            self.connection.send(json.dumps(message).encode() + b"\n")

    def refuse(self, message: dict[str, Any]) -> None:
        """Sends a last line, and counts as closed."""
        self.send(message)
        self.open = False

    def close(self) -> None:
        """Closes the connection; what was sent still arrives."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        self.connection.close()
