"""`python -m serving.server`: TensorFlow Serving's command line, start and stop.

    python -m serving.server --port=8500 --rest_api_port=8501 --model_name=dense --model_base_path=/abs/exported/dense

When the first models are loaded it prints `Running gRPC ModelServer at 127.0.0.1:8500 ...` on standard output, and
`Exporting HTTP/REST API at:127.0.0.1:8501 ...` where REST is wanted. SIGTERM or SIGINT ends it: no new requests, those
under way finish (at most --drain_timeout_seconds), exit code 0; a second signal does not wait. A user's mistake is one
line on standard error and exit code 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.metadata
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving.assembly import Settings, make_core, read_settings
from serving.errors import ServingError, UsageError
from serving.flags import ServerOptions, help_text, parse_flags

if TYPE_CHECKING:
    from serving.core import Core

# Nothing above imports TensorFlow or gRPC: that takes seconds, and --help must not.

logger = logging.getLogger("serving")

# How long Python runs one thread while others wait. The default of 5 ms is what a request would wait for, again and
# again, between the event loop and the threads that run graphs.
_SWITCH_SECONDS = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server until a signal ends it.

    Args:
        arguments: The command line; None = the process's own.

    Returns:
        The exit code: 0, or 2 for a mistake of the user's.
    """
    try:
        options, warnings = parse_flags(sys.argv[1:] if arguments is None else arguments)
        if options.help:
            sys.stdout.write(help_text() + "\n")
            return 0
        if options.version:
            sys.stdout.write(version_text() + "\n")
            return 0
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
        serve(options, warnings)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def serve(options: ServerOptions, warnings: Sequence[str] = ()) -> None:
    """Loads the models, answers until SIGTERM or SIGINT, drains.

    Args:
        options: The command line.
        warnings: What to log once it is clear that the server can start: a mistake stays alone on its line.

    Raises:
        UsageError: Bad paths or configuration, a port that is taken, a model that cannot be loaded.
    """
    _raise_file_limit()
    # Until the event loop takes the signals over, they are noted: importing TensorFlow takes seconds.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *unused: stop.set())
    settings = read_settings(options)
    if options.rest_api_port == options.port and options.port:
        raise UsageError(f"--rest_api_port and --port are both {options.port}: give REST another port")
    check_port(options.host, options.port)  # before the models: loading them may take minutes
    if options.rest_api_port:
        check_port(options.host, max(0, options.rest_api_port))

    from serving.operations.access_log import open_access_log

    access_log = open_access_log(options.access_log_file)
    for warning in (*warnings, *settings.warnings):
        logger.warning("%s", warning)

    from serving.engine import tensorflow

    # gRPC would write a line for each failed handshake: whoever can connect could fill the disk.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    tensorflow()  # first: the protocol's messages, imported next, load TensorFlow too, and without our settings
    import uvloop

    import serving.grpc_service  # noqa: F401

    # Unloading a model collects garbage. What has been imported by now lives for ever: leaving it out of the search
    # shortens each collection, during which no request is answered, from 200 ms to a few.
    gc.collect()
    gc.freeze()
    # A large JSON body makes hundreds of thousands of lists at once, none of them garbage.
    gc.set_threshold(20_000, 20, 100)
    sys.setswitchinterval(_SWITCH_SECONDS)

    core = make_core(options, settings, access_log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, settings, core, stop))
    access_log.close()
    logger.info("stopped")


async def _serve(options: ServerOptions, settings: Settings, core: Core, stop: threading.Event) -> None:
    """What `serve` does on the event loop."""
    from serving.grpc_service import GrpcServer
    from serving.reload import ConfigFileFollower
    from serving.security.tls import grpc_credentials, ssl_context

    # The thread that waits for the models looks at `stop`, the event loop waits for `stopped`.
    stopped, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(stop, stopped, hurry, core.access_log.reopen)
    core.manager.start()
    follower = ConfigFileFollower(
        core.manager, Path(options.model_config_file), options.model_config_file_poll_wait_seconds
    )
    if settings.tokens is not None:
        settings.tokens.start()
    try:
        ready = await asyncio.to_thread(core.manager.wait_until_available, stop)
    except ServingError as error:
        reason = " ".join(error.message.split())
        raise UsageError(f"Failed to start server. Error: {error.code.name}: {reason}") from error
    if ready:
        if options.model_config_file:
            follower.start()
        gc.freeze()  # the models' graphs too
        credentials = grpc_credentials(settings.tls) if settings.tls else None
        grpc_server = GrpcServer(
            core,
            options.host,
            options.port,
            options.grpc_socket_path,
            options.grpc_channel_arguments,
            credentials,
            options.max_concurrent_requests,
            options.max_connections,
        )
        rest = None
        if options.rest_api_port:
            from serving.rest.service import RestService

            rest = RestService(core, options, settings.metrics_path)
            # Before gRPC answers: a port that was taken meanwhile must not end a server that has begun.
            listener = listen(options.host, max(0, options.rest_api_port))
        await grpc_server.start()
        sys.stdout.write(f"Running gRPC ModelServer at {grpc_server.address} ...\n")
        if rest is not None:
            await rest.start(listener, ssl_context(settings.tls) if settings.tls else None)
            sys.stdout.write(f"Exporting HTTP/REST API at:{rest.address} ...\n")
        sys.stdout.flush()  # scripts wait for these lines, through a pipe
        await stopped.wait()
        logger.info("stopping: no new requests, waiting for those under way")
        draining = [grpc_server.stop(options.drain_timeout_seconds)]
        if rest is not None:
            draining.append(rest.stop(options.drain_timeout_seconds))
        done = asyncio.ensure_future(asyncio.gather(*draining))
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait((done, hurried), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            await grpc_server.stop(0)
            done.cancel()
        hurried.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await done
    if settings.tokens is not None:
        settings.tokens.close()
    await asyncio.to_thread(follower.close)
    core.runner.close()
    await asyncio.to_thread(core.request_log.close)
    await asyncio.to_thread(core.manager.close, 1.0)


def _on_signals(
    stop: threading.Event, stopped: asyncio.Event, hurry: asyncio.Event, reopen_logs: Callable[[], None]
) -> None:
    def end() -> None:
        (hurry if stop.is_set() else stopped).set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reopen_logs)
    if stop.is_set():
        stopped.set()


def _raise_file_limit() -> None:
    """Takes as many open files as the system allows: each connection is one, and the usual limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def version_text() -> str:
    """The text of `--version`, without importing what it names."""
    lines = []
    for label, package in (("ModelServer", "tfbigmodel"), ("TensorFlow Library", "tensorflow"), ("gRPC", "grpcio")):
        try:
            lines.append(f"{label}: {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{label}: not installed as a package")
    return "\n".join(lines)


def check_port(host: str, port: int) -> None:
    """Refuses a TCP address that cannot be listened on, in words; gRPC's own error does not say why.

    Raises:
        UsageError: The address is taken, or none of this machine's.
    """
    listen(host, port).close()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to a TCP address, not listening yet.

    Args:
        host: A name or an address.
        port: 0 = a free one.

    Raises:
        UsageError: The address is taken, or none of this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}") from None


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: an op that still runs after the drain time cannot be ended, and Python would wait for its thread.
    os._exit(exit_code)
