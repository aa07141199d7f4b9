"""The REST interface over real models, Runner, gate and metrics: bytes in, bytes out."""

import asyncio
import gzip
import hashlib
import json
import threading
import time
import types

import numpy as np
import pytest

from serving.assembly import make_core, read_settings
from serving.errors import Code, ServingError
from serving.flags import parse_flags
from serving.operations.access_log import NoAccessLog
from serving.rest.api import RestApi, error_response, http_status
from serving.rest.http_messages import HttpRequest

from ..inference.conftest import save_half_plus_two

JSON = ("Content-Type", "application/json")


class Api:
    """A RestApi with its event loop in a thread; `call` sends a request and waits for the answer."""

    def __init__(self, core, options):
        self.core = core
        self.rest = RestApi(core, options)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def start(self, method, path, body=b"", seconds=30.0, caller=None, **headers):
        body = body.encode() if isinstance(body, str) else body
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        caller = caller or self.core.gate.authenticate(None)
        now, started = time.monotonic(), time.perf_counter()
        request = HttpRequest(method, path, headers, body, "127.0.0.1", caller, now + seconds, started)
        return asyncio.run_coroutine_threadsafe(self.rest(request), self.loop)

    def call(self, *arguments, **keywords):
        return self.start(*arguments, **keywords).result(60)

    def error(self, *arguments, **keywords):
        """Status and text of an error."""
        response = self.call(*arguments, **keywords)
        assert response.headers[0] == JSON
        assert response.body.startswith(b'{\n    "error": "')
        return response.status, json.loads(response.body)["error"]

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@pytest.fixture(scope="module")
def start_api(exported, put_version, tmp_path_factory):
    """Makes an Api with some of the models: `start_api("--flag=value", names=("linear",))`."""
    folder = tmp_path_factory.mktemp("rest")
    for name, source, versions in [("linear", "linear", [1, 3]), ("many", "many", [1]), ("text", "text", [1])]:
        for version in versions:
            put_version(exported / source, folder / name, version)
    save_half_plus_two(folder / "half" / "123")
    policy = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    paths = {"linear": "linear", "many": "many", "text": "text", "half": "half", "a/b é": "half"}
    started = []

    def start(*flags, names=("linear", "half")):
        configs = "".join(
            f"config {{ name: '{name}' base_path: '{folder / paths[name]}' model_platform: 'tensorflow' "
            f"{policy if name == 'linear' else ''} }}"
            for name in names
        )
        (folder / "models.config").write_text(f"model_config_list {{ {configs} }}")
        options, _ = parse_flags([f"--model_config_file={folder / 'models.config'}", *flags])
        core = make_core(options, read_settings(options), NoAccessLog())
        core.manager.start()
        assert core.manager.wait_until_available(threading.Event())
        started.append(Api(core, options))
        return started[-1]

    yield start
    for api in started:
        api.close()
        api.core.runner.close()
        api.core.request_log.close()
        api.core.manager.close(10)


@pytest.fixture(scope="module")
def api(start_api):
    return start_api(names=("linear", "many", "text", "half", "a/b é"))


def test_predict(api):
    response = api.call("POST", "/v1/models/linear:predict", '{"instances": [[1.0], [2]]}')
    assert response.status == 200
    assert response.headers == (JSON,)
    # The highest version answers; a single output has no name.
    assert response.body == b'{\n    "predictions": [[3.0], [5.0]\n    ]\n}'
    facts = {name: response.facts[name] for name in ("model", "version", "signature", "code", "request_bytes")}
    assert facts == {
        "model": "linear", "version": 3, "signature": "serving_default", "code": "OK", "request_bytes": 27,
    }  # fmt: skip
    assert response.facts["batch_rows"] >= 1


@pytest.mark.parametrize("path", ["linear", "linear/versions/1", "linear/labels/stable"])
def test_columns_versions_and_labels(api, path):
    response = api.call("POST", f"/V1/models/{path}:predict", '{"signature_name": "", "inputs": {"x": [[0.5]]}}')
    assert response.body == b'{\n    "outputs": [\n        [\n            2.0\n        ]\n    ]\n}'
    assert response.facts["version"] == (3 if path == "linear" else 1)


