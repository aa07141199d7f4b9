"""Batching by TensorFlow Serving's parameter file: what clients of a real server see of it."""

import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

SLOW_SECONDS = 0.4
PARAMETERS = """
max_batch_size { value: 4 }
batch_timeout_micros { value: 300000 }
max_enqueued_batches { value: 2 }
num_batch_threads { value: 1 }
allowed_batch_sizes: 2
allowed_batch_sizes: 4
"""


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """A model that answers with the sums of its rows, and with how many and how wide rows the graph has seen."""
    from tensorflow.python.data.experimental.ops.testing import sleep

    class Rows(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def serve(self, x):
            rows, width = tf.shape(x)[0], tf.shape(x)[1]
            return {"sum": tf.reduce_sum(x, 1), "rows": tf.fill([rows], rows), "width": tf.fill([rows], width)}

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def slow(self, x):
            pause = tf.data.Dataset.from_tensors(0.0).apply(sleep(int(SLOW_SECONDS * 1e6)))
            return {"sum": tf.reduce_sum(x, 1) + pause.reduce(0.0, lambda total, one: total + one)}

    module = Rows()
    folder = tmp_path_factory.mktemp("batched") / "rows"
    tf.saved_model.save(
        module,
        str(folder / "1"),
        signatures={"serving_default": module.serve, "slow": module.slow},
    )
    return folder


@pytest.fixture(scope="module")
def start(run_server, base_path, tmp_path_factory):
    channels = []

    def start_server(parameters=None):
        flags = []
        if parameters is not None:
            file = tmp_path_factory.mktemp("parameters") / "batching.txt"
            file.write_text(parameters)
            flags = ["--enable_batching", f"--batching_parameters_file={file}"]
        server = run_server("--port=0", "--model_name=rows", f"--model_base_path={base_path}", *flags).wait_ready()
        channels.append(grpc.insecure_channel(server.address))
        return prediction_service_pb2_grpc.PredictionServiceStub(channels[-1])

    yield start_server
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module")
def stub(start):
    return start(PARAMETERS)


def ask(stub, x, signature=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "rows", signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32(x)))
    outputs = stub.Predict(request, timeout=20).outputs
    return {name: tf.make_ndarray(proto).tolist() for name, proto in outputs.items()}


def ask_at_once(stub, several, signature=""):
    """The answer or the error of each, when all are asked together."""
    outcomes = [None] * len(several)

    def one(index):
        try:
            outcomes[index] = ask(stub, several[index], signature)
        except grpc.RpcError as error:
            outcomes[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(several))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_requests_share_a_batch_and_each_gets_its_own_rows(stub):
    ask(stub, [[0.0]] * 4)  # the first run prunes the graph
    answers = ask_at_once(stub, [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]])
    assert [answer["sum"] for answer in answers] == [[3.0], [7.0, 11.0], [15.0]]
    assert [answer["rows"] for answer in answers] == [[4], [4, 4], [4]]


def test_a_batch_that_stays_open_runs_after_the_timeout(stub):
    started = time.monotonic()
    assert ask(stub, [[1.0]])["sum"] == [1.0]
    assert 0.25 < time.monotonic() - started < 2


def test_a_full_batch_waits_for_nothing(stub):
    seconds = []
    for _ in range(5):  # the best of some, because the machine may be busy
        started = time.monotonic()
        assert ask(stub, [[1.0]] * 4)["sum"] == [1.0] * 4
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.25


@pytest.mark.parametrize(("rows", "seen"), [(1, 2), (2, 2), (3, 4), (4, 4)])
def test_a_batch_is_filled_up_to_an_allowed_size(stub, rows, seen):
    answer = ask(stub, [[2.0]] * rows)
    assert answer == {"sum": [2.0] * rows, "rows": [seen] * rows, "width": [1] * rows}


def test_a_request_larger_than_a_batch(stub):
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, [[1.0]] * 5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "Task size 5 is larger than maximum input batch size 4"


def test_a_full_queue_refuses_with_its_numbers_and_recovers(stub):
    outcomes = ask_at_once(stub, [[[float(number)]] * 4 for number in range(8)], "slow")
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
    # One batch runs, two wait; another may start while the requests are still coming.
    assert 4 <= len(refused) <= 5
    for error in refused:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert error.details() == (
            "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued and "
            "max_enqueued_batches is 2"
        )
    for number, outcome in enumerate(outcomes):
        if outcome not in refused:
            assert outcome["sum"] == [float(number)] * 4
    assert ask(stub, [[9.0]] * 4, "slow")["sum"] == [9.0] * 4


def test_rows_of_different_widths_need_padding(stub):
    outcomes = ask_at_once(stub, [[[1.0, 2.0]] * 2, [[3.0]] * 2])
    for outcome in outcomes:
        assert outcome.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert outcome.details() == (
            "Tensors with name 'serving_default_x:0' from different tasks have different shapes and padding is turned "
            "off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal "
            "dimensions starting with the first dim."
        )


def test_rows_of_different_widths_are_padded_on_request(start):
    stub = start(PARAMETERS + "pad_variable_length_inputs: true")
    ask(stub, [[0.0]] * 4)
    first, second = ask_at_once(stub, [[[1.0, 2.0, 3.0]] * 2, [[4.0], [5.0]]])
    assert first == {"sum": [6.0, 6.0], "rows": [4, 4], "width": [3, 3]}
    # TensorFlow Serving fills up with the request's first number: here 4 + 4 + 4 and 5 + 4 + 4.
    assert second == {"sum": [12.0, 13.0], "rows": [4, 4], "width": [3, 3]}


def test_without_parameters_answers_are_those_of_a_request_alone(start):
    stub = start()
    for _ in range(4):
        answers = ask_at_once(stub, [[[float(number)]] for number in range(30)])
        assert answers == [{"sum": [float(number)], "rows": [1], "width": [1]} for number in range(30)]
