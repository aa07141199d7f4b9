"""The REST contract against a real server, byte by byte where TensorFlow Serving's clients see bytes."""

import base64
import gzip
import http.client
import json

import pytest


@pytest.fixture(scope="module")
def address(run_server, exported, exported_with_examples, put_version, tmp_path_factory):
    """Host and port of REST: `half_plus_two` (1 with the label `canary`, 123), `odd`, `text`, `many`, `a b/c`."""
    folder = tmp_path_factory.mktemp("rest")
    configs = []
    for name, source, version in (
        ("half_plus_two", exported_with_examples / "half_plus_two", 123),
        ("odd", exported_with_examples / "odd", 1),
        ("text", exported / "text", 1),
        ("many", exported / "many", 1),
        ("a b:c", exported / "linear", 7),
    ):
        base = folder / name.replace(" ", "_").replace(":", "_")
        put_version(source, base, version)
        more = "model_version_policy { all {} } version_labels { key: 'canary' value: 1 }" if version == 123 else ""
        configs.append(f"config {{ name: '{name}' base_path: '{base}' model_platform: 'tensorflow' {more} }}")
    put_version(exported_with_examples / "half_plus_two", folder / "half_plus_two", 1)
    config = folder / "models.config"
    config.write_text("model_config_list { " + " ".join(configs) + " }")
    server = run_server(
        "--port=0", "--rest_api_port=-1", f"--model_config_file={config}", "--rest_api_enable_cors_support"
    ).wait_ready()
    line = server.process.stdout.readline()
    assert line.startswith("Exporting HTTP/REST API at:")
    return line.removeprefix("Exporting HTTP/REST API at:").split()[0]


@pytest.fixture(scope="module")
def send(address):
    """Sends a request as it is given and returns status, headers, body."""
    connection = http.client.HTTPConnection(address, timeout=30)

    def send_request(method, path, body=None, **headers):
        if not isinstance(body, bytes | None):
            body = (body if isinstance(body, str) else json.dumps(body)).encode()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read().decode(errors="surrogateescape")

    yield send_request
    connection.close()


def answer(send, *request):
    status, headers, body = send(*request)
    assert status == 200, body
    assert headers["content-type"] == "application/json"
    return body


def refusal(send, *request):
    status, _, body = send(*request)
    return status, json.loads(body)["error"]


PREDICT = "/v1/models/half_plus_two:predict"


def test_predict_by_row_and_by_column_with_exact_white_space(send):
    instances = '{"instances": [3.0, 4.0, 0.25]}'
    assert answer(send, "POST", PREDICT, instances) == '{\n    "predictions": [3.5, 4.0, 2.125\n    ]\n}'
    assert answer(send, "POST", PREDICT, '{"inputs": [3.0, 4.0]}') == (
        '{\n    "outputs": [\n        3.5,\n        4.0\n    ]\n}'
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/half_plus_two/versions/1:predict", "/v1/models/half_plus_two/labels/canary:predict",
        "/V1/MODELS/half_plus_two/Versions/123:PREDICT", "/v1/models/%68alf_plus_two:predict",
    ],
)  # fmt: skip
def test_versions_labels_case_and_percent_signs(send, path):
    assert json.loads(answer(send, "POST", path, {"instances": [2.0]})) == {"predictions": [3.0]}


def test_a_name_of_any_characters(send):
    assert json.loads(answer(send, "POST", "/v1/models/a%20b%3Ac:predict", {"instances": [[2.0]]})) == {
        "predictions": [[5.0]]
    }


def test_classify_and_regress(send):
    body = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"x": [10.0]}]}
    assert answer(send, "POST", "/v1/models/half_plus_two:regress", body) == '{\n    "results": [3.0, 7.0]\n}'
    body = {"examples": [{"class": ["a", {"b64": "Yg=="}], "score": [0.5, 2.0]}]}
    assert answer(send, "POST", "/v1/models/odd:classify", body) == (
        '{\n    "results": [[["a", 0.5], ["b", 2.0]]\n    ]\n}'
    )


def test_binary_in(send):
    image = bytes(range(256))
    body = {"signature_name": "image", "instances": [{"b64": base64.b64encode(image).decode()}]}
    (row,) = json.loads(send("POST", "/v1/models/text:predict", body)[2])["predictions"]
    assert row["bytes"] == 256


