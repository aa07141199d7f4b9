"""What every request needs, and the way of an inference through it, whichever port it came from."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.inference.call import MakeCall

if TYPE_CHECKING:
    from serving.batching.runner import Runner
    from serving.manager import Manager
    from serving.operations.access_log import AccessLog
    from serving.operations.metrics import Metrics
    from serving.operations.request_log import RequestLog
    from serving.security.gate import Gate
    from serving.servable import Servable


# Larger messages are taken apart and put together in a thread, so that the event loop stays free for others.
LARGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Core:
    """The parts of a running server that requests use.

    Attributes:
        manager: The models.
        runner: Runs their graphs.
        gate: Who may do what, and how much of it.
        metrics: What Prometheus reads.
        access_log: One line for each request.
        request_log: Samples of requests and their answers.
    """

    manager: Manager
    runner: Runner
    gate: Gate
    metrics: Metrics
    access_log: AccessLog
    request_log: RequestLog


def find_servable(manager: Manager, spec: Any) -> Servable:
    """The version that a `ModelSpec` names, to use in a `with` block.

    Raises:
        ServingError: An unknown label, model or version.
    """
    choice = spec.WhichOneof("version_choice")
    return manager.lease(
        spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


async def infer(
    core: Core, api: str, spec: Any, make_call: MakeCall, request: Any, deadline: float | None, facts: dict[str, Any]
) -> Any:
    """Answers an inference: finds the version, reads the request, runs the graph, makes the response.

    Args:
        core: The server's parts.
        api: `Predict`, `Classify`, `Regress` or `MultiInference`, for the metrics.
        spec: The `ModelSpec` that says which model answers.
        make_call: The two halves around the graph, e.g. `serving.inference.predict.predict_call`.
        request: What `make_call` reads.
        deadline: When the answer is of no more use, in seconds of `time.monotonic()`; None = never.
        facts: Filled with what the access log tells of the request.

    Returns:
        The response.

    Raises:
        ServingError: One of the contract's errors, or what an op in the graph said.
    """
    with find_servable(core.manager, spec) as servable:
        facts["version"] = servable.version
        large = facts.get("request_bytes", 0) > LARGE_BYTES
        arguments = (servable.name, servable.version, servable.model, request)
        run, respond = await asyncio.to_thread(make_call, *arguments) if large else make_call(*arguments)
        facts["signature"] = run.signature_key
        started = time.perf_counter()
        outputs = await core.runner.run(servable, run, deadline, facts)
        core.metrics.runtime(servable.name, api, (time.perf_counter() - started) * 1e6)
        large = sum(getattr(output, "nbytes", 0) for output in outputs) > LARGE_BYTES
        return await asyncio.to_thread(respond, outputs) if large else respond(outputs)


def known_model(core: Core, name: str) -> str:
    """The name of a configured model, "" for any other: what clients send must not fill the metrics with names."""
    return name if core.manager.config(name) is not None else ""
