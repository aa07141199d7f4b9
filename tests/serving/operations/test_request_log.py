"""Samples of requests: what is drawn, how files come and go, and that a real run's file can be replayed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from serving.engine import load_model, tensorflow
from serving.errors import UsageError
from serving.operations import request_log as module
from serving.operations.request_log import RequestLog, check_logging_config, logging_config, prediction_log
from serving.tensors import to_proto

tensorflow()

from tensorflow_serving.apis import predict_pb2, prediction_log_pb2  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[3]


def predict_request(model, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_proto(value))
    return request


def record(number=0, size=1):
    """y = 2x + 1, asked of version 3."""
    x = np.full((size, 1), number, np.float32)
    response = predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.version.value = "linear", 3
    response.model_spec.signature_name = "serving_default"
    response.outputs["y"].CopyFrom(to_proto(2 * x + 1))
    return prediction_log(predict_request("linear", x=x), response)


def read(path):
    data = tensorflow().data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(one) for one in data]


def numbers(logs):
    return [int(log.predict_log.request.inputs["x"].float_val[0]) for log in logs]


@pytest.fixture
def request_log():
    logs = []

    def make(*arguments, **settings):
        logs.append(RequestLog(*arguments, **settings))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def test_a_real_run_can_be_replayed_as_warm_up(request_log, exported, tmp_path):
    from serving.inference.predict import predict_call

    model = load_model(exported / "many")
    log = request_log(saved_model_tags=["serve"])
    log.configure({"many": logging_config(f"{tmp_path}/many", 1.0)})
    made = []
    for number in range(20):
        request = predict_request(
            "many", age=np.array([number, 18], np.float32), city=np.array([b"\xff\x00", "京".encode()], object),
            pair=np.array([[1, 2], [3, number]], np.int32),
        )  # fmt: skip
        run, respond = predict_call("many", 7, model, request)
        response = respond(model.run(run.feeds, run.fetches, run.values))
        assert log.wanted("many")
        log.log("many", prediction_log(request, response))
        made.append((request, response))
    log.close()
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"many-\d{8}T\d{6}Z-0\.tfrecord", path.name)
    logs = read(path)
    assert [(one.predict_log.request, one.predict_log.response) for one in logs] == made
    for one in logs:
        run, respond = predict_call("many", 7, model, one.predict_log.request)
        assert respond(model.run(run.feeds, run.fetches, run.values)) == one.predict_log.response
    assert log.dropped == 0
    model.close()


def test_the_metadata_says_who_answered_when_and_how_it_was_drawn(request_log, tmp_path):
    log = request_log(saved_model_tags=["serve", "gpu"])
    log.configure({"linear": logging_config(f"{tmp_path}/linear", 0.5)})
    before = int(time.time())
    log.log("linear", record())
    log.close()
    (one,) = read(next(tmp_path.iterdir()))
    metadata = one.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("linear", 3)
    assert metadata.sampling_config.sampling_rate == 0.5
    assert list(metadata.saved_model_tags) == ["serve", "gpu"]
    assert before <= metadata.timestamp_secs <= time.time()


def test_an_empty_request_of_several_tasks_has_no_version(request_log, tmp_path):
    from tensorflow_serving.apis import inference_pb2

    log = request_log()
    log.configure({"linear": logging_config(f"{tmp_path}/linear", 1.0)})
    log.log("linear", prediction_log(inference_pb2.MultiInferenceRequest(), inference_pb2.MultiInferenceResponse()))
    log.close()
    (one,) = read(next(tmp_path.iterdir()))
    assert one.HasField("multi_inference_log")
    assert not one.log_metadata.model_spec.name


def test_the_share_that_is_drawn(request_log, tmp_path):
    log = request_log()
    configs = {str(rate): logging_config(f"{tmp_path}/x", rate) for rate in (0.0, 0.1, 1.0)}
    log.configure(configs)
    shares = {name: sum(log.wanted(name) for _ in range(20_000)) / 20_000 for name in configs}
    assert shares["0.0"] == 0
    assert shares["1.0"] == 1
    assert abs(shares["0.1"] - 0.1) < 0.015  # seven standard errors
    assert not log.wanted("unknown")


def test_files_are_rotated_by_size_and_none_is_lost(request_log, tmp_path, eventually):
    log = request_log(max_file_bytes=2000)
    log.configure({"linear": logging_config(f"{tmp_path}/linear", 1.0)})
    for number in range(100):
        log.log("linear", record(number))
    eventually(lambda: sum(path.suffix == ".tfrecord" for path in tmp_path.iterdir()) > 5)
    log.close()
    paths = sorted(tmp_path.iterdir(), key=lambda path: int(re.findall(r"-(\d+)\.", path.name)[0]))
    assert all(path.suffix == ".tfrecord" for path in paths)
    assert max(path.stat().st_size for path in paths) < 2300
    assert [number for path in paths for number in numbers(read(path))] == list(range(100))
    assert paths[0].stat().st_mode & 0o007 == 0, "not for everyone to read"


def test_files_are_rotated_by_time_and_incomplete_until_then(request_log, tmp_path, eventually):
    log = request_log(max_file_seconds=1.5)
    log.configure({"linear": logging_config(f"{tmp_path}/linear", 1.0)})
    log.log("linear", record(5))
    (path,) = eventually(lambda: list(tmp_path.iterdir()))
    assert path.name.endswith(".tfrecord.incomplete")
    eventually(lambda: path.exists() and path.stat().st_size, 1.0)
    assert numbers(read(path)) == [5]
    eventually(lambda: not path.exists(), 5.0)
    assert numbers(read(path.with_suffix(""))) == [5]


def test_a_new_configuration_finishes_what_is_no_longer_wanted(request_log, tmp_path, eventually):
    log = request_log()
    log.configure({"linear": logging_config(f"{tmp_path}/old", 1.0), "other": logging_config(f"{tmp_path}/both", 1.0)})
    log.log("linear", record(1))
    log.log("other", record(2))
    log.configure({"linear": logging_config(f"{tmp_path}/both", 1.0), "off": logging_config("", 0.0)})
    assert not log.wanted("other")
    log.log("other", record(3))  # wanted before the change
    (old,) = eventually(lambda: list(tmp_path.glob("old-*.tfrecord")))
    assert numbers(read(old)) == [1]
    log.log("linear", record(4))
    log.close()
    (both,) = tmp_path.glob("both-*.tfrecord")
    assert numbers(read(both)) == [2, 4]


def test_two_servers_with_one_prefix_share_no_file(request_log, tmp_path):
    logs = [request_log() for _ in range(4)]
    for number, log in enumerate(logs):
        log.configure({"linear": logging_config(f"{tmp_path}/linear", 1.0)})
        log.log("linear", record(number))
    for log in logs:
        log.close()
    paths = list(tmp_path.iterdir())
    assert len(paths) == 4
    assert sorted(number for path in paths for number in numbers(read(path))) == [0, 1, 2, 3]


def test_threads_lose_no_record(request_log, tmp_path):
    log = request_log(max_file_bytes=10_000)
    log.configure({"linear": logging_config(f"{tmp_path}/linear", 1.0)})

    def work(first):
        for number in range(first, first + 250):
            log.log("linear", record(number))

    workers = [threading.Thread(target=work, args=(first,)) for first in range(0, 1000, 250)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log.close()
    found = [number for path in tmp_path.glob("*.tfrecord") for number in numbers(read(path))]
    assert sorted(found) == list(range(1000))
    assert log.dropped == 0


def test_when_too_much_waits_samples_are_dropped_and_counted(request_log, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_QUEUE_BYTES", 200_000)
    monkeypatch.setattr(module, "_WRITE_SECONDS", 0.6)
    log = request_log()
    log.configure({"linear": logging_config(f"{tmp_path}/linear", 1.0)})
    for number in range(10):
        log.log("linear", record(number, size=8000))
    log.close()
    assert log.dropped == 7
    assert numbers(read(next(tmp_path.iterdir()))) == [0, 1, 2]


CHILD = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from serving.operations import request_log as module
from serving.operations.request_log import RequestLog, logging_config
import test_request_log as own
module._RETRY_SECONDS = 0.5
log = RequestLog()
log.configure({"linear": logging_config(sys.argv[1] + "/linear", 1.0)})
log.log("linear", own.record(0))
while not any(path.stat().st_size for path in Path(sys.argv[1]).iterdir()):
    time.sleep(0.05)
print("written", flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
log.log("linear", own.record(1))
log.log("linear", own.record(2))
while log.dropped < 2:
    time.sleep(0.05)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
time.sleep(0.6)
log.log("linear", own.record(3))
log.close()
print("dropped", log.dropped, flush=True)
"""


