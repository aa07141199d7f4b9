"""The workers of a run on this machine: started together, watched, and ended together."""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from pipelines.errors import UserError
from tfbigmodel.command_line import USER_ERROR, say
from tfbigmodel.training.cluster import VARIABLE, WORKER_GONE, tf_config

# Below the ports that systems give to outgoing connections, one of which could take a port before its worker does.
_PORTS = range(20000, 31000)
# Where the chief listens for heartbeats, counted from its own port (training.workers.health_port_offset).
_HEALTH_PORT_OFFSET = 1000
_POLL_SECONDS = 0.1
# How long a worker may take to end by itself after another one has ended because of it.
_REASON_SECONDS = 5.0
# Exit codes of a worker that all were asked to stop with, and those after which starting again would change nothing.
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_FINAL = (USER_ERROR, *_STOPPED)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def run_workers(command: Sequence[str], workers: int, restarts: int = 0, grace_seconds: float = 30.0) -> int:
    """Runs all workers of a run on this machine to their end.

    What the chief prints is printed as it is; errors, and all else that the others print, with the worker's name before
    each line. No worker outlives this process, however it ends.

    Args:
        command: a module and its arguments, as after `python -m`.
        workers: how many processes.
        restarts: how often to start all again when one has failed, unless over a user's mistake.
        grace_seconds: how long the others may take to end then.

    Returns:
        The exit code: the one of the worker that failed first, 128 + the signal's number where a signal ended it.

    Raises:
        UserError: this machine's GPUs cannot be divided among the workers.

    Example:
        >>> run_workers(["tfbigmodel.train", "--config", "configs/dense.yaml", "--workdir", "runs/dense"], workers=2)
        0
    """
    environments = _shares(workers)
    while True:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
        if "--quiet" not in command:
            say(f"{workers} worker{'s' if workers > 1 else ''} at {', '.join(addresses)}")
        for index, environment in enumerate(environments):
            environment[VARIABLE] = tf_config(addresses, index)
        processes: list[_Worker] = []
        with _caught_signals() as caught:
            try:
                for index, environment in enumerate(environments):
                    processes.append(_Worker(index, command, environment))
                failed = _wait(processes, caught, grace_seconds)
            finally:
                for process in processes:
                    process.end()
        if failed is None:
            return 0
        if caught:
            return 128 + caught[0]
        again = restarts > 0 and failed.process.returncode not in _FINAL
        print(f"error: {failed.fate(again)}", file=sys.stderr, flush=True)
        if not again:
            return failed.exit_code
        restarts -= 1


class _Worker:
    """One process, and the threads that pass on what it prints."""

    def __init__(self, index: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.index = index
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            # The chief's progress bar needs the terminal itself.
            stdout=None if index == 0 else subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Apart from the terminal's group: Ctrl-C would reach a worker twice, once from here, and a second one means
            # not to wait for a checkpoint.
            process_group=0,
            preexec_fn=_dying_with_parent(),
        )
        streams = [stream for stream in (self.process.stdout, self.process.stderr) if stream is not None]
        self._readers = [
            threading.Thread(target=_pass_on, args=(s, f"[worker {index}] "), daemon=True) for s in streams
        ]
        for reader in self._readers:
            reader.start()

    @property
    def exit_code(self) -> int:
        """As a shell gives it; 0 while it runs."""
        code = self.process.poll() or 0
        return code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        """Sends a signal to the process and those that it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Ends what still runs, and waits until all that was printed is passed on."""
        self.send(signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join(1.0)  # a process that it has left behind may hold the other end

    def fate(self, again: bool) -> str:
        """How it ended and what to do, in one line."""
        next_step = "all are started again" if again else "the same command goes on from the last checkpoint"
        code = self.process.returncode
        if code == USER_ERROR:
            next_step = "mend what it says above, and start again"
        elif code > 0 and code not in (WORKER_GONE, *_STOPPED):
            next_step = f"what it says above is why; {next_step}"
        if code >= 0:
            return f"worker {self.index} ended with exit code {code}; {next_step}"
        why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"worker {self.index} was killed by {signal.Signals(-code).name}{why}; {next_step}"


def _wait(workers: Sequence[_Worker], caught: Sequence[int], grace_seconds: float) -> _Worker | None:
    """Waits for all to end, ends the others once one has failed, and passes signals on; returns the one that failed."""
    failed = None
    settled = False
    forwarded = 0
    deadline = patience = float("inf")
    while True:
        running = [worker for worker in workers if worker.process.poll() is None]
        for number in caught[forwarded:]:
            for worker in running:
                worker.send(number)
        forwarded = len(caught)
        if failed is None or deadline == float("inf"):
            # Who ended because another one did is not the one to name. That one may need longer to end, with TensorFlow
            # in it, and is not to be stopped on its way: its exit code says whether to start again.
            failures = [worker for worker in workers if worker.exit_code]
            failed = min(failures, key=lambda worker: worker.exit_code == WORKER_GONE, default=None)
            if failed is not None:
                patience = min(patience, time.monotonic() + _REASON_SECONDS)
                settled = failed.exit_code != WORKER_GONE or bool(caught) or time.monotonic() >= patience
            if failed is not None and settled and failed.process.returncode not in _STOPPED and not caught:
                for worker in running:
                    worker.send(signal.SIGTERM)
        if not running:
            return failed
        if deadline == float("inf") and (settled or len(caught) > 1):
            deadline = time.monotonic() + grace_seconds
        if time.monotonic() >= deadline:
            for worker in running:
                worker.send(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Free ports, the chief's with a free one for the heartbeats."""
    ports: list[int] = []
    candidates = iter(random.sample(_PORTS, len(_PORTS)))
    while len(ports) < count:
        port = next(candidates, None)
        if port is None:
            raise UserError(f"{count} free ports between {_PORTS.start} and {_PORTS.stop} were not to be found")
        if _is_free(port) and _is_free(port + _HEALTH_PORT_OFFSET) and port - _HEALTH_PORT_OFFSET not in ports:
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def _shares(workers: int) -> list[dict[str, str]]:
    """Each worker's environment, with its share of the machine's processor cores and GPUs.

    Raises:
        UserError: the GPUs cannot be divided equally.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // workers)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        devices = sorted((re.sub(r"\D", "", path.name) for path in Path("/dev").glob("nvidia[0-9]*")), key=int)
    else:
        devices = [device for device in visible.split(",") if device.strip() not in ("", "-1")]
    if len(devices) % workers:
        raise UserError(
            f"--workers {workers}: {len(devices)} GPUs ({','.join(devices)}) cannot be divided equally; choose a "
            "number that divides them, or set CUDA_VISIBLE_DEVICES (empty for none)"
        )
    each = len(devices) // workers
    shares = [{"TF_NUM_INTRAOP_THREADS": str(cores)} | os.environ for _ in range(workers)]
    for index, share in enumerate(shares if each else []):
        share["CUDA_VISIBLE_DEVICES"] = ",".join(devices[index * each : (index + 1) * each])
    return shares


def _pass_on(stream: IO[bytes], prefix: str) -> None:
    """Prints lines as they come, each with who wrote it before it."""
    with stream:
        for line in stream:
            text = prefix.encode() + line.rstrip(b"\r\n") + b"\n"
            os.write(sys.stderr.fileno(), text)  # in one piece: lines of several workers do not mix


def _dying_with_parent() -> Callable[[], None]:
    """What makes a new process be killed when this one ends, however that happens; Linux only."""
    parent = os.getpid()
    library = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before that
            os._exit(1)

    return prepare


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM."""
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    previous = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