def test_several_inputs_and_outputs(api):
    rows = [{"age": 17, "city": "猫", "pair": [1, 2]}, {"age": 18.5, "city": {"b64": "/w=="}, "pair": [3, 4]}]
    # The output "z" is a scalar: it has no rows.
    body = json.dumps({"instances": rows})
    assert api.error("POST", "/v1/models/many:predict", body) == (400, "Tensor name: z has no shape information ")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    response = api.call("POST", "/v1/models/many:predict", json.dumps({"inputs": columns}))
    answer = json.loads(response.body.replace(b"\xff", b"bytes"))["outputs"]
    assert answer == {"adult": [False, True], "city": ["猫", "bytes"], "older": [18.0, 19.5], "sum": [3, 7], "z": 7}


def test_regress_and_classify(api):
    body = '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}, {"x": [1.0]}]}'
    for path in ("half", "half/versions/123", "a%2Fb%20%C3%A9"):
        response = api.call("POST", f"/v1/models/{path}:regress", body)
        assert response.body == b'{\n    "results": [42.0, 2.5]\n}'
    body = '{"signature_name": "classify_x_to_y", "context": {"x": 20.0}, "examples": [{}, {"x2": 1.5}]}'
    response = api.call("POST", "/v1/models/half:classify", body)
    assert response.body == b'{\n    "results": [[["", 12.0]], [["", 12.0]]\n    ]\n}'
    assert response.facts["version"] == 123


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("foo:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(foo)"),
        ("%FF:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(\ufffd)"),
        ("linear/versions/7:predict", "{}", 404, "Servable not found for request: Specific(linear, 7)"),
        ("linear/labels/nix:predict", "{}", 400, "Unrecognized servable version label: nix"),
        ("linear:predict", "", 400, "JSON Parse error: The document is empty"),
        ("linear:predict", '{"signature_name": "s"}', 400, 'Serving signature name: "s" not found in signature def'),
        ("foo:regress", '{"examples": [{}]}', 404, "Servable not found for request: Latest(foo)"),
        ("half:regress", "[", 400, "JSON Parse error: Invalid value. at offset: 1"),
        ("half:regress", '{"signature_name": "s", "examples": [{}]}', 400,
         "No signature was found with the name: s"),
    ],
)  # fmt: skip
def test_refusals(api, path, body, status, text):
    assert api.error("POST", f"/v1/models/{path}", body) == (status, text)


def test_what_an_op_says_is_told(api):
    body = '{"signature_name": "number", "instances": ["nine"]}'
    status, text = api.error("POST", "/v1/models/text:predict", body)
    assert status == 400
    assert "StringToNumberOp could not correctly convert string: nine" in text


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("OPTIONS", "/v1/models/linear:predict", 400, "Malformed request: OPTIONS /v1/models/linear:predict"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/foo", 404, "Could not find any versions of model foo"),
        ("GET", "/v1/models/linear/versions/7", 404, "Could not find version 7 of model linear"),
        ("GET", "/v1/models/foo/metadata", 404, "Servable not found for request: Latest(foo)"),
        ("GET", "/", 404, "Nothing is served at /"),
        ("POST", "/health/live", 405, "/health/live takes GET, not POST"),
    ],
)
def test_other_refusals(api, method, path, status, text):
    assert api.error(method, path) == (status, text)


def test_too_late(api):
    body = '{"signature_name": "slow", "inputs": 2000000}'
    status, text = api.error("POST", "/v1/models/linear:predict", body, seconds=0.2)
    assert status == 504
    assert text


def test_the_loop_stays_free(api):
    """A large request is read and its answer written elsewhere: health answers meanwhile."""
    body = json.dumps({"instances": np.random.default_rng(1).normal(size=(200_000, 1)).tolist()})
    large = api.start("POST", "/v1/models/linear:predict", body)
    waits = []
    while not large.done():
        started = time.perf_counter()
        assert api.call("GET", "/health/live").status == 200
        waits.append(time.perf_counter() - started)
    assert large.result().status == 200
    assert len(json.loads(large.result().body)["predictions"]) == 200_000
    assert len(waits) > 2


