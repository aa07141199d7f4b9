"""`python -m serving.load_test` against the shared server, and over REST against a server of Python's own."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.load_test.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[3]
QUICK = ("--seconds", "0.3", "--warm_up", "0.1")


@pytest.fixture
def command(server, capsys):
    """Runs the command: (exit code, lines, standard error)."""

    def run(model, *arguments, target=server.address):
        code = main(["--target", target, "--model", model, *QUICK, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def test_a_table(command):
    code, lines, error = command("linear", "--clients", "1,4")
    assert (code, error) == (0, "")
    assert lines[0].split("  ")[-1] == "errors"
    assert lines[0].split() == ["clients", "requests/s", "p50", "ms", "p90", "ms", "p99", "ms", "max", "ms", "errors"]
    rows = [[float(cell) for cell in line.split()] for line in lines[1:]]
    assert [row[0] for row in rows] == [1, 4]
    for _, rate, p50, p90, p99, longest, errors in rows:
        assert rate > 10
        assert 0 < p50 <= p90 <= p99 <= longest
        assert errors == 0


def test_json_and_every_kind_of_example(command, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x01\x03\x02")
    (tmp_path / "rows.jsonl").write_text('{"x": [1]}\n{"x": [2]}\n')
    for model, *arguments in (
        ("linear",),
        ("linear", "--batch_size", "3", "--label", "stable"),
        ("linear", "--input", '{"x": [1]}', '{"x": [2]}', "--batch_size", "3", "--version", "1"),
        ("linear", "--input_file", tmp_path / "rows.jsonl"),
        ("text", "--text", "我", "b", "--signature", "serving_default"),
        ("classes", "--image", tmp_path / "picture.png"),
        ("many", "--input", '{"age": 1, "city": "a", "pair": [1, 2]}', "--rate", "50"),
    ):
        code, lines, error = command(model, *arguments, "--clients", "2", "--json")
        assert (code, error, len(lines)) == (0, "", 1)
        row = json.loads(lines[0])
        assert (row["clients"], row["errors"]) == (2, {})
        assert row["requests"] > 0
        assert row["requests_per_second"] == pytest.approx(row["requests"] / row["seconds"])
        assert list(row["latency_ms"]) == ["p50", "p90", "p99", "max"]
        assert row["latency_ms"]["p50"] > 0


def test_errors_are_counted_and_named(command, tmp_path):
    (tmp_path / "none.png").write_bytes(b"")
    code, lines, _ = command("classes", "--image", tmp_path / "none.png", "--clients", "2")
    assert code == 1
    assert lines[1].split()[1:6] == ["0.0", "nan", "nan", "nan", "nan"]
    count, _, rest = lines[2].strip().partition(" × INVALID_ARGUMENT: ")
    assert (count, "is no image" in rest) == (lines[1].split()[-1], True)
    code, lines, _ = command("classes", "--image", tmp_path / "none.png", "--clients", "2", "--json")
    assert (code, list(json.loads(lines[0])["errors"])) == (1, ["INVALID_ARGUMENT"])
    assert json.loads(lines[0])["latency_ms"]["p50"] is None


MISTAKES = {
    "no model": (["m"], "model not found on server {target}: Servable not found for request: Latest(m)"),
    "no example": (["text"], "input 'text' is a string: give an example with --text, --image, --input or --input_file"),
    "bad example": (["linear", "--input", '{"z": 1}'], "--input 1: unknown input 'z'; the model's inputs are: x"),
    "no signature": (["linear", "--signature", "s"], "model 'linear' has no signature 's'; it has: "),
    "no clients": (
        ["linear", "--clients", "1,0"],
        "argument --clients: must be numbers above 0, e.g. 1,8,64, but '1,0' was given (see --help)"),
    "no batch": (["linear", "--batch_size", "0"], "argument --batch_size: "),
    "no rate": (["linear", "--rate", "0"], "argument --rate: must be a number above 0, but '0' was given (see --help)"),
    "no seconds": (
        ["linear", "--seconds", "nan"],
        "argument --seconds: must be a number of seconds above 0, but 'nan' was given (see --help)"),
    "gRPC's port for REST's": (["linear", "--rest"], "http://{target}/v1/models/linear/metadata answered something"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(command, server, case):
    arguments, text = MISTAKES[case]
    code, lines, error = command(*arguments)
    assert (code, lines, len(error.splitlines())) == (2, [], 1)
    assert error.startswith("error: " + text.format(target=server.address))


def test_bad_targets(command):
    assert command("m", target="localhost")[2] == "error: --target must be host:port or unix:/path, not localhost\n"
    assert command("m", "--rest", target="unix:/a")[2] == "error: --target must be host:port, not unix:/a\n"
    assert "cannot be reached" in command("m", target="127.0.0.1:1")[2]
    assert command("m", "--rest", target="127.0.0.1:1")[2] == (
        "error: server 127.0.0.1:1 cannot be reached: [Errno 111] Connection refused\n"
    )


@pytest.fixture
def rest_server():
    """A REST server with a model of two inputs; keeps what it was asked."""
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}
    signature = {"inputs": {"a": tensor, "b": {**tensor, "dtype": "DT_STRING"}}, "outputs": {}, "method_name": ""}
    metadata = {
        "model_spec": {"name": "m", "signature_name": "", "version": "7"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append((self.path, dict(self.headers), None))
            is_known = self.path == "/v1/models/m%20%2F/labels/b/metadata"
            self.answer(200 if is_known else 404, metadata if is_known else {"error": "none"})

        def do_POST(self):
            asked.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(200, {"outputs": [1]})

        def answer(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_rest(command, rest_server, monkeypatch):
    monkeypatch.setenv("TFBIGMODEL_TOKEN", "secret")
    target, asked = rest_server
    rows = ['{"a": 0.5, "b": "我"}', '{"a": 1, "b": {"b64": "/w=="}}']
    code, _, error = command("m /", "--rest", "--label", "b", "--input", *rows, "--clients", "2", target=target)
    assert (code, error) == (0, "")
    assert all({name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer secret"
               for _, headers, _ in asked)  # fmt: skip
    path, _, body = asked[-1]
    assert path == "/v1/models/m%20%2F/labels/b:predict"
    bodies = {body.decode() for _, _, body in asked if body is not None}
    assert bodies == {'{"inputs": {"a": [0.5], "b": ["我"]}}', '{"inputs": {"a": [1.0], "b": [{"b64": "/w=="}]}}'}
    assert json.loads(body)
    code, _, error = command("other", "--rest", target=target)
    assert (code, error) == (2, f'error: HTTP 404 from http://{target}/v1/models/other/metadata: {{"error": "none"}}\n')


def test_help_is_fast():
    def seconds():
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "serving.load_test", "--help"], check=True, capture_output=True, cwd=REPOSITORY
        )
        return time.monotonic() - start

    assert min(seconds() for _ in range(3)) < 0.5
