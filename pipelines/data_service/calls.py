"""Calls to dispatchers and workers that end: TensorFlow's own go on trying for ever where nobody answers."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from pipelines.config import ServiceConfig
from pipelines.errors import OutageError, UserError

_DISPATCHER = "/tensorflow.data.DispatcherService/"
# A worker that makes batches with all its cores may take a while to say so.
_WORKER_SECONDS = 3.0


def ready_workers(service: ServiceConfig, in_between: bool = False) -> list[str]:
    """The addresses of the workers that the dispatcher knows and that answer.

    Waits, no longer than `timeout_seconds`, until there are as many as the configuration wants.

    Args:
        service: where the dispatcher is.
        in_between: the training has been there before, so that it is no mistake if they do not answer.

    Raises:
        UserError: the dispatcher does not answer in time, or too few workers do.
        OutageError: so, in between.
    """
    kind = OutageError if in_between else UserError
    deadline = time.monotonic() + service.timeout_seconds
    while True:
        workers = answering_workers(service, deadline - time.monotonic())
        if workers is not None and len(workers) >= service.workers:
            return workers
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if workers is None:
        raise kind(
            f"data.service.address: no dispatcher answers at {dispatcher(service)} within {service.timeout_seconds:g} "
            "s; start it: python -m pipelines.data_service dispatcher, or mend the address"
        )
    raise kind(
        f"data.service: {len(workers)} workers of the dispatcher at {dispatcher(service)} answer, data.service.workers "
        f"is {service.workers}; start more: python -m pipelines.data_service worker --dispatcher {dispatcher(service)}"
    )


def answering_workers(service: ServiceConfig, seconds: float) -> list[str] | None:
    """The workers that answer now; None where the dispatcher does not answer within so many seconds."""
    listed = _call(dispatcher(service), _DISPATCHER + "GetWorkers", seconds)
    if listed is None:
        return None
    # The dispatcher does not forget those that have gone.
    workers = _addresses(listed)
    with ThreadPoolExecutor(max(len(workers), 1)) as pool:
        return sorted(one for one, answers in zip(workers, pool.map(_answers, workers), strict=True) if answers)


def dispatcher_answers(address: str, seconds: float) -> bool:
    """Whether a dispatcher answers at `host:port` within so many seconds."""
    return _call(address, _DISPATCHER + "GetVersion", seconds) is not None


def dispatcher(service: ServiceConfig) -> str:
    """The dispatcher's host and port."""
    return service.address.removeprefix("grpc://")


def _answers(worker: str) -> bool:
    return _call(worker, "/tensorflow.data.WorkerService/GetWorkerTasks", _WORKER_SECONDS) is not None


def _call(address: str, method: str, seconds: float) -> bytes | None:
    """Calls with an empty message, which all these calls take; None where nobody answers in time."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer: bytes = call(b"", timeout=max(seconds, 0.1), wait_for_ready=True)
        except grpc.RpcError:
            return None
        return answer


def _addresses(message: bytes) -> list[str]:
    """The workers of a GetWorkersResponse: `repeated WorkerInfo workers = 1`, each with `string address = 1`.

    TensorFlow does not ship the classes of these messages.
    """
    return [value.decode() for info in _fields(message) for value in _fields(info)]


def _fields(message: bytes) -> list[bytes]:
    """The values of field 1, all others left out; every field here has a length."""
    values, place = [], 0
    while place < len(message):
        key, place = _varint(message, place)
        size, place = _varint(message, place)
        if key == (1 << 3 | 2):
            values.append(message[place : place + size])
        place += size
    return values


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
