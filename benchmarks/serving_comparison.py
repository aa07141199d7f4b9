"""This server beside Flask, FastAPI and LitServe: one model, 1, 8 and 64 clients at once, in one run.

    python benchmarks/serving_comparison.py --python /path/to/servers/bin/python [--rounds 3] [--seconds 5]

`--python` is an interpreter that has the other servers; benchmarks/servers/requirements.txt says how to make one. The
same export of the dense and of the BERT chapter is behind all of them; without `--dense_export` and `--bert_export`
both are made, in runs/serving_comparison (about a minute; the weights do not matter for speed, so BERT is hardly
trained). All servers get the same JSON, ours over gRPC what it means. Every server is started anew in each round, is
alone while it is measured, and must first give the graph's own answer. The load comes from this process, on the same
machine. Printed are medians over the rounds; errors are added up.
"""

import argparse
import contextlib
import csv
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
SERVERS = Path(__file__).with_name("servers")
# For BERT the encoder of configs/bert_pretraining_zh.yaml, with random weights.
TRAINING = {
    "dense": ["training.epochs=2"],
    "bert_reviews_zh": [
        "model.preset=null",
        "model.backbone="
        "{num_layers: 2, num_heads: 4, hidden_dim: 256, intermediate_dim: 512, max_sequence_length: 128}",
        "data.tokenizer={kind: wordpiece, vocabulary_size: 5000, sequence_length: 128}",
        "data.train_examples=64",
        "training.epochs=1",
    ],
}
START_SECONDS, STOP_SECONDS, WARM_UP_SECONDS = 120, 20, 2.0


@dataclass(frozen=True)
class Workload:
    """A model and what it is asked.

    Attributes:
        title: Of its table.
        export: The model's base path, with version folders.
        signature: The signature that is called.
        input_name: Its only input.
        inputs: Arrays of one row.
    """

    title: str
    export: Path
    signature: str
    input_name: str
    inputs: Sequence[np.ndarray]

    @property
    def version_folder(self) -> Path:
        """The newest version."""
        return max((path for path in self.export.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


@dataclass(frozen=True)
class Contender:
    """A server of others.

    Attributes:
        package: What it needs.
        command: Its command line, after the interpreter; {port} is filled in.
        path: Where it is asked.
    """

    package: str
    command: str
    path: str = "/predict"


_FLASK = "-m gunicorn --worker-class gthread --log-level warning --bind 127.0.0.1:{port}"
_FASTAPI = "-m uvicorn fastapi_server:app --log-level warning --no-access-log --port {port}"
CONTENDERS = {
    "Flask, 64 threads": Contender("flask", f"{_FLASK} --threads 64 flask_server:app"),
    "Flask, 2 processes": Contender("flask", f"{_FLASK} --threads 32 --workers 2 flask_server:app"),
    "FastAPI, def": Contender("fastapi", _FASTAPI),
    "FastAPI, async def": Contender("fastapi", _FASTAPI, "/predict_on_loop"),
    "FastAPI, async def, 2 processes": Contender("fastapi", f"{_FASTAPI} --workers 2", "/predict_on_loop"),
    "LitServe": Contender("litserve", "litserve_server.py --port {port}"),
    "LitServe, batching": Contender(
        "litserve", "litserve_server.py --port {port} --max_batch_size 64 --batch_timeout 0.002"
    ),
}
OURS = ("tfbigmodel, gRPC", "tfbigmodel, REST")
# A graph that is called in a loop has the processor's caches to itself. In a server other code runs between two calls;
# a pause shows what the graph takes then.
BARE, BARE_COLD, CLIENT = "bare graph call", "bare graph call after a pause", "serving.client.Client, gRPC"
PAUSE_SECONDS = 0.0003


@dataclass(frozen=True)
class Figures:
    """One load on one server: requests a second, milliseconds, errors, µs of the server's processors per request."""

    rate: float
    p50: float
    p99: float
    errors: int
    processor: float


def main() -> None:
    """Runs everything and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the other servers")
    parser.add_argument("--dense_export", type=Path, help="base path of an export with a signature `pixels`")
    parser.add_argument("--bert_export", type=Path, help="base path of an export that takes texts")
    parser.add_argument("--models", default="dense,bert", help="which to measure (%(default)s)")
    parser.add_argument("--clients", default="1,8,64", help="loads (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load (%(default)g)")
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        measure_bare_call(Path(arguments.bare[0]), arguments.bare[1], Path(arguments.bare[2]), arguments.seconds)
        return
    clients = [int(number) for number in arguments.clients.split(",")]
    contenders = installed(arguments.python)
    print(f"{os.cpu_count()} processors, {arguments.rounds} rounds of {arguments.seconds:g} s; load average", end=" ")
    print(f"before: {os.getloadavg()[0]:.2f} (above 0.5 other work disturbs the figures)")
    started = time.monotonic()
    for model in arguments.models.split(","):
        export = getattr(arguments, f"{model}_export") or made_export(
            "dense" if model == "dense" else "bert_reviews_zh"
        )
        workload = dense_workload(export) if model == "dense" else bert_workload(export)
        compare(workload, contenders, arguments.python, clients, arguments.rounds, arguments.seconds)
    print(f"\ntook {(time.monotonic() - started) / 60:.0f} min")


def installed(python: str) -> dict[str, Contender]:
    """The contenders that an interpreter has the packages for; says which it lacks."""
    packages = sorted({contender.package for contender in CONTENDERS.values()})
    question = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
    answer = subprocess.run([python, "-c", question, "tensorflow", *packages], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"error: --python must be an interpreter, but {python} answers: {answer.stderr.strip()}")
    found = set(answer.stdout.split())
    for package in packages:
        if "tensorflow" not in found or package not in found:
            print(f"not measured: {package}; --python {python} lacks it (see benchmarks/servers/requirements.txt)")
    return {name: item for name, item in CONTENDERS.items() if {"tensorflow", item.package} <= found}


def made_export(config: str) -> Path:
    """The export of a short training, made unless it is there."""
    folder = REPOSITORY / "runs" / "serving_comparison"
    export, workdir = folder / "exported" / config, folder / config
    if export.is_dir() and any(path.name.isdecimal() for path in export.iterdir()):
        return export
    print(f"making {export} ...", flush=True)
    shutil.rmtree(workdir, ignore_errors=True)
    train = ["tfbigmodel.train", "--config", f"configs/{config}.yaml", "--workdir", str(workdir), "--quiet"]
    for change in TRAINING[config]:
        train += ["--set", change]
    for command in (train, ["tfbigmodel.export", "--workdir", str(workdir), "--output", str(export)]):
        subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return export


def dense_workload(export: Path) -> Workload:
    """Pictures of 8 × 8 grey pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8, 1), np.uint8)
    return Workload("dense 64-128-10, numbers in", export, "pixels", "pixels", list(pixels))


