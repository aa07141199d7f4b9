"""`python -m serving.server`: TensorFlow Serving's command line, start and stop.

    python -m serving.server --port=8500 --model_name=dense --model_base_path=/abs/exported/dense

When the first models are loaded it prints `Running gRPC ModelServer at 127.0.0.1:8500 ...` on standard output.
SIGTERM or SIGINT ends it: no new requests, those under way finish (at most --drain_timeout_seconds), exit code 0; a
second signal does not wait. A user's mistake is one line on standard error and exit code 2.
"""

from __future__ import annotations

import errno
import functools
import gc
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ServingError, UsageError
from serving.flags import ServerOptions, help_text, parse_flags
from serving.model_config import ModelConfig, read_model_config_file, single_model

if TYPE_CHECKING:
    from serving.grpc_service import GrpcServer

# Nothing above imports TensorFlow or gRPC: that takes seconds, and --help must not.

logger = logging.getLogger("serving")

# How long a signal waits to be seen at most.
_SIGNAL_SECONDS = 0.5
_LOOPBACK = ("127.", "localhost", "::1")


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
        serve(options, warnings + option_warnings(options))
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
    stop, hurry = threading.Event(), threading.Event()

    def on_signal(number: int, frame: object) -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)

    configs = model_configs(options)
    _check_port(options.host, options.port)  # before the models: loading them may take minutes
    for warning in warnings:
        logger.warning("%s", warning)

    from serving.engine import EngineOptions, load_model, tensorflow

    tensorflow()  # first: the protocol's messages, imported next, load TensorFlow too, and without our settings
    from serving.grpc_service import GrpcServer
    from serving.manager import Manager

    # Unloading a model collects garbage. What has been imported by now lives for ever: leaving it out of the search
    # shortens each collection, during which no request is answered, from 200 ms to a few.
    gc.collect()
    gc.freeze()

    engine = EngineOptions(
        tags=tuple(filter(None, options.saved_model_tags.split(","))),
        intra_op_threads=options.tensorflow_intra_op_parallelism or options.tensorflow_session_parallelism,
        inter_op_threads=options.tensorflow_inter_op_parallelism or options.tensorflow_session_parallelism,
    )
    manager = Manager(
        configs, functools.partial(load_model, options=engine), poll_seconds=options.file_system_poll_wait_seconds
    )
    manager.start()
    try:
        ready = manager.wait_until_available(stop)
    except ServingError as error:
        raise UsageError(f"Failed to start server. Error: {' '.join(error.message.split())}") from error
    if ready:
        server = GrpcServer(
            manager,
            options.host,
            options.port,
            options.grpc_socket_path,
            options.grpc_channel_arguments,
        )
        server.start()
        sys.stdout.write(f"Running gRPC ModelServer at {server.address} ...\n")
        sys.stdout.flush()  # scripts wait for this line, through a pipe
        # Python runs a signal's handler in this thread, and the system may hand the signal to another one: this one has
        # to wake up by itself to see it.
        while not stop.wait(timeout=_SIGNAL_SECONDS):
            pass
        logger.info("stopping: no new requests, waiting for those under way")
        _drain(server, options.drain_timeout_seconds, hurry)
    manager.close(timeout=1.0)
    logger.info("stopped")


def model_configs(options: ServerOptions) -> tuple[ModelConfig, ...]:
    """The models to serve, with their directories checked.

    Raises:
        UsageError: Neither a base path nor a config file, or one that is wrong, or a directory that is not there.
    """
    if options.model_config_file:
        configs = read_model_config_file(Path(options.model_config_file))
    elif options.model_base_path:
        configs = (single_model(options.model_name, options.model_base_path),)
    else:
        raise UsageError("give --model_base_path=/abs/path (and --model_name), or --model_config_file=… (see --help)")
    for config in configs:
        if not config.base_path.is_dir():
            what = "is not a directory" if config.base_path.exists() else "does not exist"
            raise UsageError(f"base path {config.base_path} of model {config.name} {what}")
    return configs


def version_text() -> str:
    """The text of `--version`, without importing what it names."""
    lines = []
    for label, package in (("ModelServer", "tfbigmodel"), ("TensorFlow Library", "tensorflow"), ("gRPC", "grpcio")):
        try:
            lines.append(f"{label}: {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{label}: not installed as a package")
    return "\n".join(lines)


def option_warnings(options: ServerOptions) -> list[str]:
    """What the user should know about flags that do less, or more, than they may think."""
    warnings = []
    if options.rest_api_port:
        warnings.append(f"--rest_api_port={options.rest_api_port}: REST is not served yet; only gRPC answers")
    if not options.host.startswith(_LOOPBACK):
        warnings.append(f"--host={options.host}: whoever reaches this address may use the models, without encryption")
    return warnings


def _check_port(host: str, port: int) -> None:
    """Refuses a TCP address that cannot be listened on, in words; gRPC's own error does not say why."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}") from None


def _drain(server: GrpcServer, seconds: float, hurry: threading.Event) -> None:
    """Waits for the requests under way, until a second signal or the end of the time."""
    drained = server.stop(seconds)
    while not drained.wait(timeout=0.1):
        if hurry.is_set():
            server.stop(0).wait()


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: an op that still runs after the drain time cannot be ended, and Python would wait for its thread.
    os._exit(exit_code)
