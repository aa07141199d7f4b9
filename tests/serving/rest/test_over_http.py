"""The REST port of a real server process, asked by Python's own HTTP client."""

import http.client
import json

import pytest


@pytest.fixture(scope="module")
def address(run_server, exported, put_version, tmp_path_factory):
    """Host and port of a server with one model."""
    base = tmp_path_factory.mktemp("over_http") / "linear"
    put_version(exported / "linear", base, 1)
    server = run_server(
        "--port=0", "--rest_api_port=-1", "--model_name=linear", f"--model_base_path={base}",
        "--rest_api_enable_cors_support", "--rest_api_timeout_in_ms=1500",
    ).wait_ready()  # fmt: skip
    line = server.process.stdout.readline()
    assert line.startswith("Exporting HTTP/REST API at:")
    return line.removeprefix("Exporting HTTP/REST API at:").split()[0]


@pytest.fixture
def connection(address):
    connection = http.client.HTTPConnection(address, timeout=20)
    yield connection
    connection.close()


def ask(connection, method, path, body=None, **headers):
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_many_requests_on_one_connection(connection):
    connection.connect()
    port = connection.sock.getsockname()[1]
    for number in range(50):
        body = json.dumps({"instances": [[number]]})
        status, answer, headers = ask(connection, "POST", "/v1/models/linear:predict?ignored=1", body)
        assert status == 200
        assert json.loads(answer) == {"predictions": [[2.0 * number + 1]]}
        assert headers["Content-Type"] == "application/json"
        assert connection.sock.getsockname()[1] == port


def test_a_body_in_chunks(connection):
    chunks = iter([b'{"instances": ', b"[[1.0], ", b"[2.0]]}"])
    connection.request("POST", "/v1/models/linear:predict", chunks, encode_chunked=True)
    assert connection.getresponse().read() == b'{\n    "predictions": [[3.0], [5.0]\n    ]\n}'


def test_head_has_no_body(connection):
    status, body, headers = ask(connection, "HEAD", "/health/ready")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert ask(connection, "HEAD", "/v1/models/linear")[0] == 400
    assert ask(connection, "GET", "/v1/models/linear")[0] == 200


def test_a_browser_s_preflight(connection):
    status, body, headers = ask(connection, "OPTIONS", "/v1/models/linear:predict", Origin="https://example.com")
    assert (status, body) == (200, b"")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Methods"] == "POST, GET"


def test_a_request_that_takes_too_long(connection):
    body = '{"signature_name": "slow", "inputs": 5000000}'
    status, answer, _ = ask(connection, "POST", "/v1/models/linear:predict", body)
    assert status == 504
    assert "error" in json.loads(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/foo", 400), ("DELETE", "/v1/models/linear", 400), ("GET", "/", 404), ("PUT", "/models", 405),
        ("POST", "/v1/models/nix:predict", 404), ("GET", "/monitoring/prometheus/metrics", 200),
    ],
)  # fmt: skip
def test_statuses(connection, method, path, status):
    assert ask(connection, method, path)[0] == status
