"""Models whose answers are exact (y = 2x + 1), and real servers on free loopback ports, which no test leaves behind."""

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0


def wait_for(condition, seconds=20.0):
    """Polls until the condition is true; fails the test when it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not true within {seconds} s")


class ServerProcess:
    """`python -m serving.server` as a child process; its log goes to a file."""

    def __init__(self, arguments, log: Path):
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving.server", *arguments],
                cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stream, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.address = ""

    def wait_ready(self):
        """Waits for the line that says where it listens."""
        readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if readable else ""
        if not line.startswith("Running gRPC ModelServer at "):
            raise AssertionError(f"server did not start; it printed {line!r} and logged:\n{self.log.read_text()}")
        self.address = line.split()[4]
        return self

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture(scope="session")
def run_server(tmp_path_factory):
    """Starts servers: `run_server("--port=0", …)`; every one is ended after the last test."""
    logs, servers = tmp_path_factory.mktemp("logs"), []

    def start(*arguments):
        server = ServerProcess(arguments, logs / f"{len(servers)}.log")
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        server.process.stdout.close()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A version folder per model: linear (y = 2x + 1), linear3 (y = 3x), text, many (two inputs), tf1, classifiers."""
    import tensorflow as tf
    from tensorflow.python.data.experimental.ops.testing import sleep

    folder = tmp_path_factory.mktemp("exported")

    class Linear(tf.Module):
        def __init__(self, slope, intercept):
            super().__init__()
            self.slope, self.intercept = tf.Variable(float(slope)), tf.Variable(float(intercept))

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def serve(self, x):
            return {"y": self.slope * x + self.intercept}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="microseconds")])
        def slow(self, microseconds):
            pause = tf.data.Dataset.from_tensors(self.slope * 0.5).apply(sleep(microseconds))
            return {"one": pause.reduce(0.0, lambda total, one: total + one)}

    for name, slope, intercept in (("linear", 2, 1), ("linear3", 3, 0)):
        module = Linear(slope, intercept)
        tf.saved_model.save(
            module, str(folder / name), signatures={"serving_default": module.serve, "slow": module.slow}
        )

    class Text(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text):
            length = tf.strings.length(text, unit="UTF8_CHAR")
            return {
                "label": tf.strings.join(["<", text, ">"]),
                "length": length,
                "half": tf.cast(length, tf.float32) / 2,
            }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def number(self, text):
            return {"number": tf.strings.to_number(text)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
        def image(self, image):
            return {"bytes": tf.strings.length(image), "image": image}

    class Classifier(tf.Module):
        """The classes' logits are the bytes of the image: `b"\\x01\\x03\\x02"` is most of all a dog."""

        def __init__(self, names, top_k, threshold=None):
            super().__init__()
            self.names, self.top_k, self.threshold = names, top_k, threshold

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
        def serve(self, image):
            size = tf.strings.length(image)
            message = tf.strings.format("image: element {} is no image", tf.argmin(size))
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(size == len(self.names)), [message])]):
                logits = tf.cast(tf.io.decode_raw(image, tf.uint8), tf.float32)
            probabilities = tf.nn.softmax(logits)
            index = (
                tf.argmax(logits, 1)
                if self.threshold is None
                else tf.cast(probabilities[:, 1] > self.threshold, tf.int64)
            )
            answers = {"label": tf.gather(self.names, index), "probabilities": probabilities, "logits": logits}
            if self.top_k:
                top = tf.math.top_k(probabilities, self.top_k)
                answers |= {"top_labels": tf.gather(self.names, top.indices), "top_probabilities": top.values}
            return answers

    for name, *arguments in (
        ("classes", ["猫", "dog", "bird"], 2),
        ("classes_alone", ["猫", "dog", "bird"], 0),
        ("threshold", ["no", "yes"], 0, 0.1),
    ):
        module = Classifier(*arguments)
        tf.saved_model.save(module, str(folder / name), signatures={"serving_default": module.serve})

    module = Text()
    tf.saved_model.save(
        module,
        str(folder / "text"),
        signatures={"serving_default": module.serve, "number": module.number, "image": module.image},
    )

    class Many(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float32, name="age"),
                tf.TensorSpec([None], tf.string, name="city"),
                tf.TensorSpec([None, 2], tf.int32, name="pair"),
            ]
        )
        def serve(self, age, city, pair):
            return {
                "older": age + 1,
                "city": city,
                "sum": tf.reduce_sum(pair, 1),
                "adult": age >= 18,
                "z": tf.constant(7),
            }

    module = Many()
    tf.saved_model.save(module, str(folder / "many"), signatures={"serving_default": module.serve})

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        slope = v1.get_variable("slope", initializer=2.0, use_resource=False)
        y = tf.add(slope * x, 1.0, name="y")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder / "tf1"), {"x": x}, {"y": y})
    return folder


