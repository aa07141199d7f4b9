"""Ten times the load that a server can take: how it refuses, how health answers meanwhile, how soon all is well again.

    python benchmarks/serving_overload.py [--seconds 20] [--clients 1500]

Two models: one whose graph takes no time, so that the server's own work is the limit, and one that takes about 20 ms
for each row. For both, on both ports: the capacity (closed loop, 64 clients), the latency at half of it, then requests
planned at ten times the capacity (open loop), and half of the capacity again, second by second. /health/live and
gRPC's health are asked from another process all the while. Of the light model, a generator on the same machine cannot
send ten times what the server answers; what it could not send is shown as such. Its latencies count from the time that
was planned for a request, those of health too.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from serving_setup import Server, machine, running_server, save_model

from serving.load_test.grpc_connection import GrpcTarget
from serving.load_test.http_connection import HttpTarget, http_request
from serving.load_test.measure import NOT_SENT, Result, measure

FACTOR = 10
PROBES_PER_SECOND = 50.0
RECOVERY_SECONDS, HEALTH_MS = 10, 100.0
MODELS = {"light": 0, "slow": 75}


def predict_message() -> bytes:
    """A request of one row."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[2.0]]))
    return request.SerializeToString()


def probe_health(kind: str, address: str, seconds: float) -> tuple[np.ndarray, dict[str, int]]:
    """Asks for health so often a second, in a process of its own; milliseconds and errors."""
    if kind == "REST":
        request, target = http_request(address, "/health/live", b"", method="GET"), HttpTarget(address)
    else:
        request, target = b"", GrpcTarget(address, "/grpc.health.v1.Health/Check")
    result = measure(target, lambda: request, 64, seconds, rate=PROBES_PER_SECOND, warm_up=0.5)
    return result.latencies_ms, dict(result.errors)


def overload(server: Server, port: str, options: argparse.Namespace, pool: Any) -> bool:
    """One port of one server; prints what it finds and returns whether that is as it should be."""
    target: Any
    if port == "gRPC":
        target, request = GrpcTarget(server.grpc), predict_message()
    else:
        target = HttpTarget(server.rest)
        request = http_request(server.rest, "/v1/models/m:predict", b'{"instances": [[2.0]]}')

    def load(clients: int, seconds: float, rate: float | None = None, warm_up: float = 1.0) -> Result:
        return measure(target, lambda: request, clients, seconds, rate=rate, warm_up=warm_up)

    load(64, 3)
    capacity = load(64, 4).requests_per_second
    normal = load(64, 5, capacity / 2)
    print(f"\n{port}: capacity {capacity:.0f} requests/s; at half of it {milliseconds(normal.latencies_ms)}")
    probes = {
        kind: pool.apply_async(probe_health, (kind, address, options.seconds))
        for kind, address in (("REST", server.rest), ("gRPC", server.grpc))
    }
    time.sleep(0.5)
    processor, started = server.processor_seconds(), time.perf_counter()
    flood = load(options.clients, options.seconds, FACTOR * capacity, warm_up=0.0)
    ended = started + options.seconds  # what had been let in by then may still have been waited for
    busy = (server.processor_seconds() - processor) / (time.perf_counter() - started)
    well_after = recovery(lambda: load(64, 1, capacity / 2, warm_up=0.0), normal, ended)
    refused = flood.errors.total() - flood.errors[NOT_SENT]
    planned = flood.errors.total() + len(flood.latencies_ms)
    print(
        f"  planned {planned / options.seconds:.0f}/s, of which not sent {flood.errors[NOT_SENT] / planned:.0%};",
        end=" ",
    )
    print(f"answered {flood.requests_per_second:.0f}/s, refused {refused / options.seconds:.0f}/s")
    print(f"  answers {milliseconds(flood.latencies_ms)}; refusals {milliseconds(flood.error_latencies_ms)}")
    for kind, number in flood.errors.items():
        print(f"  {number} × {kind}: {flood.error_texts[kind]}")
    print(f"  processors used by the server {busy:.2f}")
    ok = well_after is not None
    for kind, probe in probes.items():
        latencies, errors = probe.get(options.seconds + 60)
        print(f"  health by {kind}: {milliseconds(latencies)}, errors {errors or 'none'}")
        ok &= bool(np.percentile(latencies, 99) < HEALTH_MS) and not errors
    print(
        f"  well again after {well_after:.1f} s" if well_after is not None else f"  not well after {RECOVERY_SECONDS} s"
    )
    return ok


def recovery(measure_second: Callable[[], Result], normal: Result, ended: float) -> float | None:
    """Seconds from the flood's end until a second in which the p99 is at most twice the usual (or 10 ms more)."""
    goal = max(2 * normal.percentile(99), normal.percentile(99) + 10)
    while (after := time.perf_counter() - ended) < RECOVERY_SECONDS:
        result = measure_second()
        if not result.errors and result.percentile(99) <= goal:
            return after
    return None


def milliseconds(latencies: np.ndarray) -> str:
    """The middle and the end of latencies."""
    if not len(latencies):
        return "none"
    p50, p99 = np.percentile(latencies, (50, 99))
    return f"p50 {p50:.1f} p99 {p99:.1f} max {latencies.max():.1f} ms"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of overload (%(default)g)")
    parser.add_argument("--clients", type=int, default=1500, help="connections for the overload (%(default)s)")
    parser.add_argument("--models", default="light,slow")
    parser.add_argument("--ports", default="gRPC,REST")
    parser.add_argument("--flags", default="", help="more flags for the server, separated by blanks")
    options = parser.parse_args()
    ok = True
    with multiprocessing.get_context("spawn").Pool(2) as pool, tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            base = Path(folder) / name
            save_model(base / "1", work=MODELS[name])
            for port in options.ports.split(","):
                with running_server("--model_name=m", f"--model_base_path={base}", *options.flags.split()) as server:
                    print(f"\n{name} model; {machine()}", end="")
                    ok &= overload(server, port, options, pool)
                    sys.stdout.flush()
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