def bert_workload(export: Path) -> Workload:
    """Chinese reviews as they are."""
    with (REPOSITORY / "pipelines" / "datasets" / "reviews_zh.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in itertools.islice(csv.DictReader(file), 64)]
    inputs = [np.array([text.encode()], object) for text in texts]
    return Workload("BERT, 2 layers of 256, length 128, text in", export, "serving_default", "text", inputs)


def compare(
    workload: Workload,
    contenders: Mapping[str, Contender],
    python: str,
    clients: Sequence[int],
    rounds: int,
    seconds: float,
) -> None:
    """Measures all servers, round by round, and prints a model's table."""
    figures: dict[tuple[str, int], list[Figures]] = {}
    direct: dict[str, list[float]] = {BARE: [], BARE_COLD: [], CLIENT: []}
    for number in range(rounds):
        note(f"{workload.title}: round {number + 1} of {rounds}")
        bare_milliseconds, cold_milliseconds, expected = bare_call(workload, seconds)
        direct[BARE].append(bare_milliseconds)
        direct[BARE_COLD].append(cold_milliseconds)
        with running_ours(workload) as server:
            measure_server(OURS[0], server.grpc_target(workload), server, clients, seconds, figures)
            check_answers(server.url, workload, expected)
            measure_server(OURS[1], server.http_target(workload), server, clients, seconds, figures)
            direct[CLIENT].append(blocking_client_milliseconds(server, workload, seconds))
        for name, contender in contenders.items():
            with running_contender(name, contender, python, workload) as server:
                check_answers(server.url, workload, expected)
                measure_server(name, server.http_target(workload), server, clients, seconds, figures)
    note("")
    show(workload.title, figures, clients, list(contenders))
    show_overhead({name: statistics.median(values) for name, values in direct.items()}, figures, clients)


# Servers.


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        process: It leads a session, to which all of its processes belong.
        url: Where JSON goes.
        grpc_address: `host:port`; empty = none.
    """

    process: subprocess.Popen[bytes]
    url: str
    grpc_address: str = ""

    def grpc_target(self, workload: Workload) -> tuple[Any, Callable[[], bytes]]:
        """What the load generator sends over gRPC."""
        from serving.client.requests import ModelSpec, predict_request
        from serving.load_test import GrpcTarget

        spec = ModelSpec("model", None, None, workload.signature)
        requests = [predict_request(spec, {workload.input_name: row}).SerializeToString() for row in workload.inputs]
        return GrpcTarget(self.grpc_address), itertools.cycle(requests).__next__

    def http_target(self, workload: Workload) -> tuple[Any, Callable[[], bytes]]:
        """What it sends over HTTP."""
        from serving.load_test import HttpTarget, http_request

        address, _, path = self.url.removeprefix("http://").partition("/")
        requests = [http_request(address, f"/{path}", json_body(workload, row)) for row in workload.inputs]
        return HttpTarget(address), itertools.cycle(requests).__next__

    def processor_seconds(self) -> float:
        """What all processes of its session have used until now."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_ours(workload: Workload) -> Iterator[Server]:
    """This server, with its own defaults."""
    port, rest_port = free_port(), free_port()
    command = [sys.executable, "-m", "serving.server", f"--port={port}", f"--rest_api_port={rest_port}"]
    command += ["--model_name=model", f"--model_base_path={workload.export.resolve()}"]
    url = f"http://127.0.0.1:{rest_port}/v1/models/model:predict"
    with running("tfbigmodel", command, url, f"127.0.0.1:{port}", workload, REPOSITORY) as server:
        yield server


@contextlib.contextmanager
def running_contender(name: str, contender: Contender, python: str, workload: Workload) -> Iterator[Server]:
    """A server of others, as its users would start it."""
    port = free_port()
    command = [python, *contender.command.format(port=port).split()]
    with running(name, command, f"http://127.0.0.1:{port}{contender.path}", "", workload, SERVERS) as server:
        yield server


@contextlib.contextmanager
def running(
    name: str, command: list[str], url: str, grpc_address: str, workload: Workload, folder: Path
) -> Iterator[Server]:
    """Starts a server, waits until it answers, ends it with all of its processes."""
    environment = {
        **os.environ,
        "MODEL_DIRECTORY": str(workload.version_folder.resolve()),
        "MODEL_SIGNATURE": workload.signature,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])),
    }
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            give_up = time.monotonic() + START_SECONDS
            while not answers(url, workload):
                if process.poll() is not None or time.monotonic() > give_up:
                    output.seek(0)
                    sys.exit(f"error: {name} does not answer:\n{output.read().decode('utf-8', 'replace')[-3000:]}")
                time.sleep(0.2)
            yield Server(process, url, grpc_address)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a server to end; what is left of its session then is killed."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str, workload: Workload) -> bool:
    """Whether a server answers a request well."""
    try:
        ask(url, json_body(workload, workload.inputs[0]))
        return True
    except (urllib.error.URLError, OSError):
        return False


