"""Mutated requests on both ports of a server: it must not crash, answer none with a server's error, or grow.

    python benchmarks/serving_fuzz.py [--requests 100000] [--seed 1]

Valid requests of every call are changed at random: bytes, slices, numbers, nesting, headers, whole sockets. Counted are
the answers by status. Memory is compared after a warm-up of a tenth of the requests. Ends with exit code 1 if anything
is not as it must be.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from serving_setup import Server, machine, running_server, save_model

from serving.load_test.connection import Connection
from serving.load_test.grpc_connection import GrpcTarget
from serving.load_test.http_connection import HttpTarget, http_request

CLIENTS, TIMEOUT = 16, 20.0
SERVER_FAULTS = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "HTTP 5", "no answer")
PIECES = [
    b"", b"\0", b"\xff\xfe", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"-0", b"[" * 3000, b'{"a":' * 2000, b'"b64"',
    b"null", b"true", b'{"b64": "!"}', b"\\ud800", b"\\u0000", "猫".encode(), b"%00", b"%2e%2e%2f", b"/../", b"\r\n",
    b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b": ",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x7f", b"\x80" * 12, b"signature_name", b"instances", b"inputs",
]  # fmt: skip
BODIES = [
    {"instances": [[1.0], [2.0]]}, {"inputs": [[1.0]]}, {"inputs": {"x": [[1.0]]}}, {"instances": [{"x": [1.0]}]},
    {"signature_name": "text", "instances": ["a", "b"]}, {"signature_name": "text", "inputs": {"text": ["猫"]}},
    {"signature_name": "text", "instances": [{"b64": "aGVsbG8="}]}, {"instances": []}, {}, [], 1, None, "x",
]  # fmt: skip
EXAMPLES = {"signature_name": "classify", "context": {"y": 1}, "examples": [{"x": 1.5}, {"x": [2.0]}, {"s": "a"}]}
PATHS = [
    "/v1/models/m:predict", "/v1/models/m/versions/1:predict", "/v1/models/m/labels/stable:predict", "/v1/models/m",
    "/v1/models/m:classify", "/v1/models/m:regress", "/v1/models/m/metadata", "/v1/models", "/models", "/health/ready",
    "/monitoring/prometheus/metrics", "/v1/models/%6d:predict?a=b", "/", "*", "http://host/v1/models/m",
]  # fmt: skip
METHODS = ["POST", "POST", "POST", "GET", "GET", "OPTIONS", "PUT", "DELETE", "PATCH"]


def mutate(source: random.Random, data: bytes) -> bytes:
    """Changes a request in a few places; now and then in none."""
    changed = bytearray(data)
    for _ in range(source.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        start = source.randrange(len(changed) + 1)
        end = min(len(changed), start + source.choice((1, 1, 2, 4, 16, 200)))
        match source.randrange(6):
            case 0:
                changed[start:end] = source.randbytes(end - start)
            case 1:
                del changed[start:end]
            case 2:
                changed[start:start] = changed[start:end] * source.choice((1, 2, 50))
            case 3:
                changed[start:end] = source.choice(PIECES)
            case 4:
                changed[start:start] = source.choice(PIECES)
            case 5 if changed:
                changed[start - 1] ^= 1 << source.randrange(8)
    return bytes(changed)


def grpc_seeds() -> dict[str, list[bytes]]:
    """Valid requests by the path of their call."""
    import tensorflow as tf
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        predict_pb2,
        regression_pb2,
    )

    def fill(request: Any, signature: str = "") -> Any:
        request.model_spec.name, request.model_spec.signature_name = "m", signature
        return request

    predict = fill(predict_pb2.PredictRequest())
    predict.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0], [2.0]]))
    content = fill(predict_pb2.PredictRequest(output_filter=["y"]))
    content.model_spec.version.value = 1
    content.inputs["x"].CopyFrom(tf.make_tensor_proto([[float(n)] for n in range(50)]))
    text = fill(predict_pb2.PredictRequest(), "text")
    text.inputs["text"].CopyFrom(tf.make_tensor_proto(["a", "猫"]))
    classify = fill(classification_pb2.ClassificationRequest(), "classify")
    regress = fill(regression_pb2.RegressionRequest(), "regress")
    for number in range(3):
        feature = classify.input.example_list.examples.add().features.feature
        feature["x"].float_list.value.append(number)
        feature["s"].bytes_list.value.append(b"a")
    regress.input.example_list_with_context.examples.extend(classify.input.example_list.examples)
    regress.input.example_list_with_context.context.features.feature["c"].int64_list.value.append(1)
    several = inference_pb2.MultiInferenceRequest(input=classify.input)
    fill(several.tasks.add(method_name="tensorflow/serving/classify"), "classify")
    metadata = fill(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]))
    prediction, model = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
    found = {
        prediction + "Predict": [predict, content, text],
        prediction + "Classify": [classify],
        prediction + "Regress": [regress],
        prediction + "MultiInference": [several],
        prediction + "GetModelMetadata": [metadata],
        model + "GetModelStatus": [fill(get_model_status_pb2.GetModelStatusRequest())],
        "/grpc.health.v1.Health/Check": [health_pb2.HealthCheckRequest(service=prediction.strip("/"))],
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": [
            reflection_pb2.ServerReflectionRequest(list_services="*"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=prediction.strip("/")),
            reflection_pb2.ServerReflectionRequest(
                file_containing_extension={"containing_type": "tensorflow.TensorProto", "extension_number": 7}
            ),
        ],
    }
    return {path: [request.SerializeToString() for request in requests] for path, requests in found.items()}


def reload_seed(base: Path) -> bytes:
    """A valid reload of the model that is served."""
    from tensorflow_serving.apis import model_management_pb2

    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path=str(base), model_platform="tensorflow")
    return request.SerializeToString()


def rest_request(source: random.Random, address: str) -> bytes:
    """A whole request whose body, path or headers are changed, but not its framing."""
    path = source.choice(PATHS)
    body = json.dumps(EXAMPLES if "ify" in path or "regress" in path else source.choice(BODIES)).encode()
    if source.random() < 0.8:
        body = mutate(source, body)
    if source.random() < 0.3:
        path = "/" + "".join(c for c in mutate(source, path.encode()).decode("latin-1") if "!" <= c <= "~")
    headers = (("Content-Encoding", "gzip"),) if source.random() < 0.05 else ()
    return http_request(address, path, body, headers, source.choice(METHODS[:3] if body else METHODS[3:]))


def raw_http(source: random.Random, address: str) -> bytes:
    """A request whose bytes are changed anywhere; some in chunks, some pipelined."""
    chunked = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b'10\r\n{"instances": [[\r\n7;x=y\r\n1.0]]}\n\r\n0\r\nA: b\r\n\r\n'
    seed = chunked if source.random() < 0.3 else rest_request(source, address)
    return mutate(source, seed) + (mutate(source, chunked) if source.random() < 0.2 else b"")


def raw_http2(source: random.Random, address: str) -> bytes:
    """What gRPC's port takes for the beginning of HTTP/2, or not."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
    headers = (
        bytes.fromhex("00001401040000000182868441") + b"\x0fgrpc.health.v1./" + bytes.fromhex("000000000100000001")
    )
    return mutate(source, preface + headers) if source.random() < 0.9 else source.randbytes(300)


