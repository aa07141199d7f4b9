"""The secured server's REST port, over raw sockets and Python's own client."""

import http.client
import json
import socket
import ssl
import time

import pytest

SECONDS = 10
BODY = json.dumps({"instances": [[2.0]]})


@pytest.fixture(scope="module")
def context(certificates, tmp_path_factory):
    """A client's context, with its certificate."""
    path = tmp_path_factory.mktemp("client") / "client.pem"
    path.write_text(certificates.client.key + certificates.client.cert)
    path.chmod(0o600)
    context = ssl.create_default_context(cadata=certificates.ca.cert)
    context.load_cert_chain(path)
    return context


@pytest.fixture
def ask(secure, context):
    """`ask(method, path, token) -> (status, JSON or text, headers)`."""

    def send(method, path, token=None, body=None, scheme="Bearer", request_id=None):
        connection = http.client.HTTPSConnection("localhost", secure.rest_port, timeout=SECONDS, context=context)
        headers = {"Authorization": f"{scheme} {secure.tokens.get(token, token)}"} if token else {}
        if request_id:
            headers["X-Request-Id"] = request_id
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read().decode()
        connection.close()
        is_json = "json" in (response.getheader("Content-Type") or "")
        return response.status, json.loads(content) if is_json else content, response.headers

    return send


def predict(ask, token, name="linear", **how):
    status, content, _ = ask("POST", f"/v1/models/{name}:predict", token, BODY, **how)
    return status, content.get("error") or content["predictions"]


def test_a_client_with_a_certificate_and_a_token_is_served(ask):
    status, answer = predict(ask, "friend")
    assert status == 200
    assert answer in ([[5.0]], [[6.0]])  # the tests of gRPC swap the model


def test_wrong_missing_and_expired_tokens(ask):
    for token, text in [
        (None, "a bearer token is required"),
        ("wrong", "the bearer token is not valid"),
        ("old", "the bearer token has expired"),
    ]:
        assert predict(ask, token) == (401, text)
    assert predict(ask, "shop", scheme="Basic") == (401, "a bearer token is required")
    assert ask("POST", "/v1/models/linear:predict", None, BODY)[2]["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/foo", "/v1/models", "/models", "/", "/v1/models/linear", "/health"])
def test_nothing_but_health_is_told_without_a_token(ask, path):
    assert ask("GET", path)[0] == 401


def test_what_a_token_may_not_see_might_as_well_not_exist(ask):
    for name, shown in [("hidden", "hidden"), ("absent", "absent"), ("%68idden", "hidden")]:
        assert predict(ask, "shop", name) == (403, f"the token 'shop' has no right to infer on model '{shown}'")
        text = f"the token 'shop' has no right to read on model '{shown}'"
        for path in (f"/v1/models/{name}", f"/v1/models/{name}/metadata", f"/V1/MODELS/{name}/versions/1"):
            assert ask("GET", path, "shop")[:2] == (403, {"error": text})
    assert [model["name"] for model in ask("GET", "/models", "shop")[1]["models"]] == ["linear"]
    assert ask("GET", "/models", "boss")[1]["models"] == []


def test_the_rate_of_a_token(ask):
    assert [predict(ask, "rest_slow")[0] for _ in range(2)] == [200, 200]
    status, text = predict(ask, "rest_slow")
    assert status == 429
    assert text.startswith("the token 'rest_slow' may send 0.01 requests per second; try again in ")


def test_the_rate_holds_for_questions_too(ask):
    assert [ask("GET", path, "curious")[0] for path in ("/v1/models/linear", "/v1/models/linear/metadata")] == [200] * 2
    for path in ("/v1/models/linear", "/v1/models/linear/metadata"):
        assert ask("GET", path, "curious")[0] == 429


def test_refusals_can_be_found_in_the_access_log(secure, ask, eventually):
    assert predict(ask, "wrong", request_id="lost-42")[0] == 401
    assert predict(ask, None)[0] == 401

    def refused():
        lines = (secure.folder / "access.log").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry.get("code") == "UNAUTHENTICATED"]

    eventually(lambda: "lost-42" in [entry["request_id"] for entry in refused()])
    assert all(entry["request_id"] for entry in refused())
    assert {entry["caller"] for entry in refused()} == {""}


def test_health_and_local_metrics_need_no_token(ask):
    assert ask("GET", "/health/live")[0] == ask("GET", "/health/ready")[0] == 200
    status, page, _ = ask("GET", "/monitoring/prometheus/metrics")
    assert status == 200
    assert "request_count" in page


def test_no_certificate_no_answer(secure, certificates):
    context = ssl.create_default_context(cadata=certificates.ca.cert)
    connection = http.client.HTTPSConnection("localhost", secure.rest_port, timeout=SECONDS, context=context)

    def answer():
        connection.request("GET", "/health/live")
        return connection.getresponse()

    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        answer()
    connection.close()


def test_plain_text_and_rubbish_get_no_answer(secure, ask):
    for sent in (b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 500, b""):
        with socket.create_connection(("127.0.0.1", secure.rest_port), SECONDS) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: plain.recv(100), b""))
        assert b"HTTP" not in answer
    assert ask("GET", "/health/live")[0] == 200


@pytest.mark.slow
def test_a_handshake_that_never_comes_is_ended(secure):
    with socket.create_connection(("127.0.0.1", secure.rest_port), 30) as silent:
        start = time.monotonic()
        assert silent.recv(100) == b""
        assert time.monotonic() - start < 15
