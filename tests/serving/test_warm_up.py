"""Recorded requests answered before the first client's: every kind, every mistake, what the manager makes of them."""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.engine import load_model
from serving.errors import Code, ServingError
from serving.manager import Manager, ManagerOptions, State
from serving.model_config import ModelConfig
from serving.warm_up import WARM_UP_FILE, warm_up

PredictionLog = prediction_log_pb2.PredictionLog
v1 = tf.compat.v1


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A SavedModel that counts the Examples it is given: classify, regress and predict add, `count` reads."""
    folder = tmp_path_factory.mktemp("counter") / "export"
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="examples")
        count = v1.get_variable("count", initializer=0, use_resource=True)
        with tf.control_dependencies([count.assign_add(tf.size(examples))]):
            scores = tf.ones([tf.size(examples), 1])
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info
        adding = {"inputs": info(examples)}, {"scores": info(scores)}
        build = v1.saved_model.build_signature_def
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": build(*adding, "tensorflow/serving/predict"),
                "classify": build(*adding, "tensorflow/serving/classify"),
                "regress": build(adding[0], {"outputs": info(scores)}, "tensorflow/serving/regress"),
                "count": build({}, {"count": info(count.read_value())}, "tensorflow/serving/predict"),
            },
        )
        builder.save()
    return folder


def predict(count=1, signature=""):
    log = PredictionLog()
    log.predict_log.request.model_spec.name = "another name is fine"
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([b""] * count))
    return log


def classify():
    log = PredictionLog()
    log.classify_log.request.model_spec.name = "m"
    log.classify_log.request.model_spec.signature_name = "classify"
    log.classify_log.request.input.example_list.examples.add()
    return log


def regress():
    log = PredictionLog()
    log.regress_log.request.model_spec.name = "m"
    log.regress_log.request.model_spec.signature_name = "regress"
    log.regress_log.request.input.example_list.examples.add()
    return log


def multi_inference():
    log = PredictionLog()
    request = log.multi_inference_log.request
    request.input.example_list.examples.add()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", method
    return log


def session_run():
    log = PredictionLog()
    log.session_run_log.request.model_spec.name = "m"
    return log


@pytest.fixture
def version(counter, put_version, tmp_path):
    """Makes version 1 with these records for its warm-up: `version([log, b"bytes", …])`, or the file's own bytes."""

    def make(records, number=1):
        def add(folder):
            path = folder / WARM_UP_FILE
            path.parent.mkdir()
            if isinstance(records, bytes):
                path.write_bytes(records)
                return
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in records:
                    writer.write(record if isinstance(record, bytes) else record.SerializeToString())

        return put_version(counter, tmp_path / "m", number, change=add)

    return make


def counted(model):
    fetch = model.signatures["count"].outputs["count"].name
    return model.run((), (fetch,), [])[0].item()


@pytest.mark.parametrize(
    ("records", "iterations", "expected"),
    [
        ([predict(3), predict(2)], 1, 5),
        ([predict(3)], 4, 12),
        ([predict(1)], 0, 1),
        ([classify(), regress(), multi_inference()], 1, 3),
        ([PredictionLog(), predict(1)], 1, 1),  # a record without a request is passed over
        ([predict(1)] * 1000, 1, 1000),
        ([], 1, 0),
    ],
)
def test_every_record_is_answered(version, records, iterations, expected):
    directory = version(records)
    model, reports = load_model(directory), []
    count = warm_up("m", 1, model, directory, iterations, lambda *report: reports.append(report))
    assert count == len(records)
    assert counted(model) == expected
    ((path, status, microseconds),) = reports
    assert (path, status) == (str(directory), "OK")
    assert microseconds > 0
    model.close()


def test_no_file_no_warm_up(counter):
    reports = []
    assert warm_up("m", 1, None, counter, 1, lambda *report: reports.append(report)) == 0
    assert reports == []


@pytest.mark.parametrize(
    ("records", "code", "text"),
    [
        ([predict(1)] * 1001, Code.INVALID_ARGUMENT, "Number of warmup records exceeds the maximum (1000) at {path}"),
        ([b"malformed_record"], Code.INVALID_ARGUMENT, "Failed to parse warmup record: malformed_record from {path}"),
        ([session_run()], Code.UNIMPLEMENTED, "Unsupported log_type for warmup: 5"),
        ([predict(1, "s")], Code.FAILED_PRECONDITION, 'Serving signature key "s" not found.'),
        (
            b"no records at all, but text",
            Code.DATA_LOSS,
            "corrupted record at 0{rest}. Please verify your warmup data is in TFRecord format.",
        ),
    ],
)
def test_any_failure_is_the_load_s(version, records, code, text):
    directory = version(records)
    model, reports = load_model(directory), []
    with pytest.raises(ServingError) as caught:
        warm_up("m", 1, model, directory, 1, lambda *report: reports.append(report))
    begin, _, end = text.format(path=directory / WARM_UP_FILE, rest="|").partition("|")
    assert caught.value.code == code
    assert caught.value.message.startswith(begin)
    assert caught.value.message.endswith(end)
    assert [report[:2] for report in reports] == [(str(directory), code.name)]
    model.close()


def test_a_file_that_was_cut_short_is_the_load_s_failure(version):
    directory = version([predict(1), predict(1)])
    path = directory / WARM_UP_FILE
    path.write_bytes(path.read_bytes()[:-1])
    model = load_model(directory)
    with pytest.raises(ServingError, match=r"^truncated record at .*verify your warmup data is in TFRecord format\.$"):
        warm_up("m", 1, model, directory)
    model.close()


@pytest.fixture
def manage(tmp_path):
    """A manager of `m` in tmp_path, which looks only when told."""
    managers = []

    def make(on_warm_up=None, **options):
        (tmp_path / "m").mkdir(exist_ok=True)
        config = ModelConfig("m", tmp_path / "m")
        managers.append(Manager([config], load_model, 0, ManagerOptions(**options), on_warm_up))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close(10)


def test_a_version_is_warm_before_it_is_available(version, manage):
    states = []
    manager = manage(lambda *report: states.append(manager.statuses("m")[0].state), num_request_iterations_for_warmup=2)
    version([predict(3)])
    manager.poll("m")
    assert states == [State.LOADING]
    with manager.lease("m") as servable:
        assert counted(servable.model) == 6


def test_a_version_whose_warm_up_fails_never_becomes_available(version, manage):
    manager = manage()
    version([predict(1)])
    manager.poll("m")
    version([predict(1), predict(1, "gone")], number=2)
    manager.poll("m")
    assert {status.version: status.state for status in manager.statuses("m")} == {2: State.END, 1: State.AVAILABLE}
    assert manager.statuses("m")[0].error.message == 'Serving signature key "gone" not found.'
    with manager.lease("m") as servable:
        assert servable.version == 1


def test_warm_up_can_be_turned_off(version, manage):
    manager = manage(enable_model_warmup=False)
    version([predict(1, "gone")])
    manager.poll("m")
    with manager.lease("m") as servable:
        assert counted(servable.model) == 0