async def ask(
    target: Any, make: Callable[[], bytes], count: int, outcomes: Counter[str], texts: dict[str, str]
) -> None:
    """Sends so many requests through several connections and counts what comes back."""
    left = count

    async def client() -> None:
        nonlocal left
        connection: Connection = target.connection()
        while left > 0:
            left -= 1
            answer: asyncio.Future[tuple[str | None, str]] = asyncio.get_running_loop().create_future()
            if connection.closed:
                connection = target.connection()
            request = make()

            def done(error: str | None, text: str, answer: asyncio.Future[tuple[str | None, str]] = answer) -> None:
                if not answer.done():
                    answer.set_result((error, text))

            connection.send(request, done)
            try:
                error, text = await asyncio.wait_for(answer, TIMEOUT)
            except TimeoutError:
                connection.give_up("no answer")
                error, text = "no answer", f"none within {TIMEOUT:g} s"
            outcomes[error or "OK"] += 1
            if is_fault(error or ""):
                texts.setdefault(str(error), f"{text[:300]} to {request[:300]!r}")
        connection.give_up("")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def ask_raw(
    address: str, make: Callable[[], bytes], count: int, outcomes: Counter[str], texts: dict[str, str]
) -> None:
    """Sends bytes on connections of their own, closes the sending side and reads what comes back."""
    host, _, port = address.rpartition(":")
    left = count

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            data, answer = make(), b""
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(data)
                writer.write_eof()
                answer = await asyncio.wait_for(reader.read(1 << 20), TIMEOUT)
                outcome = f"HTTP {answer[9:12].decode()}" if answer[:5] == b"HTTP/" else "closed"
            except TimeoutError:
                outcome = "no answer"
            except OSError:
                outcome = "reset"
            writer.transport.abort()
            outcomes[outcome] += 1
            if is_fault(outcome):
                texts.setdefault(outcome, f"{answer[:300]!r} to {data[:600]!r}")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def is_fault(outcome: str) -> bool:
    """Whether the server, not the client, is to blame by this status."""
    return outcome.startswith(SERVER_FAULTS)


