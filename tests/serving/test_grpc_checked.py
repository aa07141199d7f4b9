"""Messages that are none, to the services that come from gRPC's own libraries."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

CORRUPT = b"\x0a\x7fshort"


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def test_corrupt_messages_are_the_client_s_mistake_and_not_logged(server, channel):
    reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    asked = {
        "check": lambda: channel.unary_unary("/grpc.health.v1.Health/Check")(CORRUPT, timeout=10),
        "watch": lambda: next(channel.unary_stream("/grpc.health.v1.Health/Watch")(CORRUPT, timeout=10)),
        "reflection": lambda: next(reflect(iter([CORRUPT]), timeout=10)),
    }
    for ask in asked.values():
        with pytest.raises(grpc.RpcError) as caught:
            ask()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "the message is no request of this call"
    assert "Traceback" not in server.log.read_text()


def test_good_messages_are_answered(channel):
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse(status="SERVING")
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=10) == serving
    watch = health.Watch(health_pb2.HealthCheckRequest(service="tensorflow.serving.ModelService"), timeout=10)
    assert next(watch) == serving
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nix"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")] * 2
    for answer in reflection.ServerReflectionInfo(iter(requests), timeout=10):
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"grpc.health.v1.Health", "tensorflow.serving.PredictionService"}