def ask(url: str, body: bytes) -> Any:
    """One request with JSON."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


def json_body(workload: Workload, row: np.ndarray) -> bytes:
    """A request in the row format."""
    instances = [value.decode() for value in row.tolist()] if row.dtype == object else row.tolist()
    body = {"signature_name": workload.signature, "instances": instances}
    return json.dumps(body, ensure_ascii=False).encode()


def check_answers(url: str, workload: Workload, expected: list[dict[str, Any]]) -> None:
    """Compares a server's answers with the graph's own: a server that answers wrongly is not measured."""
    for row, right in zip(workload.inputs, expected, strict=False):
        (answer,) = ask(url, json_body(workload, row))["predictions"]
        same = answer.keys() == right.keys() and all(
            answer[name] == value if isinstance(value, str) else np.allclose(answer[name], value, 1e-3, 1e-3)
            for name, value in right.items()
        )
        if not same:
            sys.exit(f"error: {url} answers {answer}, expected {right}")


# Measurements.


def measure_server(
    name: str,
    load: tuple[Any, Callable[[], bytes]],
    server: Server,
    clients: Sequence[int],
    seconds: float,
    figures: dict[tuple[str, int], list[Figures]],
) -> None:
    """One load after the other on one server."""
    from serving.load_test import measure

    for number in clients:
        note(f"  {name}, {number} clients")
        # Until the servers that learn, or compile for batch sizes that they meet for the first time, have done so.
        measure(*load, clients=number, seconds=WARM_UP_SECONDS, warm_up=0.0)
        used = server.processor_seconds()
        result = measure(*load, clients=number, seconds=seconds, warm_up=0.0)
        processor = (server.processor_seconds() - used) * 1e6 / max(1, result.requests)
        row = Figures(
            result.requests_per_second,
            result.percentile(50),
            result.percentile(99),
            sum(result.errors.values()),
            processor,
        )
        figures.setdefault((name, number), []).append(row)


def blocking_client_milliseconds(server: Server, workload: Workload, seconds: float) -> float:
    """The median of requests by the product's own client, one after the other."""
    from serving.client import Client

    requests = itertools.cycle([{workload.input_name: row} for row in workload.inputs])
    with Client(server.grpc_address) as client:
        return timed(lambda: client.predict("model", next(requests), workload.signature), seconds)


