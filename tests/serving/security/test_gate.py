"""Who gets in, what they may do, how much of it, and how quickly that is decided."""

import hashlib
import statistics
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code, ServingError
from serving.security.gate import Gate
from serving.security.tokens import Token, TokensFile


@pytest.fixture
def gate(tokens_file):
    """`gate(entry, …)`: a gate with these tokens."""

    def make(*entries, **options):
        return Gate(TokensFile(tokens_file(*entries)), **options)

    return make


def refusal(function, *arguments):
    with pytest.raises(ServingError) as caught:
        function(*arguments)
    assert "\n" not in caught.value.message
    return caught.value.code, caught.value.message


SHOP = {"name": "shop", "token": "secret", "models": ["dense", "bert*"]}


def test_without_tokens_everyone_may_do_everything():
    gate = Gate()
    for header in (None, "", "Bearer anything", "nonsense"):
        caller = gate.authenticate(header)
        assert caller.name == "anonymous"
        gate.authorise(caller, "infer", "dense")
        gate.authorise(caller, "admin")
        assert gate.authorise_metrics(header, "192.0.2.1").name == "anonymous"


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", "BEARER   secret ", " Bearer secret"])
def test_a_token_is_found(gate, header):
    assert gate(SHOP).authenticate(header).name == "shop"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic c2VjcmV0", "secret", "Bearersecret"])
def test_no_token(gate, header):
    assert refusal(gate(SHOP).authenticate, header) == (Code.UNAUTHENTICATED, "a bearer token is required")


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer secret2", "Bearer secret secret", "Bearer \ud800\x00", "Bearer " + "x" * 100_000]
)
def test_a_wrong_token(gate, header):
    made = gate(SHOP)
    for _ in range(2):
        assert refusal(made.authenticate, header) == (Code.UNAUTHENTICATED, "the bearer token is not valid")


@given(st.text() | st.text().map("Bearer {}".format))
def test_no_header_breaks_it(header):
    class Source:
        tokens = (Token("shop", hashlib.sha256(b"secret").digest(), ("*",)),)

    assert refusal(Gate(Source()).authenticate, header)[0] == Code.UNAUTHENTICATED


def test_the_hash_is_no_token(gate):
    made = gate(SHOP)
    digest = made._source.tokens[0].digest.hex()
    assert refusal(made.authenticate, f"Bearer {digest}")[0] == Code.UNAUTHENTICATED


def test_only_who_has_a_token_learns_that_it_has_expired(gate):
    end = datetime.now(UTC) + timedelta(seconds=0.3)
    made = gate({**SHOP, "expires": end.isoformat()})
    assert made.authenticate("Bearer secret").name == "shop"
    while datetime.now(UTC) < end:
        time.sleep(0.01)
    # Also once it has been found before.
    assert refusal(made.authenticate, "Bearer secret") == (Code.UNAUTHENTICATED, "the bearer token has expired")
    assert refusal(made.authenticate, "Bearer other") == (Code.UNAUTHENTICATED, "the bearer token is not valid")


def test_rights(gate):
    made = gate(SHOP, {"name": "boss", "token": "boss", "actions": ["admin", "metrics"]})
    shop, boss = made.authenticate("Bearer secret"), made.authenticate("Bearer boss")
    made.authorise(shop, "infer", "dense")
    made.authorise(shop, "read", "bert_large")
    made.authorise(boss, "admin")
    denied = (Code.PERMISSION_DENIED, "the token 'shop' has no right to infer on model 'image'")
    assert refusal(made.authorise, shop, "infer", "image") == denied
    assert refusal(made.authorise, shop, "admin") == (
        Code.PERMISSION_DENIED,
        "the token 'shop' has no right to admin",
    )
    assert (
        refusal(made.authorise, boss, "infer", "a\nb")[1] == "the token 'boss' has no right to infer on model 'a\\nb'"
    )
    assert [name for name in ("dense", "image", "bert") if made.allows(shop, "read", name)] == ["dense", "bert"]


