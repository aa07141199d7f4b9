"""tf.data service, with real processes: batches as without it, whatever happens to those that make them."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import BuiltinConfig, CorpusConfig, ImageFolderConfig, ServiceConfig
from pipelines.data import Data
from pipelines.data_service.sending import check_sendable
from pipelines.data_service.watch import service_watched
from pipelines.errors import OutageError, UserError
from pipelines.loading import load


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.data_service", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen) -> str:
    line: str = process.stdout.readline()
    assert line, process.communicate()[1]
    return line


class Cluster:
    """A dispatcher and workers on this machine; more can be started."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.dispatcher = start("dispatcher", "--port", str(self.port), *options)
        self.workers: list[subprocess.Popen] = []

    def start_workers(self, count: int) -> None:
        started = [
            start("worker", "--dispatcher", f"localhost:{self.port}", "--port", str(free_port())) for _ in range(count)
        ]
        self.workers += started
        for worker in started:
            assert first_line(worker).startswith("worker: ready on 127.0.0.1:")

    def service(self, workers: int = 1) -> ServiceConfig:
        return ServiceConfig(address=f"grpc://localhost:{self.port}", workers=workers, timeout_seconds=20.0)

    def end(self) -> list[int]:
        """The exit codes of those that are still there."""
        alive = [process for process in (self.dispatcher, *self.workers) if process.poll() is None]
        for process in alive:
            process.terminate()
        try:
            return [process.wait(10) for process in alive]
        finally:
            for process in (self.dispatcher, *self.workers):
                process.kill()
                process.communicate()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start_workers(2)
        yield cluster
    finally:
        codes = cluster.end()
    assert set(codes) == {0}  # SIGTERM ends them as it should


def assert_same(expected: tf.data.Dataset, received: tf.data.Dataset) -> int:
    assert received.element_spec == expected.element_spec
    assert int(received.cardinality()) == int(expected.cardinality())
    number = 0
    for one, other in zip(expected, received, strict=True):
        for part, received_part in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
            np.testing.assert_array_equal(part, received_part)
        number += 1
    return number


def texts(service: ServiceConfig | None, **options: object) -> Data:
    config = {"source": "builtin", "name": "reviews_zh", "batch_size": 32, "shuffle_seed": 7, "train_examples": 1_000}
    return load(BuiltinConfig.model_validate({**config, **options, "service": service}))


def test_batches_and_their_order_are_those_of_one_process(cluster):
    for_service, alone = texts(cluster.service(2)), texts(None)
    assert assert_same(alone.train(0, 0, epochs=2), for_service.train(0, 0, epochs=2)) == 62
    # Going on in the middle; the shares of the second of two workers with two replicas each.
    context = tf.distribute.InputContext(2, 1, 4)
    assert assert_same(alone.train(3, 11, context), for_service.train(3, 11, context)) == 2 * 20
    assert assert_same(alone.train(3, 31), for_service.train(3, 31)) == 0
    # A dataset can be read again.
    dataset = for_service.train(1, 29)
    for _ in range(2):
        assert_same(alone.train(1, 29), dataset)


def test_augmented_images_are_the_same(cluster, tmp_path):
    augmentation = {"horizontal_flip": True, "rotation": 10.0, "mixup": 0.2}
    config = {"source": "builtin", "name": "digits", "augmentation": augmentation, "shuffle_seed": 1}
    alone, for_service = (
        load(BuiltinConfig.model_validate({**config, "service": service})) for service in (None, cluster.service())
    )
    assert_same(alone.train(5, 10), for_service.train(5, 10))


def test_workers_may_come_and_be_killed(cluster):
    """The batches that a killed worker was making are made by the trainer; a run does not notice."""
    alone = iter(texts(None).train(0, 0, epochs=8))
    received = iter(texts(cluster.service(2)).train(0, 0, epochs=8))

    def compare(number: int) -> None:
        for _ in range(number):
            for part, received_part in zip(tf.nest.flatten(next(alone)), tf.nest.flatten(next(received)), strict=True):
                np.testing.assert_array_equal(part, received_part)

    compare(10)
    cluster.workers[0].kill()
    cluster.workers[0].wait()
    compare(100)
    cluster.start_workers(1)
    compare(8 * 31 - 110)
    with pytest.raises(StopIteration):
        next(received)


def test_a_worker_that_fails_is_named_with_what_it_missed(cluster, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(10):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / name / f"{index}.png")
    config = {"source": "image_folder", "data_dir": tmp_path, "path": ".", "batch_size": 4, "cache_dir": tmp_path}
    data = load(ImageFolderConfig.model_validate({**config, "service": cluster.service()}))
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    expected = r"the tf.data worker 127.0.0.1:\d+ failed: .*\.png; No such file .*it must see the same files"
    with pytest.raises(UserError, match=expected), service_watched(cluster.service()):
        list(data.train())


