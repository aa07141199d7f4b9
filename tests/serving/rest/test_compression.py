"""gzip in and out, and what a small body may unpack to."""

import gzip
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code, ServingError
from serving.rest.compression import accepts_gzip, is_gzipped, pack, unpack


@given(st.binary(), st.binary())
def test_what_was_packed_is_unpacked(first, second):
    assert unpack(pack(first), 1000_000) == first
    assert unpack(gzip.compress(first) + gzip.compress(second), 1000_000) == first + second


@pytest.mark.parametrize(
    "body", [b"", b"{}", pack(b"abc" * 1000)[:-9], pack(b"abc")[:-1], pack(b"x") + b"rest", zlib.compress(b"x")]
)
def test_what_is_no_gzip(body):
    with pytest.raises(ServingError, match=r"^Failed to uncompress the gzipped body$") as caught:
        unpack(body, 100_000)
    assert caught.value.code == Code.INVALID_ARGUMENT


@given(st.binary(), st.integers(0, 40))
def test_damaged_gzip_is_unpacked_or_refused(body, position):
    damaged = bytearray(pack(b"some text " * 20))
    damaged[position % len(damaged)] ^= 0x55
    for data in (bytes(damaged), body, pack(b"a")[:10] + body):
        with suppress(ServingError):
            unpack(data, 1000)


def test_a_bomb_is_refused_while_it_is_small():
    bomb = gzip.compress(bytes(100 << 20), 1)
    assert len(bomb) < 600_000
    tracemalloc.start()
    with pytest.raises(ServingError, match=r"^The gzipped body is larger than 1048576 bytes when it is uncompressed$"):
        unpack(bomb, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert len(unpack(bomb, 100 << 20)) == 100 << 20


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True), ("GZIP", True), ("br, gzip;q=0.5", True), ("deflate", False), ("gzip;q=0", False),
        ("gzip; q=0.0, br", False), ("x-gzipped", False), ("", False),
    ],
)  # fmt: skip
def test_who_can_read_gzip(header, expected):
    assert accepts_gzip({"accept-encoding": header}) is expected


def test_bodies_that_say_they_are_gzip():
    assert is_gzipped({"content-encoding": "GZIP"})
    assert not is_gzipped({"content-encoding": "identity"})
    assert not is_gzipped({})
