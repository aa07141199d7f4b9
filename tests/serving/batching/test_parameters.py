"""`--enable_batching`: TensorFlow Serving's parameters, their mistakes, and the batches they make."""

import time

import numpy as np
import pytest

from serving.batching.parameters import BatchingParameters, read_batching_parameters
from serving.batching.runner import Runner
from serving.errors import Code, ServingError, UsageError

WHOLE_FILE = """
max_batch_size { value: 8 } batch_timeout_micros { value: 1500 } max_enqueued_batches { value: 3 }
num_batch_threads { value: 2 } allowed_batch_sizes: 2 allowed_batch_sizes: 8 pad_variable_length_inputs: true
thread_pool_name { value: "batches" }
"""


def test_a_file_is_read_and_the_rest_is_tensorflow_servings(tmp_path):
    path = tmp_path / "batching.txt"
    path.write_text(WHOLE_FILE)
    assert read_batching_parameters(path) == BatchingParameters(8, 0.0015, 3, 2, (2, 8), True, False, 8)
    path.write_text("")
    assert read_batching_parameters(path) == BatchingParameters()
    assert (BatchingParameters().max_batch_size, BatchingParameters().max_enqueued_batches) == (1000, 10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size { value: 0 }", "{path}: max_batch_size must be at least 1, but is 0"),
        ("num_batch_threads { value: -1 }", "{path}: num_batch_threads must be at least 1, but is -1"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "{path}: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 4",
            "{path}: allowed_batch_sizes must be positive and ascending, but are 8, 4",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 9 }",
            "{path}: max_execution_batch_size 9 exceeds max_batch_size",
        ),
        ("batch_size: 8", "{path} is no text tensorflow.serving.BatchingParameters: 1:1 : Message type"),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, reason):
    path = tmp_path / "batching.txt"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_batching_parameters(path)
    assert str(caught.value).startswith("--batching_parameters_file: " + reason.format(path=path))


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="--batching_parameters_file: cannot read"):
        read_batching_parameters(tmp_path / "none")


def rows_of(results):
    return [result[0].tolist() for result in results]


def test_requests_fill_batches_up_to_the_largest_size(ask, column):
    runner = Runner(BatchingParameters(max_batch_size=4, timeout_seconds=0.3, num_threads=1))
    assert rows_of(ask(runner, "rows", [column(1, 2)] * 2)) == [[4, 4]] * 2
    assert rows_of(ask(runner, "rows", [column(1, 2, 3)] * 2)) == [[3, 3, 3]] * 2  # the second opens another batch


def test_a_batch_waits_for_its_timeout_when_it_is_not_full(ask, column):
    runner = Runner(BatchingParameters(max_batch_size=100, timeout_seconds=0.2, num_threads=1))
    start = time.perf_counter()
    assert rows_of(ask(runner, "rows", [column(1)])) == [[1]]
    assert time.perf_counter() - start >= 0.2


def test_a_full_batch_does_not_wait(ask, column):
    runner = Runner(BatchingParameters(max_batch_size=2, timeout_seconds=60.0, num_threads=1))
    assert rows_of(ask(runner, "rows", [column(1)] * 4)) == [[2]] * 4


def test_batches_are_padded_to_an_allowed_size(ask, column):
    runner = Runner(BatchingParameters(max_batch_size=8, timeout_seconds=0.05, allowed_sizes=(4, 8)))
    assert rows_of(ask(runner, "rows", [column(1)])) == [[4]]
    assert rows_of(ask(runner, "rows", [column(1, 2, 3)] * 2)) == [[8, 8, 8]] * 2
    total, doubled = ask(runner, "double", [column(7)])[0]
    assert (total.tolist(), doubled.tolist()) == ([7.0], [[14.0]])


def test_a_request_larger_than_a_batch_is_refused(ask, column):
    runner = Runner(BatchingParameters(max_batch_size=4))
    (error,) = ask(runner, "rows", [column(1, 2, 3, 4, 5)])
    assert error.code == Code.INVALID_ARGUMENT
    assert error.message == "Task size 5 is larger than maximum input batch size 4"


def test_a_full_queue_refuses_and_the_others_are_answered(ask, column):
    runner = Runner(BatchingParameters(max_batch_size=1, timeout_seconds=0.0, max_enqueued_batches=2, num_threads=1))
    results = ask(runner, "rows", [column(1)] * 10)
    refused = [result for result in results if isinstance(result, ServingError)]
    assert len(refused) == 7  # one runs, two wait
    for error in refused:
        assert error.code == Code.UNAVAILABLE
        assert error.message == (
            "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued and "
            "max_enqueued_batches is 2"
        )
    assert rows_of(result for result in results if not isinstance(result, ServingError)) == [[1]] * 3


def test_different_shapes_in_a_batch_are_refused_without_padding(ask):
    runner = Runner(BatchingParameters(max_batch_size=2, timeout_seconds=1.0))
    results = ask(runner, "double", [np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)])
    for error in results:
        assert error.code == Code.FAILED_PRECONDITION
        assert error.message.startswith("Tensors with name 'double_x:0' from different tasks have different shapes")


def test_different_shapes_are_padded_where_that_is_allowed(ask):
    runner = Runner(BatchingParameters(max_batch_size=2, timeout_seconds=1.0, pad_variable_length=True))
    (first, second) = ask(runner, "double", [np.float32([[3, 1]]), np.ones((1, 3), np.float32)])
    assert first[1].tolist() == [[6.0, 2.0, 6.0]]  # filled up with its first number, as TensorFlow Serving does
    assert second[1].tolist() == [[2.0, 2.0, 2.0]]


def test_large_batches_are_split_where_that_is_allowed(ask, column):
    parameters = BatchingParameters(max_batch_size=10, timeout_seconds=0.05, split_large=True, max_execution_size=4)
    assert rows_of(ask(Runner(parameters), "rows", [column(*range(10))])) == [[4] * 8 + [2] * 2]


def test_inputs_without_a_batch_dimension_or_of_different_sizes_are_refused(ask):
    runner = Runner(BatchingParameters())
    errors = ask(
        runner, "pair",
        [(np.float32(1), np.float32([1])), (np.float32([1, 2]), np.float32([1]))],
    )  # fmt: skip
    assert [error.message for error in errors] == [
        "Batching Run() input tensors must have at least one dimension",
        "Batching Run() input tensors must have equal 0th-dimension size",
    ]


def test_outputs_that_are_no_batch_are_refused(ask, column):
    (error,) = ask(Runner(BatchingParameters()), "total", [column(1, 2)])
    assert (error.code, error.message) == (Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