def test_several_inputs_and_what_rows_cannot_hold(send):
    rows = [{"age": 17, "city": "Paris", "pair": [1, 2]}, {"age": 40.5, "city": "北京", "pair": [3, 4]}]
    status, text = refusal(send, "POST", "/v1/models/many:predict", {"instances": rows})
    assert (status, text) == (400, "Tensor name: z has no shape information ")
    columns = {"age": [17], "city": ["Paris"], "pair": [[1, 2]], "extra": 1}
    outputs = json.loads(answer(send, "POST", "/v1/models/many:predict", {"inputs": columns}))["outputs"]
    assert outputs == {"older": [18.0], "city": ["Paris"], "sum": [3], "adult": [False], "z": 7}


def test_status_is_proto_json(send):
    state = '   "state": "AVAILABLE",\n   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }'
    one, highest = (f'  {{\n   "version": "{version}",\n' + state for version in (1, 123))
    path = "/v1/models/half_plus_two"
    assert answer(send, "GET", path) == '{\n "model_version_status": [\n' + highest + ",\n" + one + "\n ]\n}\n"
    for choice in ("/versions/1", "/labels/canary"):
        rows = json.loads(answer(send, "GET", path + choice))["model_version_status"]
        assert "1" in [row["version"] for row in rows]


def test_metadata_is_proto_json(send):
    metadata = json.loads(answer(send, "GET", "/v1/models/half_plus_two/versions/1/metadata"))
    assert metadata["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
        "unknown_rank": False,
    }


ERRORS = [
    ("GET", "/v1/foo", None, 400, "Malformed request: GET /v1/foo"),
    ("GET", "/v1/models", None, 400, "Missing model name in request."),
    ("GET", "/v1/models/m", None, 404, "Could not find any versions of model m"),
    ("GET", "/v1/models/odd/versions/7", None, 404, "Could not find version 7 of model odd"),
    ("GET", "/v1/models/m/metadata", None, 404, "Servable not found for request: Latest(m)"),
    ("POST", "/v1/models/m:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(m)"),
    ("POST", "/v1/models/odd/versions/7:predict", {"instances": [1]}, 404,
     "Servable not found for request: Specific(odd, 7)"),
    ("POST", "/v1/models/odd/labels/L:predict", {"instances": [1]}, 400, "Unrecognized servable version label: L"),
    ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
    ("POST", PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
    ("POST", PREDICT, {"signature_name": "s", "instances": [1]}, 400,
     'Serving signature name: "s" not found in signature def'),
    ("POST", PREDICT, {"instances": ["a"]}, 400,
     "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\" Type: String is not "
     "of expected type: float"),
    ("POST", "/v1/models/odd:regress", {"signature_name": "s", "examples": [{}]}, 400,
     "No signature was found with the name: s"),
    ("POST", PREDICT, "[" * 100_000, 400, None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), ERRORS)
def test_errors(send, method, path, body, status, text):
    got_status, got_text = refusal(send, method, path, body)
    assert got_status == status
    assert text is None or got_text == text


def test_content_type_and_text_behind_the_value_do_not_matter(send):
    status, _, body = send("POST", PREDICT, '{"instances": [NaN, Infinity]} and more', Content_Type="text/plain")
    assert (status, body) == (200, '{\n    "predictions": [NaN, Infinity\n    ]\n}')


def test_gzip_bodies(send):
    packed = gzip.compress(b'{"instances": [2.0]}')
    status, _, body = send("POST", PREDICT, packed, Content_Encoding="gzip")
    assert (status, json.loads(body)) == (200, {"predictions": [3.0]})
    assert send("POST", PREDICT, b"no gzip", Content_Encoding="gzip")[0] == 400
    bomb = gzip.compress(b" " * 101_000_000, 9)
    assert send("POST", PREDICT, bomb, Content_Encoding="gzip")[0] in (400, 413)


def test_cors(send):
    origin = {"Origin": "https://example.org", "Access_Control_Request_Method": "POST"}
    status, headers, _ = send("OPTIONS", PREDICT, **origin)
    assert status == 200
    assert headers["access-control-allow-origin"] == "*"
    assert "POST" in headers["access-control-allow-methods"]
    assert refusal(send, "OPTIONS", PREDICT) == (400, "Origin header is missing in CORS preflight")
    assert send("POST", PREDICT, {"instances": [2.0]}, **origin)[1]["access-control-allow-origin"] == "*"


def test_health_and_the_list_of_models(send):
    assert send("GET", "/health/live")[0] == send("GET", "/health/ready")[0] == 200
    text = answer(send, "GET", "/models")
    for name in ("half_plus_two", "odd", "a b:c"):
        assert f'"{name}"' in text
