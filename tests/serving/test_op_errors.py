"""What ops say of requests that they cannot take, to the client."""

import http.client
import json

import pytest

from serving.client import Client, ClientError


def test_an_op_that_quotes_bytes_which_are_no_text(run_server, exported, put_version, tmp_path):
    put_version(exported / "text", tmp_path / "text", 1)
    server = run_server(
        "--port=0", "--rest_api_port=-1", "--model_name=text", f"--model_base_path={tmp_path / 'text'}"
    ).wait_ready()
    with Client(server.address) as client, pytest.raises(ClientError, match="�") as caught:
        client.predict("text", {"text": [b"\xcc("]}, signature="number")
    assert caught.value.code.name == "INVALID_ARGUMENT"
    rest = server.process.stdout.readline().removeprefix("Exporting HTTP/REST API at:").split()[0]
    connection = http.client.HTTPConnection(rest, timeout=20)
    connection.request("POST", "/v1/models/text:predict", '{"signature_name": "number", "inputs": [{"b64": "zCg="}]}')
    response = connection.getresponse()
    assert response.status == 400
    assert "�(" in json.loads(response.read())["error"]
    connection.close()
    assert "Traceback" not in server.log.read_text()
    assert server.stop() == 0
