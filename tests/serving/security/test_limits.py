"""The bucket against a reference that keeps every time, and requests that hold places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code, ServingError
from serving.security.limits import Admission, Load, Memory, TokenBucket


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=100),
)
def test_no_window_lets_more_through_than_burst_and_rate(rate, burst, pauses):
    now, passed = 0.0, []
    bucket = TokenBucket(rate, burst, now)
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        assert 0.0 <= wait <= 1.0 / rate + 1e-9
        if wait == 0.0:
            passed.append(now)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - start) + 1e-6


def test_after_the_time_it_names_a_request_passes():
    bucket = TokenBucket(10.0, 2, 0.0)
    assert [bucket.take(0.0), bucket.take(0.0)] == [0.0, 0.0]
    wait = bucket.take(0.0)
    assert wait == pytest.approx(0.1)
    assert bucket.take(wait + 1e-9) == 0.0
    assert bucket.take(100.0) == 0.0  # full again, and no fuller than its burst
    assert bucket.take(100.0) == 0.0
    assert bucket.take(100.0) > 0.0


def test_less_than_one_a_second():
    bucket = TokenBucket(0.25, 1, 0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(1.0) == pytest.approx(3.0)
    assert bucket.take(4.0) == 0.0


def test_another_limit_keeps_what_was_used():
    bucket = TokenBucket(1.0, 5, 0.0)
    for _ in range(5):
        assert bucket.take(0.0) == 0.0
    bucket.change(10.0, 100, 0.0)
    assert bucket.take(0.0) == pytest.approx(0.1)
    bucket.change(1.0, 1, 50.0)
    assert bucket.take(50.0) == 0.0
    assert bucket.take(50.0) > 0.0


def admission(server, caller, now=0.0):
    return Admission(server, caller, "the token 'shop'", lambda: now)


def refusal(server, caller, now=0.0):
    with pytest.raises(ServingError) as caught, admission(server, caller, now):
        raise AssertionError("it got in")
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    return caught.value.message


def test_places_are_given_back_whatever_happens():
    server, caller = Load(10), Load(1)

    def fail():
        with admission(server, caller):
            assert (server.in_flight, caller.in_flight) == (1, 1)
            raise ValueError("model")

    with pytest.raises(ValueError, match="model"):
        fail()
    assert (server.in_flight, caller.in_flight) == (0, 0)


def test_the_texts_of_the_three_limits():
    server, caller, other = Load(2), Load(1, TokenBucket(2.0, 3, 0.0)), Load()
    with admission(server, caller):
        assert refusal(server, caller) == "the token 'shop' has reached its limit of requests under way: 1"
        with admission(server, other):
            full = "the server has reached its limit of requests under way: 2; try later"
            assert refusal(server, caller) == refusal(server, other) == full
    for _ in range(2):  # the refused ones have cost nothing of the rate
        with admission(server, caller):
            pass
    assert refusal(server, caller) == "the token 'shop' may send 2 requests per second; try again in 0.5 s"
    assert (server.in_flight, caller.in_flight) == (0, 0)


def test_messages_are_held_up_to_a_sum():
    memory = Memory(100)
    with memory.hold(60), memory.hold(40):
        assert memory.held == 100
        with pytest.raises(ServingError) as caught, memory.hold(1):
            pass
        assert caught.value.code == Code.RESOURCE_EXHAUSTED
        assert caught.value.message == (
            "the requests under way hold 100 bytes, with this one 101 of at most 100; try again later"
        )
    assert memory.held == 0
    with memory.hold(1000):  # alone it is taken
        assert memory.held == 1000
