"""Batching without parameters: what is shared, what is not, and that answers never change by it."""

import asyncio
import time

import numpy as np
import pytest

from serving.batching.batch import Task, agree
from serving.batching.queues import AdaptiveQueue
from serving.batching.runner import Runner
from serving.errors import Code, ServingError
from serving.inference.call import GraphRun
from serving.servable import Servable


def test_requests_that_wait_share_runs_and_get_their_own_answers(ask, column):
    runs = []
    runner = Runner(on_batch=lambda model, rows, queued: runs.append((model, rows, len(queued))))
    inputs = [column(*range(start, start + 1 + start % 3)) for start in range(40)]
    servable = None
    for _ in range(4):  # three times to be trusted
        servable = servable or Servable("m", 1, None)
        results = ask(runner, "double", inputs)
        for given, (total, doubled) in zip(inputs, results, strict=True):
            np.testing.assert_array_equal(doubled, 2 * given)
            np.testing.assert_array_equal(total, given[:, 0])
    assert sum(requests for _, _, requests in runs) == 160
    assert max(rows for _, rows, _ in runs) > 8
    assert len(runs) < 80
    assert {model for model, _, _ in runs} == {"m"}


def test_sharing_runs_is_worth_it(ask, column, batch_models):
    """Side by side: 40 requests at once to a model whose runs cost the same for any number of rows."""
    seconds = {}
    for adaptive in (False, True):
        runner, servable = Runner(adaptive=adaptive), Servable("m", 1, batch_models)
        for _ in range(4):  # to learn in
            ask(runner, "steady", [column(1)] * 10, servable=servable)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            results = ask(runner, "steady", [column(number) for number in range(40)], servable=servable)
            times.append(time.perf_counter() - started)
            assert [result[0].item() for result in results] == list(range(40))
        seconds[adaptive] = min(times)
    assert seconds[False] > 3 * seconds[True]


def test_different_widths_do_not_share_a_run_but_all_are_answered(ask):
    inputs = [np.full((1 + index % 2, 1 + index % 5), index, np.float32) for index in range(50)]
    for given, (total, doubled) in zip(inputs, ask(Runner(), "double", inputs), strict=True):
        np.testing.assert_array_equal(doubled, 2 * given)
        np.testing.assert_allclose(total, given.sum(1))


def test_a_model_whose_rows_depend_on_each_other_is_found_out(ask, column, batch_models, caplog):
    runner, servable = Runner(), Servable("m", 1, batch_models)
    for _ in range(3):
        results = ask(runner, "relative", [column(number, number + 2) for number in range(30)], servable=servable)
        for (result,) in results:
            np.testing.assert_array_equal(result, column(-1, 1))
    assert caplog.text.count("are not run together: a shared run gave other results than separate ones") == 1


def test_outputs_without_a_batch_dimension_are_never_shared(ask, column):
    runs = []
    runner = Runner(on_batch=lambda model, rows, queued: runs.append(len(queued)))
    results = ask(runner, "total", [column(number, 1) for number in range(20)])
    assert [result[0].item() for result in results] == [number + 1.0 for number in range(20)]
    assert set(runs) == {1}


def test_a_bad_request_spoils_no_other(ask):
    inputs = [np.array([text], object) for text in [b"1", b"2", b"no number", b"4", b"5"] * 6]
    runner = Runner()
    for _ in range(5):
        for given, result in zip(inputs, ask(runner, "number", inputs), strict=True):
            if given[0] == b"no number":
                assert isinstance(result, ServingError)
                assert result.code == Code.INVALID_ARGUMENT
                assert "no number" in result.message
            else:
                assert result[0].tolist() == [float(given[0])]


def test_inputs_that_do_not_fit_together_get_the_graphs_own_error_alone(ask):
    good = (np.float32([1, 2]), np.float32([3, 4]))
    bad = (np.float32([1, 2]), np.float32([1, 2, 3]))
    results = ask(Runner(), "pair", [good, bad] * 10)
    for result in results[::2]:
        assert result[0].tolist() == [4.0, 6.0]
    for result in results[1::2]:
        assert isinstance(result, ServingError)
        assert result.code == Code.INVALID_ARGUMENT


def test_without_adaptive_batching_each_request_runs_alone(ask, column):
    runner = Runner(adaptive=False)
    assert [result[0].tolist() for result in ask(runner, "rows", [column(1)] * 30)] == [[1]] * 30


def test_short_runs_are_made_on_the_loop_and_answer_the_same(ask, column, batch_models):
    runner, servable = Runner(), Servable("m", 1, batch_models)
    for number in range(200):
        (result,) = ask(runner, "double", [column(number)], servable=servable)
        assert result[1].tolist() == [[2.0 * number]]
    results = ask(runner, "double", [column(number) for number in range(100)], servable=servable)
    assert [result[1].item() for result in results] == [2.0 * number for number in range(100)]


def test_a_deadline_that_has_passed_is_told_at_once(ask, column):
    facts = {}
    (error,) = ask(Runner(), "double", [column(1)], deadline=time.monotonic() - 1, facts=facts)
    assert (error.code, error.message) == (Code.DEADLINE_EXCEEDED, "Deadline exceeded while waiting for model m")
    assert facts == {}


def test_requests_whose_clients_have_gone_wait_no_longer(batch_models, column):
    runner, servable = Runner(adaptive=False), Servable("m", 1, batch_models)
    signature = batch_models.signatures["steady"]
    run = GraphRun("steady", (signature.inputs["x"].name,), (signature.outputs["y"].name,), [column(1)])

    async def flood():
        assert servable.try_enter()
        with servable:
            tasks = [asyncio.create_task(runner.run(servable, run)) for _ in range(200)]
            await asyncio.sleep(0.05)
            waiting = sum(depth for _, depth in runner.queue_depths())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return waiting, sum(depth for _, depth in runner.queue_depths())

    waiting, left = asyncio.run(flood())
    assert waiting > 0
    assert left == 0


def test_whole_numbers_keep_a_call_off_the_loop():
    """They may be counts of steps: fifty short runs say nothing of the next."""
    queues = {bounded: AdaptiveQueue(True, 5.0, bounded) for bounded in (True, False)}
    for bounded, queue in queues.items():
        tasks = [Task([np.float32([[1]])], 1, None, None, 0.0)]
        for _ in range(100):
            queue.note_run(tasks, 0.0001, 0.0001, 1)
        assert queue.is_instant(tasks) is bounded


def test_facts_for_the_access_log(ask, column):
    facts = {}
    ask(Runner(), "double", [column(1, 2, 3)], deadline=time.monotonic() + 60, facts=facts)
    assert facts["batch_rows"] == 3
    assert 0 <= facts["queued_ms"] < 10_000


@pytest.mark.parametrize(
    ("together", "apart", "same"),
    [
        ([np.float32([1, np.nan])], [np.float32([1.00001, np.nan])], True),
        ([np.float32([1])], [np.float32([1.01])], False),
        ([np.int64([1])], [np.int64([2])], False),
        ([np.array([b"a"], object)], [np.array([b"a"], object)], True),
        ([np.float32([1])], [np.float32([1, 1])], False),
        ([np.float32([1])], [np.float64([1])], False),
    ],
)
def test_what_counts_as_the_same_answer(together, apart, same):
    assert agree([together], [apart]) is same


def test_errors_never_count_as_agreement():
    error = ServingError(Code.INVALID_ARGUMENT, "bad")
    assert not agree([error], [error])
