"""The gRPC server itself: its arguments and its limits."""

import asyncio
import contextlib
import types

import pytest

from serving.errors import UsageError
from serving.grpc_service import GrpcServer, parse_channel_arguments
from serving.security.gate import Gate


def test_channel_arguments():
    assert parse_channel_arguments("") == []
    assert parse_channel_arguments("grpc.max_connection_age_ms=2000,grpc.x=a=b") == [
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.x", "a=b"),
    ]


@pytest.mark.parametrize("text", ["a", "=1", "a=1,b"])
def test_channel_arguments_that_are_none(text):
    with pytest.raises(UsageError, match="--grpc_channel_arguments must be name=value,name=value, but "):
        parse_channel_arguments(text)


def test_connections_are_bounded():
    async def count():
        core = types.SimpleNamespace(gate=Gate())
        server = GrpcServer(core, "127.0.0.1", 0, max_connections=2)
        await server.start()
        host, port = server.address.split(":")
        async with contextlib.AsyncExitStack() as stack:
            open_ones = 0
            for _ in range(4):
                reader, writer = await asyncio.open_connection(host, port)
                stack.callback(writer.close)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                with contextlib.suppress(ConnectionError):
                    open_ones += bool(await reader.read(9))  # the server's settings, or the end
        await server.stop(0)
        return open_ones

    assert asyncio.run(count()) == 2
