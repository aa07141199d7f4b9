"""The commands that start a dispatcher and its workers."""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines.command_line import import_tensorflow, make_parser, run_command, say
from pipelines.errors import UserError
from pipelines.remote import is_remote

_EPILOG = """examples:
  python -m pipelines.data_service dispatcher --port 5050
  python -m pipelines.data_service worker --dispatcher host:5050 --port 5051
  python -m tfbigmodel.train --config dense.yaml --workdir runs/dense --set data.service.address=grpc://host:5050

One dispatcher, and workers on as many machines as it takes to make batches in time. SIGTERM ends them. TensorFlow
listens on all addresses of the machine (a worker also on a port of its choice for the batches), and has no passwords:
whoever reaches the ports can have the workers read and write files and run operations. Keep them inside a network that
you trust.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; see `python -m pipelines.data_service --help`."""
    parser = make_parser("pipelines.data_service", "Make training batches in processes of their own.", _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="dispatcher|worker")
    dispatcher = commands.add_parser("dispatcher", help="tells trainers and workers of each other", allow_abbrev=False)
    dispatcher.add_argument("--port", type=_port, default=5050, help="the port to listen on (5050)")
    dispatcher.add_argument(
        "--work_dir", help="a folder for its state: one that is started again then goes on where it was"
    )
    worker = commands.add_parser("worker", help="makes batches", allow_abbrev=False)
    worker.add_argument("--dispatcher", required=True, type=_host_and_port, metavar="HOST:PORT", help="its address")
    worker.add_argument("--port", type=_port, default=5051, help="the port to listen on (5051)")
    worker.add_argument(
        "--host", help="the name or address that trainers reach this machine by; found out where it is not given"
    )
    worker.add_argument(
        "--timeout_seconds",
        type=_seconds,
        default=60.0,
        help="how long to wait for the dispatcher, before giving up (60)",
    )
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    _check_free(arguments.port)
    import_tensorflow()
    server = _started(arguments)
    while server:
        time.sleep(3600)  # `server.join()` would wait inside TensorFlow, where no signal is handled
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    # At once: TensorFlow's servers stop only when those that they talk to have answered. Nothing is lost, the
    # dispatcher writes each change of its state before it answers.
    os._exit(0)


def _started(arguments: argparse.Namespace) -> Any:
    """Starts the server, which serves until nothing refers to it."""
    import tensorflow as tf

    from pipelines.data_service.calls import dispatcher_answers

    service = tf.data.experimental.service
    if arguments.command == "dispatcher":
        folder = _made(arguments.work_dir) if arguments.work_dir else None
        server = service.DispatchServer(
            service.DispatcherConfig(port=arguments.port, work_dir=folder, fault_tolerant_mode=folder is not None)
        )
        say(f"dispatcher: ready on port {arguments.port}")
    else:
        _load_operations()
        # TensorFlow itself would wait for it for an hour, and could not be interrupted.
        if not dispatcher_answers(arguments.dispatcher, arguments.timeout_seconds):
            raise UserError(
                f"no dispatcher answers at {arguments.dispatcher} within {arguments.timeout_seconds:g} s; start it "
                "first: python -m pipelines.data_service dispatcher"
            )
        host = arguments.host or _own_address(arguments.dispatcher)
        server = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=arguments.dispatcher,
                worker_address=f"{host}:{arguments.port}",
                data_transfer_address=f"{host}:%dts_port%",
                port=arguments.port,
            )
        )
        say(f"worker: ready on {host}:{arguments.port}, for the dispatcher {arguments.dispatcher}")
    return server


def _load_operations() -> None:
    """Registers TensorFlow Text's operations, which pretrained models' tokenizers are made of."""
    try:
        import_module("tensorflow_text")
    except ImportError:
        print("warning: tensorflow-text is not installed; texts of pretrained models cannot be made", file=sys.stderr)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}); choose another --port") from error


def _made(folder: str) -> str:
    if is_remote(folder):
        raise UserError(f"--work_dir: expected a folder of this machine, received {folder}")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--work_dir: cannot make the folder {folder}: {error.strerror}") from error
    return folder


def _own_address(dispatcher: str) -> str:
    """The address of this machine on the way to the dispatcher."""
    host, port = dispatcher.rsplit(":", 1)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing; it chooses the network interface
            own: str = probe.getsockname()[0]
    except OSError as error:
        raise UserError(f"--dispatcher {dispatcher}: the host is not known ({error.strerror or error})") from error
    return f"[{own}]" if ":" in own else own


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"expected a port, 1 to 65535, received {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, received {text}")
    return seconds


def _host_and_port(text: str) -> str:
    address = text.removeprefix("grpc://")
    host, _, port = address.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"expected host:port, received {text}")
    _port(port)
    return address


if __name__ == "__main__":
    sys.exit(main())
