"""What the serving benchmarks share: a small model with exact answers, a server process, and readings of it."""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS, STOP_SECONDS = 120, 40


@dataclass(frozen=True)
class Server:
    """A running server process."""

    process: subprocess.Popen[str]
    grpc: str
    rest: str
    log: Path

    def resident_mb(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def processor_seconds(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextlib.contextmanager
def running_server(*flags: str) -> Iterator[Server]:
    """Starts a server on free loopback ports and stops it afterwards; its exit code must be 0."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "serving.server", "--port=0", "--rest_api_port=-1", *flags]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stream, text=True)
        assert process.stdout is not None
        try:
            if not select.select([process.stdout], [], [], START_SECONDS)[0]:
                raise SystemExit(f"the server did not start in {START_SECONDS} s:\n{log.read_text()[-3000:]}")
            yield Server(process, _address(process, log), _address(process, log), log)  # both lines come together
            process.terminate()
            if code := process.wait(STOP_SECONDS):
                raise SystemExit(f"the server ended with {code}:\n{log.read_text()[-3000:]}")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if " at" not in line:
        raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")
    return line.split(" at", 1)[1].lstrip(" :").split()[0]


def save_model(folder: Path, slope: float = 2.0, intercept: float = 1.0, work: int = 0) -> None:
    """Writes a SavedModel: `serving_default` is y = slope · x + intercept; also `text`, `classify` and `regress`.

    Args:
        folder: The version's folder.
        slope: A variable.
        intercept: A variable.
        work: Makes `serving_default` so slow: products of 256 × 256 matrices that each row needs.
    """
    from serving.engine import tensorflow

    tf = tensorflow()

    class Model(tf.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.slope, self.intercept = tf.Variable(slope), tf.Variable(intercept)
            self.matrix = tf.Variable(tf.eye(256))

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def serve(self, x):  # type: ignore[no-untyped-def]
            if work:
                x = tf.map_fn(self.think, x)
            return {"y": self.slope * x + self.intercept}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def text(self, text):  # type: ignore[no-untyped-def]
            return {"label": tf.strings.join(["<", text, ">"]), "length": tf.strings.length(text)}

        def think(self, row):  # type: ignore[no-untyped-def]
            product = tf.fill([256, 256], row[0])
            for _ in tf.range(work):
                product = tf.matmul(product, self.matrix)
            return product[0, :1]

        def number(self, examples):  # type: ignore[no-untyped-def]
            feature = tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0])
            return self.slope * tf.io.parse_example(examples, {"x": feature})["x"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):  # type: ignore[no-untyped-def]
            return {"outputs": self.number(inputs)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs):  # type: ignore[no-untyped-def]
            score = self.number(inputs)
            return {"scores": score, "classes": tf.strings.as_string(score)}

    model = Model()
    signatures = {"serving_default": model.serve, "text": model.text}
    signatures |= {"regress": model.regress, "classify": model.classify}
    tf.saved_model.save(model, str(folder), signatures=signatures)


def machine() -> str:
    """The line that every table needs: what else the machine does."""
    return f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.2f}, {time.strftime('%H:%M:%S')}"