def test_status(api):
    body = api.call("GET", "/v1/models/linear/versions/1").body
    assert body.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    versions = json.loads(api.call("GET", "/v1/models/linear/labels/ignored").body)["model_version_status"]
    assert [version["version"] for version in versions] == ["3", "1"]


def test_metadata(api):
    response = api.call("GET", "/v1/models/linear/labels/stable/metadata")
    text = response.body.decode()
    assert text.startswith(
        '{\n"model_spec":{\n "name": "linear",\n "version": "1",\n "signature_name": ""\n}\n,\n'
        '"metadata": {"signature_def": {\n "signature_def": {\n'
    )
    assert text.endswith("\n }\n}\n}\n}\n")
    signature = json.loads(text)["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
        "name": "serving_default_x:0",
    }
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["defaults"] == {}


def test_models_and_health(api):
    models = json.loads(api.call("GET", "/models").body)["models"]
    assert [model["name"] for model in models] == ["a/b é", "half", "linear", "many", "text"]
    assert models[2]["versions"] == [
        {"version": "3", "state": "AVAILABLE", "labels": [], "error": ""},
        {"version": "1", "state": "AVAILABLE", "labels": ["stable"], "error": ""},
    ]
    assert json.loads(api.call("GET", "/health/live").body) == {"status": "live"}
    ready = api.call("GET", "/health/ready")
    assert (ready.status, json.loads(ready.body)) == (200, {"status": "ready"})
    api.rest.draining = True
    ready = api.call("GET", "/health/ready")
    assert (ready.status, json.loads(ready.body)) == (503, {"status": "not ready", "reason": "draining"})
    api.rest.draining = False


def test_metrics_know_only_configured_models(api):
    for name in ("half", "invented"):
        api.call("POST", f"/v1/models/{name}:predict", '{"instances": [1.0]}')
    response = api.call("GET", "/monitoring/prometheus/metrics")
    assert response.headers[0][1].startswith("text/plain")
    page = response.body.decode()
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in page
    assert 'request_latency_count{model_name="half",API="predict",entrypoint="REST"}' in page
    assert 'model_name="",status="NOT_FOUND"' in page
    assert "invented" not in page


def test_gzip(api):
    body = gzip.compress(b'{"instances": [[1.0]]}')
    response = api.call("POST", "/v1/models/linear:predict", body, content_encoding="gzip", accept_encoding="gzip")
    assert response.body == b'{\n    "predictions": [[3.0]\n    ]\n}'  # too small to pack
    failed = (400, "Failed to uncompress the gzipped body")
    assert api.error("POST", "/v1/models/linear:predict", b"{}", content_encoding="gzip") == failed
    body = gzip.compress(json.dumps({"instances": [[0.5]] * 20_000}).encode())
    response = api.call("POST", "/v1/models/linear:predict", body, content_encoding="gzip", accept_encoding="gzip")
    assert ("Content-Encoding", "gzip") in response.headers
    assert json.loads(gzip.decompress(response.body)) == {"predictions": [[2.0]] * 20_000}


def test_gzip_of_many_is_bounded_together(start_api):
    # 3.3 MB of white space in 3 kB; the limit is 1 GiB, so it is lowered to what two of them take.
    api = start_api()
    api.rest._max_unpacked_bytes = 7_000_000
    packed = gzip.compress(b" " * 3_300_000 + b'{"signature_name": "slow", "inputs": 700000}')
    assert len(packed) < 5000
    answers = [api.start("POST", "/v1/models/linear:predict", packed, content_encoding="gzip") for _ in range(4)]
    statuses = sorted(answer.result(60).status for answer in answers)
    assert statuses == [200, 200, 503, 503]
    assert api.call("POST", "/v1/models/linear:predict", packed, content_encoding="gzip").status == 200  # given back


