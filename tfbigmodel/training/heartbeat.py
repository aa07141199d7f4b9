"""The two ends of the heartbeat between workers: the chief listens, every other worker keeps one connection to it.

Both sides send a line of JSON every two seconds, and count the other's silence. The chief tells everybody who is gone.
Nothing that comes is trusted further than that a worker of the run may be said to be gone: what is no such line closes
its own connection, and nothing else.
"""

import hashlib
import selectors
import socket
import time
from typing import Any, NamedTuple

from tfbigmodel.training.cluster import WORKER_GONE, Cluster
from tfbigmodel.training.config import WorkersConfig
from tfbigmodel.training.links import Link, health_address, listen, reason

_TICK_SECONDS = 0.2
_BEAT_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
# A stranger's connection that does not say within this time which worker it is from is closed.
_JOIN_SECONDS = 10.0
_MAX_STRANGERS = 64
_MAX_REASON = 1000


class Loss(NamedTuple):
    """Which worker is gone and how.

    Attributes:
        what: for people.
        exit_code: what the others end with: 138, or 2 for a mistake that would be made again.
    """

    what: str
    exit_code: int = WORKER_GONE


class Chief:
    """The chief's end: it knows who is there, and tells everybody who is not.

    Args:
        cluster: the run's workers.
        settings: how long to wait, and the port.

    Raises:
        UserError: the port cannot be listened at.
    """

    def __init__(self, cluster: Cluster, settings: WorkersConfig) -> None:
        self._cluster, self._settings = cluster, settings
        self._listener = listen(*health_address(cluster, settings))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._links: list[Link] = []
        self._since = self._last_beat = time.monotonic()
        self._started = False
        self._left: set[int] = set()
        self._failure: Loss | None = None
        self._refused = ""

    @property
    def absent(self) -> tuple[str, ...]:
        """The names of the workers that have not come yet; none once all were there."""
        if self._started:
            return ()
        here = {link.worker for link in self._links}
        return tuple(name for worker, name in enumerate(self._cluster.names) if worker and worker not in here)

    def poll(self) -> Loss | None:
        """Listens for a fifth of a second, and says what it has found to be wrong."""
        # Who has gone is seen before who comes in its place.
        events = sorted(self._selector.select(_TICK_SECONDS), key=lambda event: not getattr(event[0].data, "worker", 0))
        for key, _ in events:
            if key.data is None:
                self._accept()
                continue
            for message in key.data.messages():
                self._understand(key.data, message)
        now = time.monotonic()
        loss = self._drop_the_dead(now)
        if not self._started and not self.absent:
            self._started = True
            self._tell_all({"start": True})
        if now - self._last_beat >= _beat_seconds(self._settings):
            self._last_beat = now
            self._tell_all({})
        return self._failure or loss

    def announce(self, loss: Loss) -> None:
        """Tells all others who is gone."""
        self._tell_all({"gone": loss.what, "code": loss.exit_code})

    def take_leave(self, farewell: dict[str, Any]) -> None:
        """Tells the others that this worker ends; after a run that ended well it is the last one to leave.

        TensorFlow's coordination is the chief's: who is still in it when the chief ends would take that for a crash.
        """
        patience = time.monotonic() + self._settings.silence_seconds
        while "bye" in farewell and any(link.worker for link in self._links) and time.monotonic() < patience:
            self.poll()
        self._tell_all(farewell)

    def close(self) -> None:
        """Closes all connections."""
        self._selector.close()
        self._listener.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # whoever it was has gone again, or there are too many open files to let it in
            return
        strangers = [link for link in self._links if link.worker is None]
        if len(strangers) >= _MAX_STRANGERS:
            self._drop(strangers[0])
        link = Link(connection)
        self._links.append(link)
        self._selector.register(connection, selectors.EVENT_READ, link)

    def _understand(self, link: Link, message: dict[str, Any]) -> None:
        if link.worker is None:
            self._let_join(link, message)
        elif "bye" in message:
            self._left.add(link.worker)
        elif "failed" in message:
            self._failure = self._failure or failed(self._cluster.names[link.worker], message)

    def _let_join(self, link: Link, message: dict[str, Any]) -> None:
        worker = message.get("join")
        if type(worker) is not int or not 0 < worker < len(self._cluster.names):
            link.open = False
            return
        name = self._cluster.names[worker]
        twins = [each for each in self._links if each.worker == worker and each.open]
        if message.get("cluster") != _digest(self._cluster):
            self._refused = f"; {name} came with another list of workers, and was refused"
            link.refuse({"refused": f"{self._cluster.names[0]} has another list of workers; give all the same"})
        elif self._started:
            # Perhaps it was started again already, and the run that it was in has yet to find out and to end.
            link.refuse({"busy": True})
        elif any(time.monotonic() - each.heard < 3 * _beat_seconds(self._settings) for each in twins):
            link.refuse({"refused": f"{name} is there already; give each process an index of its own"})
        else:
            for each in twins:  # silent ones: their machines went down without a word
                self._drop(each)
            link.worker = worker

    def _drop_the_dead(self, now: float) -> Loss | None:
        """Closes what is dead, and says who is gone with it."""
        loss = None
        for link in list(self._links):
            silent = now - link.heard >= self._settings.silence_seconds
            if link.worker is None:
                if not link.open or now - link.since >= _JOIN_SECONDS:
                    self._drop(link)
            elif silent or not link.open:
                self._drop(link)
                if self._started and link.worker not in self._left:
                    loss = loss or gone(self._cluster.names[link.worker], link.open and self._settings.silence_seconds)
        if not self._started and now - self._since >= self._settings.start_seconds and self.absent:
            return _not_come(", ".join(self.absent), self._settings, self._refused)
        return loss

    def _drop(self, link: Link) -> None:
        self._selector.unregister(link.connection)
        self._links.remove(link)
        link.close()

    def _tell_all(self, message: dict[str, Any]) -> None:
        for link in self._links:
            if link.worker is not None:
                link.send(message)


