"""A message from someone without a token is refused before it is received: there may be 2 GB of it."""

import threading
import time
from pathlib import Path

import grpc
import pytest

PREDICT = "/tensorflow.serving.PredictionService/Predict"
MESSAGE_BYTES = 100_000_000


def peak_bytes(pid):
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_a_large_message_without_a_token_is_not_received(run_server, exported, put_version, tokens_file, tmp_path):
    put_version(exported / "linear", tmp_path / "linear", 1)
    server = run_server(
        "--port=0", "--model_name=linear", f"--model_base_path={tmp_path / 'linear'}",
        f"--auth_tokens_file={tokens_file({'name': 'shop', 'token': 'secret'})}", "--max_concurrent_requests=1",
    ).wait_ready()  # fmt: skip
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options) as channel:
        call = channel.unary_unary(PREDICT)
        right = [("authorization", "Bearer secret")]

        def refusal(message, metadata):
            with pytest.raises(grpc.RpcError) as caught:
                call(message, metadata=metadata, timeout=20)
            return caught.value.code().name

        before = peak_bytes(server.process.pid)
        message = bytes(MESSAGE_BYTES)
        assert refusal(message, [("authorization", "Bearer wrong")]) == "UNAUTHENTICATED"
        assert refusal(message, []) == "UNAUTHENTICATED"
        assert peak_bytes(server.process.pid) - before < MESSAGE_BYTES / 2
        assert refusal(message, right) == "INVALID_ARGUMENT"
        assert peak_bytes(server.process.pid) - before > MESSAGE_BYTES / 2
    assert server.stop() == 0


def test_a_server_with_no_room_refuses_before_it_receives(run_server, exported, put_version, tmp_path):
    import numpy as np

    from serving.client import Client

    put_version(exported / "linear", tmp_path / "linear", 1)
    server = run_server(
        "--port=0", "--model_name=linear", f"--model_base_path={tmp_path / 'linear'}", "--max_concurrent_requests=1",
    ).wait_ready()  # fmt: skip
    with Client(server.address) as client, grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(PREDICT)
        slow = threading.Thread(
            target=client.predict, args=("linear", {"microseconds": np.int64(1_000_000)}), kwargs={"signature": "slow"}
        )
        slow.start()
        time.sleep(0.4)
        with pytest.raises(grpc.RpcError, match="the server has reached its limit of requests under way: 1") as caught:
            call(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        slow.join()
        with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
            call(b"", timeout=10)
    assert server.stop() == 0
