"""TLS and tokens: what is accepted, and what is refused before anything readable leaves the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from serving.client import ClientError
from serving.client.base import is_loopback
from serving.client.command import main
from serving.errors import Code

REPOSITORY = Path(__file__).resolve().parents[3]
TOKEN = "s3cret-Token"


def guarded(number, path, request, context):
    """A behaviour: answers those who have the token."""
    if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

    response = GetModelStatusResponse()
    response.model_version_status.add(version=5, state=30)
    return response.SerializeToString()


def test_tls_by_path_and_by_bytes(connect, small_server, server_credentials, certificates):
    server = small_server(guarded, credentials=server_credentials())
    for ca in (certificates.ca, str(certificates.ca), certificates.ca.read_bytes()):
        (status,) = connect(server.target, ca=ca, token=TOKEN).status("m")
        assert (status.version, status.state) == (5, "AVAILABLE")
    with pytest.raises(ClientError, match="wants a token that it knows: unknown token") as caught:
        connect(server.target, ca=certificates.ca).status("m")
    assert caught.value.code is Code.UNAUTHENTICATED


def test_tls_refuses_strangers(connect, small_server, server_credentials, certificates):
    server = small_server(credentials=server_credentials())
    for options in ({"ca": certificates.other_ca}, {"tls": True}, {}):
        with pytest.raises(ClientError, match="cannot be reached") as caught:
            connect(server.target, retries=0, **options).predict("m", {})
        assert caught.value.code is Code.UNAVAILABLE
    assert server.calls == []


def test_mutual_tls(connect, small_server, server_credentials, certificates):
    server = small_server(credentials=server_credentials(mutual=True))
    own = {"certificate": certificates.client, "key": certificates.client_key.read_bytes()}
    assert connect(server.target, ca=certificates.ca, **own).predict("m", {}) == {}
    with pytest.raises(ClientError, match="cannot be reached"):
        connect(server.target, ca=certificates.ca, retries=0).predict("m", {})


def test_a_token_does_not_travel_in_plain_text(connect, small_server):
    text = "the token would go to example.com:8500 in plain text, where others can read it: use TLS"
    with pytest.raises(ClientError, match=text):
        connect("example.com:8500", token=TOKEN)
    connect("example.com:8500", token=TOKEN, insecure=True)
    connect("example.com:8500", token=TOKEN, tls=True)
    server = small_server(guarded)
    assert connect(server.target, token=TOKEN).status("m")[0].version == 5
    assert connect(f"localhost:{server.port}", token=TOKEN).status("m")[0].version == 5


def test_loopback():
    for target in ("127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1", "unix:/a", "unix:///a"):
        assert is_loopback(target)
    for target in ("10.0.0.1:1", "0.0.0.0:1", "127.0.0.1.example.com:1", "127.example.com:1", "dns:///localhost:1"):
        assert not is_loopback(target)


def test_mistakes(connect, tmp_path, certificates):
    (tmp_path / "none.pem").write_text("hello")
    for options, text in (
        ({"ca": tmp_path / "missing.pem"}, f"cannot read {tmp_path}/missing.pem: No such file or directory"),
        ({"ca": tmp_path / "none.pem"}, f"{tmp_path}/none.pem is no PEM file: it has no line -----BEGIN"),
        ({"key": b"hello"}, "key=… is no PEM file"),
        ({"key": certificates.client_key}, "a client's certificate and its key are given together"),
        ({"certificate": certificates.client}, "a client's certificate and its key are given together"),
        ({"token": ""}, "token=… holds no token: one is printable ASCII without spaces"),
        ({"token": "a b"}, "token=… holds no token"),
        ({"token": "a\nb"}, "token=… holds no token"),
        ({"token": "é"}, "token=… holds no token"),
        ({"retries": -1}, "retries must be 0 or more, but -1 was given"),
    ):
        with pytest.raises(ClientError) as caught:
            connect("127.0.0.1:1", **options)
        assert text in str(caught.value)
        assert "é" not in str(caught.value)  # a token is not repeated, not even a bad one


@pytest.fixture
def ask(small_server, server_credentials, certificates, monkeypatch, capsys):
    """Runs the command against a server with TLS that wants the token: (exit code, standard output, error)."""
    monkeypatch.delenv("TFBIGMODEL_TOKEN", raising=False)
    target = small_server(guarded, credentials=server_credentials()).target

    def run(*arguments):
        words = ["--target", target, "--ca", certificates.ca, "--model", "m", "--status", *arguments]
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_command_takes_the_token_from_a_file_or_the_environment(ask, tmp_path, monkeypatch):
    code, _, error = ask()
    assert (code, "wants a token that it knows" in error) == (2, True)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    code, output, _ = ask("--token_file", file)
    assert (code, json.loads(output)["version"]) == (0, 5)
    monkeypatch.setenv("TFBIGMODEL_TOKEN", TOKEN)
    assert ask()[0] == 0
    file.write_text("other")
    assert ask("--token_file", file)[0] == 2  # what is said on the command line wins


def test_the_commands_mistakes_with_tokens(ask, tmp_path, monkeypatch):
    assert ask("--token_file", tmp_path / "none")[2] == (
        f"error: cannot read --token_file {tmp_path}/none: No such file or directory\n"
    )
    file = tmp_path / "token"
    for content in (b"", b"two words", b"\xff"):
        file.write_bytes(content)
        code, _, error = ask("--token_file", file)
        assert (code, error.startswith(f"error: {file} holds no token: ")) == (2, True)
    monkeypatch.setenv("TFBIGMODEL_TOKEN", "two words")
    assert ask()[2].startswith("error: TFBIGMODEL_TOKEN holds no token: ")
    code, _, error = ask("--token", TOKEN)
    assert (code, error) == (2, "error: unrecognized arguments: --token s3cret-Token (see --help)\n")


def test_the_command_refuses_plain_text_to_another_machine():
    process = subprocess.run(
        [sys.executable, "-m", "serving.client", "--target", "example.com:8500", "--model", "m", "--status"],
        capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "TFBIGMODEL_TOKEN": TOKEN},
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.startswith("error: the token would go to example.com:8500 in plain text")
    assert len(process.stderr.splitlines()) == 1


def test_help_says_where_the_token_comes_from():
    process = subprocess.run(
        [sys.executable, "-m", "serving.client", "--help"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert "TFBIGMODEL_TOKEN" in process.stdout
    assert "--token_file" in process.stdout


def test_the_load_test_takes_the_same_options(small_server, server_credentials, certificates, monkeypatch, capsys):
    from serving.load_test.__main__ import main as load_test

    def behave(number, path, request, context):
        guarded(number, path, request, context)
        if not path.endswith("/GetModelMetadata"):
            return b""
        from tensorflow_serving.apis import get_model_metadata_pb2 as messages

        signatures, response = messages.SignatureDefMap(), messages.GetModelMetadataResponse()
        signatures.signature_def["serving_default"].inputs["x"].dtype = 1
        response.metadata["signature_def"].Pack(signatures)
        return response.SerializeToString()

    server = small_server(behave, credentials=server_credentials(mutual=True))
    own = ["--certificate", str(certificates.client), "--key", str(certificates.client_key)]
    words = ["--target", server.target, "--model", "m", "--clients", "2", "--seconds", "0.3", "--json", *own]
    monkeypatch.setenv("TFBIGMODEL_TOKEN", TOKEN)
    assert load_test([*words, "--ca", str(certificates.ca)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["requests"] > 10
    assert row["errors"] == {}
    assert load_test([*words, "--ca", str(certificates.other_ca)]) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert load_test([*words, "--ca", str(certificates.ca), "--key", str(certificates.server_key)]) == 2
