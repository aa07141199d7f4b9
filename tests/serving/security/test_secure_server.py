"""The whole server with mutual TLS, tokens and required signatures: a real process, TensorFlow Serving's own stubs."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.security.signing_command import sign
from serving.security.tokens_command import revoke

REPOSITORY = Path(__file__).resolve().parents[3]
SECONDS = 10


@pytest.fixture(scope="module")
def channel(secure, certificates):
    credentials = grpc.ssl_channel_credentials(
        certificates.ca.cert.encode(), certificates.client.key.encode(), certificates.client.cert.encode()
    )
    with grpc.secure_channel(secure.server.address, credentials) as channel:
        yield channel


def predict(channel, token, name="linear"):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([[2.0]])))
    metadata = [("authorization", f"Bearer {token}")] if token else []
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict(request, timeout=SECONDS, metadata=metadata).outputs["y"].float_val[0]


def refusal(call, *arguments):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code().name, caught.value.details()


def test_a_client_with_a_certificate_and_a_token_is_served(secure, channel):
    assert predict(channel, secure.tokens["shop"]) == 5.0


def test_wrong_missing_and_expired_tokens(secure, channel):
    assert refusal(predict, channel, None) == ("UNAUTHENTICATED", "a bearer token is required")
    assert refusal(predict, channel, "wrong") == ("UNAUTHENTICATED", "the bearer token is not valid")
    assert refusal(predict, channel, secure.tokens["old"]) == ("UNAUTHENTICATED", "the bearer token has expired")


def test_what_a_token_may_not_see_might_as_well_not_exist(secure, channel):
    told = [refusal(predict, channel, secure.tokens["shop"], name) for name in ("hidden", "absent")]
    assert told == [
        ("PERMISSION_DENIED", f"the token 'shop' has no right to infer on model '{name}'")
        for name in ("hidden", "absent")
    ]


def test_status_and_reload_have_rights_of_their_own(secure, channel):
    from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_service_pb2_grpc

    stub = model_service_pb2_grpc.ModelServiceStub(channel)

    def status(name, token):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        metadata = [("authorization", f"Bearer {secure.tokens[token]}")]
        return stub.GetModelStatus(request, timeout=SECONDS, metadata=metadata)

    def reload(token):
        metadata = [("authorization", f"Bearer {secure.tokens[token]}")]
        return stub.HandleReloadConfigRequest(
            model_management_pb2.ReloadConfigRequest(), timeout=SECONDS, metadata=metadata
        )

    assert len(status("linear", "shop").model_version_status) == 1
    assert refusal(status, "hidden", "shop")[0] == "PERMISSION_DENIED"
    assert refusal(status, "linear", "boss")[0] == "PERMISSION_DENIED"
    assert refusal(reload, "leaver") == ("PERMISSION_DENIED", "the token 'leaver' has no right to admin")
    assert refusal(reload, "boss")[0] == "INVALID_ARGUMENT"  # it may, and the request is empty


def test_the_rate_of_a_token(secure, channel):
    for _ in range(2):
        assert predict(channel, secure.tokens["slow"]) == 5.0
    code, text = refusal(predict, channel, secure.tokens["slow"])
    assert code == "RESOURCE_EXHAUSTED"
    assert text.startswith("the token 'slow' may send 0.01 requests per second; try again in ")


def test_a_token_is_taken_back_while_the_server_runs(secure, channel, eventually):
    assert predict(channel, secure.tokens["leaver"]) == 5.0
    revoke(secure.file, "leaver")

    def gone():
        try:
            predict(channel, secure.tokens["leaver"])
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAUTHENTICATED
        return False

    eventually(gone)
    assert predict(channel, secure.tokens["shop"]) == 5.0


def test_health_needs_a_certificate_and_no_token(secure, channel, certificates):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    def check(channel):
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status

    assert check(channel) == health_pb2.HealthCheckResponse.SERVING
    without = grpc.ssl_channel_credentials(certificates.ca.cert.encode())
    with grpc.secure_channel(secure.server.address, without) as other:
        assert refusal(check, other)[0] == "UNAVAILABLE"
    with grpc.insecure_channel(secure.server.address) as other:
        assert refusal(check, other)[0] == "UNAVAILABLE"


def test_an_unsigned_version_never_takes_over(secure, channel, exported, put_version, eventually):
    put_version(exported / "linear3", secure.folder / "linear", 2, manifest=True)
    eventually(lambda: "the version is not signed" in secure.server.log.read_text())
    assert predict(channel, secure.tokens["shop"]) == 5.0
    change = lambda version: sign(version, secure.folder / "key.pem")  # noqa: E731
    put_version(exported / "linear3", secure.folder / "linear", 3, manifest=True, change=change)
    eventually(lambda: predict(channel, secure.tokens["shop"]) == 6.0)


def test_no_secret_is_in_the_log(secure, channel, certificates):
    predict(channel, secure.tokens["shop"])
    log = secure.server.log.read_text()
    assert not any(token in log for token in secure.tokens.values())
    assert not any(line in log for line in certificates.server.key.splitlines()[1:-1])


def started(*arguments):
    command = [sys.executable, "-m", "serving.server", *arguments]
    start = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr, time.monotonic() - start


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--host=0.0.0.0"], "error: --host=0.0.0.0 can be reached from other machines, without TLS and tokens: give "),
        (["--host="], "error: --host= can be reached from other machines, without TLS and tokens"),
        (["--ssl_config_file=none"], "error: --ssl_config_file: cannot read none: "),
        (["--auth_tokens_file=none"], "error: --auth_tokens_file: cannot read none: No such file or directory"),
        (["--trusted_keys_file=none"], "error: --trusted_keys_file: cannot read none: No such file or directory"),
        (["--require_signed_manifest"], "error: --require_signed_manifest needs --trusted_keys_file"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(tmp_path, flags, text):
    code, told, seconds = started("--port=0", f"--model_base_path={tmp_path}", *flags)
    assert code == 2
    assert told.startswith(text)
    assert seconds < 5


def test_nothing_listens_beyond_this_machine_by_default(secure):
    port = int(secure.server.address.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the address that others would see
        except OSError:
            pytest.skip("no other network here")
        address = probe.getsockname()[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port), SECONDS)