def test_metrics_need_a_token_off_this_machine(gate):
    made = gate(SHOP, {"name": "eye", "token": "eye", "actions": ["metrics"]})
    for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert made.authorise_metrics(None, peer).name == "anonymous"
    assert made.authorise_metrics("Bearer eye", "192.0.2.1").name == "eye"
    assert refusal(made.authorise_metrics, None, "192.0.2.1")[0] == Code.UNAUTHENTICATED
    assert refusal(made.authorise_metrics, None, "")[0] == Code.UNAUTHENTICATED
    assert refusal(made.authorise_metrics, "Bearer secret", "192.0.2.1") == (
        Code.PERMISSION_DENIED,
        "the token 'shop' has no right to metrics",
    )


def test_limits_are_each_callers_own(gate):
    now = [0.0]
    made = gate(
        {**SHOP, "requests_per_second": 2, "burst": 2}, {"name": "desk", "token": "desk", "max_concurrent": 1},
        max_concurrent_requests=3, clock=lambda: now[0],
    )  # fmt: skip
    shop, desk = made.authenticate("Bearer secret"), made.authenticate("Bearer desk")
    with made.admit(shop), made.admit(shop), made.admit(desk):
        assert made.in_flight == 3
        assert (
            refusal(made.admit(desk).__enter__)[1]
            == "the server has reached its limit of requests under way: 3; try later"
        )
    assert made.in_flight == 0
    assert refusal(made.admit(shop).__enter__) == (
        Code.RESOURCE_EXHAUSTED,
        "the token 'shop' may send 2 requests per second; try again in 0.5 s",
    )
    with made.admit(desk):
        assert refusal(made.admit(desk).__enter__) == (
            Code.RESOURCE_EXHAUSTED,
            "the token 'desk' has reached its limit of requests under way: 1",
        )
    now[0] = 0.5
    with made.admit(made.authenticate("Bearer secret")):
        pass


def test_without_tokens_only_the_server_has_a_limit():
    made = Gate(max_concurrent_requests=2)
    caller = made.authenticate(None)
    for _ in range(1000):
        with made.admit(caller), made.admit(caller):
            pass
    with made.admit(caller), made.admit(caller):
        assert refusal(made.admit(caller).__enter__)[0] == Code.RESOURCE_EXHAUSTED


def test_a_changed_file_counts_at_once_and_forgives_nothing(tokens_file, eventually):
    limits = {"requests_per_second": 0.001, "burst": 2, "max_concurrent": 1}
    with TokensFile(tokens_file({**SHOP, **limits}), poll_seconds=0.02) as source:
        gate = Gate(source)
        caller = gate.authenticate("Bearer secret")
        with gate.admit(caller):
            before = source.tokens
            tokens_file({**SHOP, **limits, "token": "renewed"}, {"name": "desk", "token": "desk"})
            eventually(lambda: source.tokens is not before)
            assert refusal(gate.authenticate, "Bearer secret")[0] == Code.UNAUTHENTICATED  # revoked
            renewed = gate.authenticate("Bearer renewed")
            assert "limit of requests under way: 1" in refusal(gate.admit(renewed).__enter__)[1]
            assert gate.authenticate("Bearer desk").name == "desk"
        with gate.admit(renewed):
            pass
        assert "requests per second" in refusal(gate.admit(renewed).__enter__)[1]
        tokens_file({**SHOP, "token": "renewed"})
        eventually(lambda: len(source.tokens) == 1)
        free = gate.authenticate("Bearer renewed")
        with gate.admit(free), gate.admit(free):
            assert gate.in_flight == 2


def test_a_request_costs_microseconds(gate):
    made = gate(*({"name": f"name{number}", "token": f"token{number}"} for number in range(100)))
    header = "Bearer token99"

    def request():
        caller = made.authenticate(header)
        made.authorise(caller, "infer", "dense")
        with made.admit(caller):
            pass

    def seconds(function, times):
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    request()
    assert seconds(request, 2000) < 50e-6
    assert seconds(lambda: refusal(made.authenticate, "Bearer wrong"), 200) < 1e-3
