"""What all tests share: quiet TensorFlow, a CPU that counts as two devices, so that two replicas can be tested, and
object stores on loopback."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf

# This must happen before anything else uses TensorFlow in this process.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def free_port():
    """`free_port()` is a port that nothing listens on."""

    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def gs_endpoint(free_port) -> Iterator[str]:
    """A server of Google Cloud Storage's protocol in this process."""
    from gcp_storage_emulator.server import create_server

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def new_bucket(request, monkeypatch, tmp_path):
    """`new_bucket("s3")` is the URL of an empty bucket, `s3://…` or `gs://…`, on a server on loopback.

    The environment says where the servers are, and puts the user's cache into `tmp_path/cache`.
    """
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_", "GOOGLE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(scheme: str) -> str:
        from pipelines.object_store import filesystem

        variable = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[scheme]
        monkeypatch.setenv(variable, request.getfixturevalue(f"{scheme}_endpoint"))
        url = f"{scheme}://test-{uuid.uuid4().hex[:12]}"
        type(filesystem(url)).clear_instance_cache()  # whose credentials are another test's
        filesystem(url).mkdir(url.partition("://")[2])
        return url

    return make


@pytest.fixture
def small_disk(tmp_path):
    """The lines that `small_disk(megabytes, code, *arguments)` prints: Python, with a disk at `tmp_path / "small"`."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    small = tmp_path / "small"
    small.mkdir()

    def run(megabytes: int, code: str, *arguments: object) -> list[str]:
        # In a mount namespace that ends with the process.
        script = f'mount -t tmpfs -o size={megabytes}m none {small} && exec "$@"'
        command = [sys.executable, "-c", code, *map(str, arguments)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(small), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *command],
            capture_output=True, text=True, timeout=120, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()

    return run
