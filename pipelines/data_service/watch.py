"""What ends a training whose batches do not come any more: an error where TensorFlow gives one, a watch where not."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from pipelines.config import ServiceConfig
from pipelines.data_service.calls import answering_workers, dispatcher
from pipelines.errors import TRY_AGAIN, OutageError, UserError

_GO_ON = "start the training again to go on from the last checkpoint"
_FROM_WORKER = re.compile(r"Failed to get element from worker (\S+): (.*)", re.DOTALL)

# What it says with --work_dir, and without.
_ITERATION_GONE = re.compile(r"Iteration client id not found|Unknown iteration client id")

# Set while a training in this process reads from a service.
_in_use = threading.Event()


def watch(service: ServiceConfig) -> None:
    """Says that batches are read from now on; `service_watched` looks after the processes that make them."""
    _in_use.set()


@contextmanager
def service_watched(service: ServiceConfig | None) -> Iterator[None]:
    """Ends a training whose tf.data service does not work any more with one line.

    Where the dispatcher or all workers are gone or hang, TensorFlow waits for them for ever, inside an operation that
    cannot be stopped. So a thread asks them all the time, and ends this process, with exit code 138, when they have not
    answered for `timeout_seconds`. The last checkpoint is whole, and the same command goes on from it: by itself where
    a cluster starts it again, which it does after this code.

    Args:
        service: None does nothing.

    Raises:
        UserError: a worker reported an error.
        OutageError: the dispatcher was started anew.
    """
    if service is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_keep_asking, args=(service, ended), daemon=True, name="data-service-watch")
    thread.start()
    try:
        yield
    except tf.errors.OpError as error:
        told = _told(error, service)
        if told is None:
            raise
        raise told from error
    finally:
        ended.set()
        _in_use.clear()


def _keep_asking(service: ServiceConfig, ended: threading.Event) -> None:
    interval = min(5.0, service.timeout_seconds / 4)
    last_answer = time.monotonic()
    while not ended.wait(interval):
        workers = answering_workers(service, interval)
        if workers or not _in_use.is_set():
            last_answer = time.monotonic()
        elif time.monotonic() - last_answer > service.timeout_seconds and not ended.is_set():
            missing = f"the dispatcher at {dispatcher(service)} has" if workers is None else "the tf.data workers have"
            print(
                f"error: data.service: {missing} not answered for {service.timeout_seconds:g} s; {_GO_ON}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            os._exit(TRY_AGAIN)


def _told(error: tf.errors.OpError, service: ServiceConfig) -> UserError | None:
    """The one line that an error of the service comes down to; None for another error."""
    message = str(error)
    if _ITERATION_GONE.search(message):
        return OutageError(
            f"data.service: the dispatcher at {dispatcher(service)} was started anew without its state (see its "
            f"--work_dir); {_GO_ON}"
        )
    from_worker = _FROM_WORKER.search(message)
    if from_worker:
        address, reason = from_worker[1], from_worker[2].partition("\n")[0].partition("[[")[0].strip()
        return UserError(
            f"data.service: the tf.data worker {address} failed: {reason}; it must see the same files under the same "
            "paths, and have the same packages"
        )
    return None