async def fuzz(
    server: Server, base: Path, requests: int, source: random.Random
) -> tuple[dict[str, Counter[str]], dict]:
    """One round over all calls and ports; returns outcomes by what was asked, and the first text of each fault."""
    found: dict[str, Counter[str]] = {}
    texts: dict[str, str] = {}
    seeds = grpc_seeds()
    for path, requests_of_call in seeds.items():
        outcomes = found[f"gRPC {path.rpartition('/')[2]}"] = Counter()
        share = requests * (30 if path.endswith("Predict") else 5) // 100
        target = GrpcTarget(server.grpc, path, timeout=TIMEOUT)
        await ask(target, lambda r=requests_of_call: mutate(source, source.choice(r)), share, outcomes, texts)
    seed = reload_seed(base)
    target = GrpcTarget(server.grpc, "/tensorflow.serving.ModelService/HandleReloadConfigRequest", timeout=1.0)
    found["gRPC reload"] = Counter()
    await ask(target, lambda: mutate(source, seed), max(1, requests // 500), found["gRPC reload"], texts)
    again: Counter[str] = Counter()
    await ask(target, lambda: seed, 1, again, texts)
    if again["OK"] != again.total():
        raise SystemExit(f"the good configuration was not taken again: {again} {texts}")
    found["gRPC port, raw"] = Counter()
    await ask_raw(server.grpc, lambda: raw_http2(source, server.grpc), requests // 50, found["gRPC port, raw"], texts)
    found["REST"] = Counter()
    await ask(HttpTarget(server.rest), lambda: rest_request(source, server.rest), requests // 3, found["REST"], texts)
    found["REST port, raw"] = Counter()
    await ask_raw(server.rest, lambda: raw_http(source, server.rest), requests // 20, found["REST port, raw"], texts)
    return found, texts


async def answers_rightly(server: Server) -> bool:
    """Whether good requests get good answers on both ports."""
    body = http_request(server.rest, "/v1/models/m:predict", b'{"instances": [[2.0]]}')
    host, _, port = server.rest.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(body)
    answer = await asyncio.wait_for(reader.read(10_000), TIMEOUT)
    writer.transport.abort()
    outcomes: Counter[str] = Counter()
    path, seeds = next(iter(grpc_seeds().items()))
    await ask(GrpcTarget(server.grpc, path), lambda: seeds[0], 1, outcomes, {})
    return b"[[5.0]\n    ]" in answer and set(outcomes) == {"OK"}


def main() -> None:
    """Fuzzes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=120_000, help="about how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    source = random.Random(arguments.seed)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "m"
        save_model(base / "1")
        flags = (
            "--model_name=m",
            f"--model_base_path={base}",
            "--max_num_load_retries=0",
            "--rest_api_timeout_in_ms=5000",
        )
        with running_server(*flags) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fuzz(server, base, arguments.requests // 10, source))
            before, files = server.resident_mb(), server.open_files()
            started = time.perf_counter()
            found, texts = runner.run(fuzz(server, base, arguments.requests, source))
            seconds = time.perf_counter() - started
            right = runner.run(answers_rightly(server))
            time.sleep(3)
            after, files_after = server.resident_mb(), server.open_files()
            log = server.log.read_text()
    total = sum(found.values(), Counter())
    for name, outcomes in found.items():
        print(f"{name:24} {outcomes.total():7}  " + ", ".join(f"{kind} {n}" for kind, n in outcomes.most_common()))
    faults = sum(number for kind, number in total.items() if is_fault(kind))
    growth = after / before - 1
    tracebacks = log.count("Traceback")
    print(f"\n{total.total()} requests in {seconds:.0f} s ({total.total() / seconds:.0f}/s), seed {arguments.seed}")
    print(f"server's faults {faults}, tracebacks in its log {tracebacks}, right answers afterwards: {right}")
    print(f"resident {before:.0f} MB before, {after:.0f} MB after: {growth:+.1%}; open files {files}, {files_after}")
    for kind, text in texts.items():
        print(f"first {kind}: {text}")
    if tracebacks:
        print(log[log.index("Traceback") - 200 :][:3000])
    print(machine())
    sys.exit(0 if not faults and not tracebacks and right and growth < 0.05 else 1)


if __name__ == "__main__":
    main()