def write_manifest(version: Path):
    """The manifest as `tfbigmodel.export` writes it."""
    files = {
        path.relative_to(version).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(version.rglob("*"))
        if path.is_file()
    }
    (version / "assets.extra").mkdir(exist_ok=True)
    (version / "assets.extra" / "manifest.json").write_text(json.dumps({"algorithm": "sha256", "files": files}))


@pytest.fixture(scope="session")
def put_version():
    """Places a version as our export does, in one step: `put_version(source, base, 2, manifest=True)`."""

    def put(source: Path, base: Path, version: int | str, manifest=False, change=None):
        base.mkdir(exist_ok=True, parents=True)
        waiting = base / f".waiting-{version}"
        shutil.copytree(source, waiting)
        if manifest:
            write_manifest(waiting)
        if change:
            change(waiting)
        waiting.rename(base / str(version))
        return base / str(version)

    return put


@pytest.fixture(scope="session")
def remove_version():
    """Removes a version in one step, as a careful user does; a half-removed one would be half a version."""

    def remove(base: Path, version: int | str):
        gone = base / f".gone-{version}"
        (base / str(version)).rename(gone)
        shutil.rmtree(gone)

    return remove


# Each life-cycle test has a model of its own on the shared server, because starting a server takes seconds.
LIFE_CYCLE_MODELS = ("swap", "broken", "tampered", "deleted", "held", "missing")


@pytest.fixture(scope="session")
def models(exported, put_version, tmp_path_factory):
    """The base path of each model of the shared server, by name."""
    folder = tmp_path_factory.mktemp("models")
    bases = {}
    for name, source, versions in [
        ("linear", "linear", [1, 3]),
        ("zero", "linear", [0]),
        ("text", "text", ["00000123"]),
        ("many", "many", [1]),
        ("tf1", "tf1", [1]),
        *((name, name, [1]) for name in ("classes", "classes_alone", "threshold")),
        *((name, "linear", [1]) for name in LIFE_CYCLE_MODELS),
    ]:
        for version in versions:
            put_version(exported / source, folder / name, version, manifest=name in ("many", "tampered"))
        bases[name] = folder / name
    return bases


@pytest.fixture(scope="session")
def server(run_server, models, tmp_path_factory):
    """The shared server with every model; `linear` has versions 1 and 3 and the label `stable` on 1."""
    configs = []
    for name, base in models.items():
        policy = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }" if name == "linear" else ""
        configs.append(f"config {{ name: '{name}' base_path: '{base}' model_platform: 'tensorflow' {policy} }}")
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text("model_config_list { " + " ".join(configs) + " }")
    socket = config.parent / "grpc.socket"
    return run_server(
        "--port=0", f"--model_config_file={config}", "--file_system_poll_wait_seconds=0.1",
        f"--grpc_socket_path={socket}", "--grpc_channel_arguments=grpc.max_connection_age_ms=600000",
    ).wait_ready()  # fmt: skip


@pytest.fixture(scope="session")
def client(server):
    """Our own client of the shared server."""
    from serving.client import Client

    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="session")
def stub(server):
    """TensorFlow Serving's own generated client of the shared server."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def eventually():
    return wait_for