def bare_call(workload: Workload, seconds: float) -> tuple[float, float, list[dict[str, Any]]]:
    """Medians of the graph's run, in a loop and with pauses, and the right answers; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.json"
        rows = [row.tolist() if row.dtype != object else [value.decode() for value in row] for row in workload.inputs]
        inputs.write_text(json.dumps(rows))
        command = [sys.executable, __file__, "--seconds", str(seconds), "--bare", str(workload.version_folder)]
        command += [workload.signature, str(inputs)]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"error: the graph cannot be run: {result.stderr[-3000:]}")
    answer = json.loads(result.stdout)
    return answer["milliseconds"], answer["cold_milliseconds"], answer["expected"]


def measure_bare_call(folder: Path, signature_name: str, inputs: Path, seconds: float) -> None:
    """Prints milliseconds of a run of the graph, and its answers to the inputs."""
    from serving.engine import load_model

    model = load_model(folder)
    signature = model.signatures[signature_name]
    ((_, info),) = signature.inputs.items()
    names = sorted(signature.outputs)
    fetches = tuple(signature.outputs[name].name for name in names)
    values = []
    for row in json.loads(inputs.read_text()):
        is_text = isinstance(row[0], str)
        values.append(np.array([text.encode() for text in row], object) if is_text else np.array(row, np.uint8))
    expected = []
    for value in values:
        outputs = [array[0] for array in model.run((info.name,), fetches, [value])]
        plain = [array.decode() if isinstance(array, bytes) else array.tolist() for array in outputs]
        expected.append(dict(zip(names, plain, strict=True)))
    turn = itertools.cycle(values)
    answer = {"expected": expected}
    for name, pause in (("milliseconds", 0.0), ("cold_milliseconds", PAUSE_SECONDS)):
        answer[name] = timed(lambda: model.run((info.name,), fetches, [next(turn)]), seconds, pause)
    print(json.dumps(answer))


def timed(call: Callable[[], Any], seconds: float, pause: float = 0.0) -> float:
    """Milliseconds of a call, the median over so many seconds, with pauses between the calls."""
    times: list[float] = []
    warm = time.perf_counter() + min(1.0, seconds)
    while (started := time.perf_counter()) < warm + seconds:
        call()
        if started >= warm:
            times.append(time.perf_counter() - started)
        if pause:
            time.sleep(pause)
    return 1e3 * statistics.median(times)


# Tables.


def show(
    title: str, figures: Mapping[tuple[str, int], list[Figures]], clients: Sequence[int], contenders: Sequence[str]
) -> None:
    """Prints the medians over rounds, and how much faster ours is than the best contender."""
    print(f"\n{title}")
    for number in clients:
        best = max((median(figures[name, number], "rate") for name in contenders), default=0.0)
        heading = f"{number} client{'s' if number > 1 else ''}"
        print(f"{heading:33}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'µs of CPU':>11}", end="")
        print(f"{'× best other':>14}")
        for name in (*OURS, *contenders):
            rows = figures[name, number]
            rate = median(rows, "rate")
            print(f"{name:33}{rate:11.0f}{median(rows, 'p50'):9.2f}{median(rows, 'p99'):9.2f}", end="")
            print(f"{sum(row.errors for row in rows):8}{median(rows, 'processor'):11.0f}", end="")
            print(f"{rate / best:13.2f}×" if best else "")


def show_overhead(
    direct: Mapping[str, float], figures: Mapping[tuple[str, int], list[Figures]], clients: Sequence[int]
) -> None:
    """Prints what a request to this server costs one client beyond the graph itself."""
    bare = direct[BARE]
    rows = dict(direct)
    if 1 in clients:
        rows.update({f"load generator, {name}": median(figures[name, 1], "p50") for name in OURS})
    print(f"{'one client, p50':33}{'ms':>11}{'over the graph':>18}")
    for name, milliseconds in rows.items():
        over = "" if name == BARE else f"{milliseconds - bare:15.3f} ms"
        print(f"{name:33}{milliseconds:11.3f}{over:>18}")


def median(rows: Sequence[Figures], name: str) -> float:
    """The median of a figure over rounds."""
    return statistics.median(getattr(row, name) for row in rows)


def note(text: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:78}\r")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
