"""A health check between the workers of a run: who does not answer is named, and nobody waits for it for ever.

TensorFlow alone does not do it. It waits an hour for a worker that never comes; of a dead one it says that "collective
ops is aborted", and only to those that are inside a collective operation. So every worker keeps a connection to the
chief, at the port of the chief's TensorFlow server plus `training.workers.health_port_offset`, from a thread that works
whatever the main thread does (`heartbeat.py` has both ends). No TensorFlow in here.
"""

import functools
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.errors import UserError
from tfbigmodel.training.cluster import WORKER_GONE, Cluster, split_address
from tfbigmodel.training.config import WorkersConfig
from tfbigmodel.training.heartbeat import Chief, Follower, Loss
from tfbigmodel.training.links import reason

# How long a worker may take to end by itself once another is known to be gone: its main thread may hang in a
# collective operation, which nothing but the end of the process ends.
_GRACE_SECONDS = 10.0
# When to say for whom the wait is: for the first time, and again.
_FIRST_WORD_SECONDS, _NEXT_WORD_SECONDS = 5.0, 60.0


class WorkerGone(UserError):
    """Another worker of this run is gone, so that this one cannot go on.

    Attributes:
        exit_code: 138, or 2 where the other worker ended over a mistake that would be made again.
    """

    def __init__(self, what: str, exit_code: int = WORKER_GONE) -> None:
        again = "; start all workers again with the same command: the run goes on from its last checkpoint"
        super().__init__(what + again if exit_code == WORKER_GONE else what)
        self.exit_code = exit_code


class Peers:
    """What this worker knows of the others.

    Args:
        absent: the names of those that have not come yet.
    """

    def __init__(self, absent: tuple[str, ...] = ()) -> None:
        self._changed = threading.Condition()
        self._absent = absent
        self._loss: Loss | None = None
        self._farewell: dict[str, Any] | None = None

    def lost(self, wait_seconds: float = 0.0) -> WorkerGone | None:
        """The error that says which worker is gone; None where none is.

        Args:
            wait_seconds: how long to wait for such news; TensorFlow may have noticed sooner.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._loss is not None, wait_seconds)
            return None if self._loss is None else WorkerGone(*self._loss)

    def wait_for_all(self, tell: Callable[[str], None]) -> None:
        """Waits for the workers that have not come yet.

        Args:
            tell: prints a line, now and then, that says for whom the wait is.

        Raises:
            WorkerGone: one did not come in time, or ended before all were there.
        """
        patience = _FIRST_WORD_SECONDS
        with self._changed:
            while not self._changed.wait_for(lambda: self._loss or not self._absent, patience):
                tell(f"waiting for {', '.join(self._absent)}")
                patience = _NEXT_WORD_SECONDS
        loss = self.lost()
        if loss is not None:
            raise loss

    def watch(self, end: Chief | Follower) -> None:
        """Watches the others until this worker takes leave of them; ends the process if it does not when one is lost.

        Args:
            end: this worker's end of the heartbeat.
        """
        try:
            loss = self._watch(end)
            if loss is None:
                return
            with self._changed:
                if self._changed.wait_for(lambda: self._farewell is not None, _GRACE_SECONDS):
                    return
        finally:
            end.close()
        # Not through Python's streams, whose locks the main thread may hold.
        os.write(2, f"error: {' '.join(str(WorkerGone(*loss)).split())}\n".encode(errors="replace"))
        os._exit(loss.exit_code)

    def _watch(self, end: Chief | Follower) -> Loss | None:
        try:
            while True:
                loss = end.poll()
                with self._changed:
                    self._absent, self._loss = end.absent, loss
                    self._changed.notify_all()
                    farewell = self._farewell
                if farewell is not None:
                    end.take_leave(farewell)
                    return None
                if loss is not None:
                    end.announce(loss)
                    return loss
        except Exception:
            traceback.print_exc()
            loss = Loss("the health check between the workers failed; its traceback is above")
            with self._changed:
                self._loss = loss
                self._changed.notify_all()
            return loss

    def leave(self, farewell: dict[str, Any]) -> None:
        """Lets `watch` take leave of the others, and end."""
        with self._changed:
            self._farewell = farewell
            self._changed.notify_all()


@contextmanager
def watched(
    cluster: Cluster | None,
    settings: WorkersConfig,
    tell: Callable[[str], None] = lambda text: None,
    together: tuple[type[BaseException], ...] = (),
) -> Iterator[Peers]:
    """Waits for all workers; from then on ends this process soon after another one has died, hangs or is cut off.

    The main thread may raise what `Peers.lost` gives. If it does not leave the block within ten seconds of a loss,
    since it hangs in a collective operation for instance, the line is printed and the process is ended from here.

    Args:
        cluster: the run's workers; None, or one alone, is not watched.
        settings: how long to wait, and the port.
        tell: prints a line.
        together: exceptions that leave the block on all workers alike, such as a stop that they agreed on; a worker
            that leaves with any other one is gone for the others, who are told the reason.

    Yields:
        What is known of the others.

    Raises:
        WorkerGone: a worker did not come within `start_seconds`, or is gone.
        UserError: a port is in use.

    Example:
        >>> with watched(read_cluster(os.environ["TF_CONFIG"]), WorkersConfig()) as peers:
        ...     strategy = tf.distribute.MultiWorkerMirroredStrategy()
    """
    if cluster is None or len(cluster.addresses) == 1:
        yield Peers()
        return
    _check_own_port(cluster)
    end = Chief(cluster, settings) if cluster.is_chief else Follower(cluster, settings)
    peers = Peers(end.absent)
    thread = threading.Thread(target=peers.watch, args=(end,), name="health", daemon=True)
    thread.start()
    farewell: dict[str, Any] = {"bye": True}
    try:
        peers.wait_for_all(tell)
        yield peers
    except together:
        raise
    except BaseException as error:
        farewell = {"failed": _told(error), "code": _code(error)}
        loss = peers.lost()
        # What follows from another's end, such as an aborted operation, is told as that.
        if loss is not None and isinstance(error, Exception) and not isinstance(error, UserError):
            raise loss from error
        raise
    finally:
        peers.leave(farewell)
        thread.join(settings.silence_seconds + 1.0)


@functools.cache
def _check_own_port(cluster: Cluster) -> None:
    """Refuses a port that is in use: TensorFlow would share it, and the two would get each other's messages.

    Once in a process: after its first run TensorFlow's own server is there, until the process ends.
    """
    _, port = split_address(cluster.addresses[cluster.index], "TF_CONFIG")
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"{cluster.names[cluster.index]}: port {port} cannot be used here: {reason(error)}; end what "
            "is there, or give this worker another port"
        ) from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _code(error: BaseException) -> int:
    """What the others end with: a user's mistake would be made again by all of them."""
    return error.exit_code if isinstance(error, UserError) else WORKER_GONE