def test_cors(start_api):
    api = start_api("--rest_api_enable_cors_support")
    allowed = (
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "POST, GET"),
        ("Access-Control-Allow-Headers", "Content-Type"),
    )
    preflight = api.call("OPTIONS", "/v1/models/linear:predict", origin="https://example.com")
    assert (preflight.status, preflight.body, preflight.headers) == (200, b"", allowed)
    missing = (400, "Origin header is missing in CORS preflight")
    assert api.error("OPTIONS", "/v1/models/linear:predict") == missing
    answer = api.call("POST", "/v1/models/linear:predict", '{"instances": [[1.0]]}')
    assert answer.headers == (JSON, *allowed)
    assert api.call("GET", "/v1/models/foo").headers[1:] == allowed
    assert api.call("GET", "/models").headers[1:] == (("Cache-Control", "no-store"),)
    with_token = api.call(
        "OPTIONS", "/v1/models/m", origin="o", access_control_request_headers="authorization,content-type"
    )
    assert with_token.headers[2] == ("Access-Control-Allow-Headers", "Content-Type, Authorization")


def test_rights_and_limits(start_api, tmp_path):
    token = {"sha256": hashlib.sha256(b"secret").hexdigest(), "models": ["lin*"], "max_concurrent": 1}
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": [{"name": "shop", **token}]}))
    (tmp_path / "tokens.json").chmod(0o600)
    api = start_api(f"--auth_tokens_file={tmp_path / 'tokens.json'}")
    caller = api.core.gate.authenticate("Bearer secret")
    status, text = api.error("POST", "/v1/models/many:predict", "{}", caller=caller)
    assert (status, text) == (403, "the token 'shop' has no right to infer on model 'many'")
    assert api.error("GET", "/v1/models/many/metadata", caller=caller)[0] == 403
    models = json.loads(api.call("GET", "/models", caller=caller).body)["models"]
    assert [model["name"] for model in models] == ["linear"]
    slow = '{"signature_name": "slow", "inputs": 700000}'
    first = api.start("POST", "/v1/models/linear:predict", slow, caller=caller)
    time.sleep(0.2)
    assert api.error("POST", "/v1/models/linear:predict", slow, caller=caller)[0] == 429
    assert first.result(30).status == 200


def test_samples_are_logged(start_api, tmp_path):
    api = start_api(f"--request_log_prefix={tmp_path / 'log'}", "--request_log_sampling_rate=1")
    api.call("POST", "/v1/models/linear/labels/stable:predict", '{"instances": [[1.0]]}')
    api.call("POST", "/v1/models/half:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}')
    api.core.request_log.close()
    from serving.operations.request_records import records

    # Each model has files of its own.
    half, linear = (record for path in sorted(tmp_path.iterdir()) for record in records(path))
    assert (half["model"], half["version"], half["method"]) == ("half", 123, "regress")
    assert (linear["model"], linear["version"], linear["method"]) == ("linear", 1, "predict")
    assert (linear["inputs"], linear["outputs"]) == ({"x": [1.0]}, {"y": [3.0]})


def test_every_code_has_its_status():
    statuses = {code.name: http_status(code) for code in Code}
    assert statuses == {
        "OK": 200, "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400, "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500,
        "UNAVAILABLE": 503, "DATA_LOSS": 500, "UNAUTHENTICATED": 401,
    }  # fmt: skip
    response = error_response(ServingError(Code.UNAUTHENTICATED, "a bearer token is required"))
    assert response.headers == (JSON, ("WWW-Authenticate", "Bearer"))


def test_a_fault_of_ours_is_told_in_brief(api, caplog):
    broken = types.SimpleNamespace(path="/models", method="GET", headers={}, body=b"", caller=None, started=0.0)
    answer = asyncio.run_coroutine_threadsafe(api.rest(broken), api.loop).result(10)
    assert (answer.status, json.loads(answer.body)) == (500, {"error": "models failed: AttributeError"})
    assert "GET /models failed" in caplog.text
