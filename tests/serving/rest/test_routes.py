"""Routes as TensorFlow Serving matches them (http_rest_api_util.cc and its tests), and ours."""

import pytest

from serving.errors import Code, ServingError
from serving.rest.routes import Route, match_route

RESERVED = "%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"
DECODED = "!#$%&'()*+,/:;=?@[]"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/models/m:predict", Route("predict", "m")),
        ("POST", "/v1/models/m:classify", Route("classify", "m")),
        ("POST", "/v1/models/m:regress", Route("regress", "m")),
        ("POST", "/v1/models/m/versions/99:predict", Route("predict", "m", 99)),
        ("POST", "/v1/models/m/versions/0:predict", Route("predict", "m", 0)),
        ("POST", "/v1/models/m/versions/00000123:predict", Route("predict", "m", 123)),
        ("POST", "/v1/models/m/versions/9223372036854775807:predict", Route("predict", "m", 2**63 - 1)),
        ("POST", "/v1/models/m/labels/latest:regress", Route("regress", "m", label="latest")),
        ("POST", "/V1/Models/m/Versions/2:PREDICT", Route("predict", "m", 2)),
        ("GET", "/v1/models/m", Route("status", "m")),
        ("GET", "/v1/models/m/versions/3", Route("status", "m", 3)),
        ("GET", "/v1/models/m/labels/x", Route("status", "m", label="x")),
        ("GET", "/v1/models/m/metadata", Route("metadata", "m")),
        ("GET", "/v1/models/m/versions/3/metadata", Route("metadata", "m", 3)),
        ("GET", "/v1/models/m/labels/x/METADATA", Route("metadata", "m", label="x")),
        ("GET", "/v1/models/metadata", Route("status", "metadata")),
        ("GET", f"/v1/models/n{RESERVED}/labels/l{RESERVED}", Route("status", "n" + DECODED, label="l" + DECODED)),
        ("POST", f"/v1/models/n{RESERVED}:predict", Route("predict", "n" + DECODED)),
        ("GET", "/v1/models/%E7%8C%AB", Route("status", "猫")),
        ("GET", "/v1/models/a+b%zz%4", Route("status", "a+b%zz%4")),
        ("GET", "/v1/models/%FF%00", Route("status", "\ufffd\0")),
        ("GET", "/models", Route("models")),
        ("HEAD", "/health/live", Route("live")),
        ("GET", "/health/ready", Route("ready")),
        ("GET", "/monitoring/prometheus/metrics", Route("metrics")),
        ("POST", "/models", Route("wrong_method")),
        ("DELETE", "/health/ready", Route("wrong_method")),
        ("GET", "/", Route("unknown")),
        ("GET", "/v1", Route("unknown")),
        ("POST", "/statuspage", Route("unknown")),
    ],
)  # fmt: skip
def test_what_a_path_asks_for(method, path, expected):
    assert match_route(method, path) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/foo:predict"),
        ("HEAD", "/v1/models/foo"),
        ("DELETE", "/v1/models/foo"),
        ("OPTIONS", "/v1/models/foo:predict"),
        ("GET", "/v1/models/foo/version/50:predict"),
        ("POST", "/v1/models/foo/version/50:regress"),
        ("POST", "/v1/models/foo/versions/HELLO:regress"),
        ("POST", "/v1/models/foo/versions/٣:predict"),
        ("POST", "/v1/models/foo/metadata"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
        ("POST", "/v1/models/foo:explain"),
    ],
)
def test_what_the_contract_does_not_know(method, path):
    with pytest.raises(ServingError) as caught:
        match_route(method, path)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == f"Malformed request: {method} {path}"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/versions/1", "/v1/models/labels/x/metadata"])
def test_a_model_s_name_is_missing(path):
    with pytest.raises(ServingError, match=r"^Missing model name in request\.$"):
        match_route("GET", path)


@pytest.mark.parametrize("version", [str(2**64 - 1), str(2**63), "9" * 10_000])
@pytest.mark.parametrize(("method", "end"), [("POST", ":predict"), ("GET", ""), ("GET", "/metadata")])
def test_a_version_beyond_64_bits(method, end, version):
    with pytest.raises(ServingError) as caught:
        match_route(method, f"/v1/models/foo/versions/{version}{end}")
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == f"Failed to convert version: {version} to numeric."


def test_the_metrics_path_is_configured():
    assert match_route("GET", "/metrics", "/metrics") == Route("metrics")
    assert match_route("GET", "/monitoring/prometheus/metrics", "/metrics") == Route("unknown")
    assert match_route("GET", "/monitoring/prometheus/metrics", "") == Route("unknown")