def start_child(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "written\n"
    return child


def test_a_full_disk_costs_samples_and_is_survived(tmp_path):
    child = start_child(tmp_path)
    output, errors = child.communicate("go\n", 60)
    assert output == "dropped 2\n"
    assert child.returncode == 0
    assert errors.count("request log: cannot write") == 1
    (left,) = tmp_path.glob("*.incomplete")
    (whole,) = tmp_path.glob("*.tfrecord")
    assert numbers(read(whole)) == [3]
    from serving.operations.request_records import records

    assert [one["inputs"] for one in records(left)] == [{"x": [0.0]}]


def test_a_crash_leaves_what_was_written(tmp_path):
    child = start_child(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tfrecord.incomplete")
    assert numbers(read(left)) == [0]


@pytest.mark.parametrize(
    ("prefix", "rate", "collector", "message"),
    [
        ("/tmp/x", 1.5, "", "sampling_rate must be from 0 to 1, but 1.5 was given"),
        ("/tmp/x", float("nan"), "", "sampling_rate must be from 0 to 1, but nan was given"),
        ("/tmp/x", 0.1, "kafka", "log_collector_config has type 'kafka'; only 'tfrecord' is known"),
        ("", 0.1, "", "filename_prefix must be an absolute path, but '' was given"),
        ("logs/x", 0.1, "tfrecord", "filename_prefix must be an absolute path, but 'logs/x' was given"),
        ("/none/x", 0.1, "", "filename_prefix /none/x: /none is not a folder that this user may write to"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(prefix, rate, collector, message, request_log):
    config = logging_config(prefix, rate)
    config.log_collector_config.type = collector
    with pytest.raises(UsageError) as error:
        check_logging_config("dense", config)
    assert str(error.value) == f"logging_config of model dense: {message}"
    log = request_log()
    with pytest.raises(UsageError):
        log.configure({"linear": logging_config(f"{os.path.dirname(__file__)}/x", 1.0), "dense": config})
    assert not log.wanted("linear"), "nothing is changed"


def test_without_configuration_nothing_is_logged(request_log):
    log = request_log()
    assert not log.wanted("linear")
    log.log("linear", record())
    log.close()
    assert log.dropped == 0
