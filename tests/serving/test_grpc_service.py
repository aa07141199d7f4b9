import pytest

from serving.errors import UsageError
from serving.grpc_service import parse_channel_arguments


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
