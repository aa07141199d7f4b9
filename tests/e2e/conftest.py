"""A real server in a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.client import Client


@contextmanager
def _served(base_path: Path) -> Iterator[Client]:
    command = [sys.executable, "-m", "serving.server", "--port=0", "--model_name=m", f"--model_base_path={base_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            line = process.stdout.readline()
            with Client(re.search(r"at (\S+:\d+)", line)[1]) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="session")
def served():
    """`with served(base_path) as client`: the model is called m; when the block ends it has stopped in peace."""
    return _served