class Follower:
    """Every other worker's end: it keeps a connection to the chief.

    Args:
        cluster: the run's workers.
        settings: how long to wait, and the port.
    """

    def __init__(self, cluster: Cluster, settings: WorkersConfig) -> None:
        self._cluster, self._settings = cluster, settings
        self._chief = cluster.names[0]
        self._link: Link | None = None
        self._since = self._last_beat = time.monotonic()
        self._started = self._left = False
        self._told: Loss | None = None
        self._problem = ""

    @property
    def absent(self) -> tuple[str, ...]:
        """The chief's name until it has said that all are there."""
        return () if self._started else (self._chief,)

    def poll(self) -> Loss | None:
        """Listens for a fifth of a second, and says what it has found to be wrong."""
        if self._left:  # the chief has: the run is at its end
            time.sleep(_TICK_SECONDS)
            return None
        if self._link is None:
            return self._connect()
        for message in self._link.messages():
            self._understand(message)
        now = time.monotonic()
        silent = now - self._link.heard >= self._settings.silence_seconds
        if now - self._last_beat >= _beat_seconds(self._settings):
            self._last_beat = now
            self._link.send({})
        if self._told is None and not self._left and (silent or not self._link.open):
            if self._started:
                return gone(self._chief, self._link.open and self._settings.silence_seconds)
            self._link.close()
            self._link = None
            time.sleep(_RETRY_SECONDS)
        return self._told

    def announce(self, loss: Loss) -> None:
        """Nothing: the chief finds out itself, or is what is gone."""

    def take_leave(self, farewell: dict[str, Any]) -> None:
        """Tells the chief that this worker ends."""
        if self._link is not None:
            self._link.send(farewell)

    def close(self) -> None:
        """Closes the connection."""
        if self._link is not None:
            self._link.close()

    def _connect(self) -> Loss | None:
        if time.monotonic() - self._since >= self._settings.start_seconds:
            return _not_come(self._chief, self._settings, self._problem)
        host, port = health_address(self._cluster, self._settings)
        try:
            connection = socket.create_connection((host, port), _CONNECT_SECONDS)
        except OSError as error:  # it is not there yet, or its name is not known yet
            self._problem = f"; {host}:{port}: {reason(error)}"
            time.sleep(_RETRY_SECONDS)
            return None
        self._link = Link(connection, _TICK_SECONDS)
        self._link.send({"join": self._cluster.index, "cluster": _digest(self._cluster)})
        return None

    def _understand(self, message: dict[str, Any]) -> None:
        if "refused" in message:
            self._told = Loss(str(message["refused"])[:_MAX_REASON], 2)
        elif "start" in message:
            self._started = True
        elif "gone" in message:
            code = 2 if message.get("code") == 2 else WORKER_GONE
            self._told = Loss(str(message["gone"])[: 2 * _MAX_REASON], code)
        elif "failed" in message:
            self._told = failed(self._chief, message)
        elif "bye" in message:
            self._left = True
        elif "busy" in message:
            self._problem = "; it is in a run that began without this worker, and has not ended"


def failed(name: str, message: dict[str, Any]) -> Loss:
    """What a worker's farewell says that has ended with an error."""
    reason = str(message["failed"])[:_MAX_REASON]
    return Loss(f"{name} has ended with an error: {reason}", 2 if message.get("code") == 2 else WORKER_GONE)


def gone(name: str, silent_seconds: float) -> Loss:
    """What is to be said of a worker that did not take leave."""
    if silent_seconds:
        return Loss(f"{name} has not been heard of for {silent_seconds:g} s: it hangs, or the network to it is cut")
    return Loss(f"{name} is gone: it was killed, or its machine went down")


def _not_come(names: str, settings: WorkersConfig, why: str) -> Loss:
    limit = f"{settings.start_seconds:g} s (training.workers.start_seconds)"
    return Loss(f"waited {limit} in vain for {names}{why}")


def _beat_seconds(settings: WorkersConfig) -> float:
    return min(_BEAT_SECONDS, settings.silence_seconds / 4)


def _digest(cluster: Cluster) -> str:
    return hashlib.sha256(" ".join(cluster.addresses).encode()).hexdigest()
