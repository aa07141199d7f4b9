"""A hundred version changes under steady load on both ports, broken versions among them: no request may fail.

    python benchmarks/serving_hot_swap.py [--swaps 100] [--clients 4]

Good versions answer 2x + 1 or 3x, so that every answer shows which kind it came from. Every fifth change is a version
that cannot be loaded: a spoiled graph, none at all, a manifest that does not match. Latencies are compared with the
same load without changes. Ends with exit code 1 if a request failed or a broken version became available.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving_setup import Server, machine, running_server, save_model

from serving.client import Client
from serving.load_test.grpc_connection import GrpcTarget
from serving.load_test.http_connection import HttpTarget, http_request
from serving.load_test.measure import Result, measure

CHANGE_SECONDS = 30.0


def put_version(source: Path, base: Path, version: int, spoil: Callable[[Path], None] | None = None) -> None:
    """Places a version in one step, with a manifest, and spoils it before if told so."""
    waiting = base / f".waiting-{version}"
    shutil.copytree(source, waiting)
    paths = [path for path in sorted(waiting.rglob("*")) if path.is_file()]
    files = {path.relative_to(waiting).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    (waiting / "assets.extra").mkdir(exist_ok=True)
    (waiting / "assets.extra" / "manifest.json").write_text(json.dumps({"algorithm": "sha256", "files": files}))
    if spoil is not None:
        spoil(waiting)
    waiting.rename(base / str(version))


def spoiled_file(folder: Path) -> None:
    """No graph where one should be, and no manifest that would tell."""
    shutil.rmtree(folder / "assets.extra")
    (folder / "saved_model.pb").write_bytes(b"no saved model")


def missing_file(folder: Path) -> None:
    """No graph at all."""
    shutil.rmtree(folder / "assets.extra")
    (folder / "saved_model.pb").unlink()


def wrong_manifest(folder: Path) -> None:
    """A file that is not what the manifest says."""
    (folder / "variables" / "variables.index").write_bytes(b"other")


BREAKAGES = (spoiled_file, missing_file, wrong_manifest)


def under_load(server: Server, clients: int, seconds: float, action: Callable[[], None]) -> dict[str, Result]:
    """Loads both ports while `action` runs, for `seconds` at least."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[2.0]]))
    message = request.SerializeToString()
    http = http_request(server.rest, "/v1/models/m:predict", b'{"instances": [[2.0]]}')
    stop, results = threading.Event(), dict[str, Result]()

    def load(name: str, target: Any, data: bytes) -> None:
        results[name] = measure(target, lambda: data, clients, 3600, warm_up=0.0, stop=stop)

    threads = [
        threading.Thread(target=load, args=("gRPC", GrpcTarget(server.grpc), message)),
        threading.Thread(target=load, args=("REST", HttpTarget(server.rest), http)),
    ]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + seconds
        action()
        time.sleep(max(0.0, end - time.monotonic()))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return dict(sorted(results.items()))


def change_versions(server: Server, base: Path, sources: list[Path], swaps: int, problems: list[str]) -> None:
    """Puts one version after the other and waits until each is there, or refused; asks both kinds of client between."""
    good = 1
    with Client(server.grpc) as client:
        for version in range(2, swaps + 2):
            broken = BREAKAGES[version // 5 % len(BREAKAGES)] if version % 5 == 0 else None
            put_version(sources[version % 2], base, version, broken)
            end = time.monotonic() + CHANGE_SECONDS
            while True:
                status = {status.version: status for status in client.status("m")}
                state = status[version].state if version in status else ""
                if state == "END" if broken else (state == "AVAILABLE" and status[good].state == "END"):
                    break
                if time.monotonic() > end:
                    problems.append(f"version {version} is {state!r} after {CHANGE_SECONDS:g} s")
                    return
                time.sleep(0.02)
            if broken:
                if status[good].state != "AVAILABLE" or status[version].error_code == "OK":
                    problems.append(f"after broken version {version}: {status[version]}")
            else:
                shutil.rmtree(base / str(good))
                good = version
            expected = (6.0, 5.0)[good % 2]
            answer = client.predict("m", {"x": [[2.0]]})["y"].item()
            if answer != expected:
                problems.append(f"version {good} answered {answer}, not {expected}")


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--clients", type=int, default=2, help="on each port (%(default)s)")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "m"
        sources = [Path(folder) / "even", Path(folder) / "odd"]
        save_model(sources[0], 3.0, 0.0)
        save_model(sources[1], 2.0, 1.0)
        put_version(sources[1], base, 1)
        flags = ("--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=0.1")
        problems: list[str] = []
        with running_server(*flags, "--max_num_load_retries=0") as server:
            under_load(server, arguments.clients, 3.0, lambda: None)
            tables = {"without changes": under_load(server, arguments.clients, 10.0, lambda: None)}
            before, files = server.resident_mb(), server.open_files()
            started = time.perf_counter()
            tables["with changes"] = under_load(
                server,
                arguments.clients,
                0.0,
                lambda: change_versions(server, base, sources, arguments.swaps, problems),
            )
            seconds = time.perf_counter() - started
            time.sleep(2)
            after, files_after = server.resident_mb(), server.open_files()
            tracebacks = server.log.read_text().count("Traceback")
    print(f"{'':24}{'requests':>9}{'failed':>8}{'req/s':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}")
    failed = 0
    for name, results in tables.items():
        for port, result in results.items():
            errors = result.errors.total()
            failed += errors
            figures = "".join(
                f"{value:8.1f}" for value in (*map(result.percentile, (50, 99)), result.latencies_ms.max())
            )
            print(f"{name + ', ' + port:24}{result.requests:9}{errors:8}{result.requests_per_second:8.0f}{figures}")
            for kind, text in result.error_texts.items():
                print(f"  {kind}: {text}")
    print(f"\n{arguments.swaps} changes in {seconds:.0f} s, {arguments.swaps // 5} of them broken versions")
    print(f"resident {before:.0f} MB before, {after:.0f} MB after; open files {files}, {files_after}")
    print(f"failed requests {failed}, tracebacks in the log {tracebacks}, problems {problems or 'none'}")
    print(machine())
    sys.exit(1 if failed or problems else 0)


if __name__ == "__main__":
    main()
