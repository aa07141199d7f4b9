"""Starts the server on an exported model, asks it a few of the run's own test examples over gRPC, and stops it.

    python examples/ask_server.py --workdir runs/quickstart --model_base_path exported/quickstart

The last step of `make quickstart`, and an example of a client in user code.
"""

import argparse
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.client import Client
from tfbigmodel.command_line import import_tensorflow


def main() -> int:
    """Asks, prints each answer beside the truth; exit code 1 if fewer than half are right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="the run that was exported")
    parser.add_argument("--model_base_path", required=True, type=Path, help="where it was exported to")
    parser.add_argument("--examples", type=int, default=10, help="how many to ask (default: 10)")
    arguments = parser.parse_args()
    import_tensorflow()
    inputs, truths = examples_of(arguments.workdir, arguments.examples)
    with running_server(arguments.model_base_path) as target, Client(target) as client:
        print(f"asking the server at {target} over gRPC:")
        answers = client.predict("quickstart", inputs, timeout=60)
    labels = [label.decode() for label in answers["label"]]
    for number, (label, probabilities, truth) in enumerate(
        zip(labels, answers["probabilities"], truths, strict=True), start=1
    ):
        verdict = "right" if label == truth else "wrong"
        print(
            f"  test image {number:2}: answer {label} (probability {probabilities.max():.3f}), truth {truth}: {verdict}"
        )
    right = sum(label == truth for label, truth in zip(labels, truths, strict=True))
    print(f"{right} of {len(truths)} right; the server has stopped")
    return 0 if 2 * right >= len(truths) else 1


def examples_of(workdir: Path, count: int) -> tuple[dict, list[str]]:
    """The first test images of a run as PNG files' bytes, as a user would send them, and their classes."""
    import numpy as np
    import tensorflow as tf

    from tfbigmodel import load_data
    from tfbigmodel.workdir import Workdir

    data = load_data(Workdir(workdir).config())
    test = data.examples("test")
    images = [tf.io.encode_png(pixels).numpy() for pixels in test.features["pixels"][:count]]
    return {"image": np.array(images, object)}, [data.info.class_names[label] for label in test.labels[:count]]


@contextmanager
def running_server(model_base_path: Path) -> Iterator[str]:
    """Runs a server on a free port for as long as the block lasts; yields its address."""
    command = [sys.executable, "-m", "serving.server", "--port=0", "--model_name=quickstart"]
    command.append(f"--model_base_path={model_base_path.resolve()}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()  # printed when the model is loaded
            address = re.search(r"at (\S+:\d+)", line)
            if not address:
                raise SystemExit(f"the server did not start: {line}{process.stderr.read()}")
            yield address[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