def test_examples_that_are_read_in_python_are_refused(cluster, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"text number {index} . and more" for index in range(60)))
    config = {
        "source": "corpus", "data_dir": tmp_path, "parts": [{"path": "corpus.txt"}], "task": "language_model",
        "batch_size": 2, "cache_dir": tmp_path, "service": cluster.service(),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"data\.service: this source reads its examples in Python"):
        load(CorpusConfig.model_validate(config)).train()


def test_memory_that_no_message_can_hold_is_refused():
    large = tf.zeros([2**31 - 2**20], tf.uint8)
    with pytest.raises(UserError, match=r"in memory, 2\.0 GiB, are sent to the tf.data workers, and more than 2 GiB"):
        check_sendable(tf.function(lambda: tf.size(large)).get_concrete_function())


def test_nobody_there_is_told_in_time():
    service = ServiceConfig(address=f"grpc://localhost:{free_port()}", timeout_seconds=0.5)
    with pytest.raises(UserError, match=r"data.service.address: no dispatcher answers at localhost:\d+ within 0.5 s"):
        texts(service).train()


def test_nobody_there_any_more_is_an_outage():
    """A run that goes on has been there before: where a cluster starts it again, it does so once more."""
    service = ServiceConfig(address=f"grpc://localhost:{free_port()}", timeout_seconds=0.5)
    with pytest.raises(OutageError, match=r"no dispatcher answers at localhost:\d+ within 0.5 s") as raised:
        texts(service).train(0, 1)
    assert raised.value.exit_code == 138
    with pytest.raises(UserError) as raised:
        texts(service).train()
    assert raised.value.exit_code == 2


_READS = """
import sys, time
from pipelines.config import ServiceConfig
from pipelines.data_service.watch import service_watched, watch
service = ServiceConfig(address=sys.argv[1], timeout_seconds=1.0)
with service_watched(service):
    watch(service)
    print("reading", flush=True)
    time.sleep(60)
"""


def test_a_service_that_does_not_answer_any_more_ends_the_process_to_be_started_again():
    address = f"localhost:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-c", _READS, f"grpc://{address}"], capture_output=True, text=True, timeout=60
    )
    expected = f"error: data.service: the dispatcher at {address} has not answered for 1 s; start the training again"
    assert (done.returncode, done.stdout) == (138, "reading\n")
    assert done.stderr.splitlines()[-1].startswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("journal", [True, False])
def test_a_dispatcher_without_its_state_is_an_outage(tmp_path, journal):
    cluster = Cluster(*["--work_dir", str(tmp_path / "first")] if journal else [])
    state = ["--work_dir", str(tmp_path / "second")] if journal else []
    try:
        cluster.start_workers(1)
        received = iter(texts(cluster.service()).train(0, 0, epochs=30))
        next(received)
        for process in (cluster.dispatcher, *cluster.workers):
            process.kill()
            process.wait()
        cluster.dispatcher = start("dispatcher", "--port", str(cluster.port), *state)
        assert first_line(cluster.dispatcher).startswith("dispatcher: ready")
        expected = rf"the dispatcher at localhost:{cluster.port} was started anew without its state"
        with pytest.raises(OutageError, match=expected), service_watched(cluster.service()):
            list(received)
    finally:
        cluster.end()


def test_too_few_workers_are_told(cluster):
    service = cluster.service(9).model_copy(update={"timeout_seconds": 0.5})
    with pytest.raises(UserError, match=r"2 workers of the dispatcher at .* answer, data.service.workers is 9; start"):
        texts(service).train()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["worker"], "the following arguments are required: --dispatcher"),
        (["worker", "--dispatcher", "host"], "argument --dispatcher: expected host:port, received host"),
        (["dispatcher", "--port", "0"], "argument --port: expected a port, 1 to 65535, received 0"),
        (["worker", "--dispatcher", "a:1", "--timeout_seconds", "-1"], "expected seconds above 0, received -1"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, expected):
    process = start(*arguments)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 2
    assert expected in error
    assert len(error.splitlines()) == 1


def test_a_port_in_use_is_told(cluster):
    process = start("dispatcher", "--port", str(cluster.port))
    _, error = process.communicate(timeout=10)
    assert process.returncode == 2
    assert f"error: port {cluster.port} cannot be used (Address already in use); choose another --port" in error
