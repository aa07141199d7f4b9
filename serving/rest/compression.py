"""gzip of HTTP bodies: requests in, under a limit that holds while they are unpacked, and large answers out."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping

from serving.errors import Code, ServingError

# Below this an answer is sent as it is: packing costs more than it saves, most of all between two processes of one
# machine. TensorFlow Serving packs none.
MIN_PACKED_BYTES = 64 * 1024

_FAILED = "Failed to uncompress the gzipped body"
_STEP_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS


def is_gzipped(headers: Mapping[str, str]) -> bool:
    """Whether a request's body came packed."""
    return "gzip" in headers.get("content-encoding", "").lower()


def accepts_gzip(headers: Mapping[str, str]) -> bool:
    """Whether the client can read a packed answer.

    Example:
        >>> accepts_gzip({"accept-encoding": "br, gzip;q=0.5"})
        True
    """
    for part in headers.get("accept-encoding", "").lower().split(","):
        name, _, parameter = part.partition(";")
        if name.strip() == "gzip":
            return parameter.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def unpack(body: bytes, max_bytes: int) -> bytes:
    """Unpacks a gzip body.

    Args:
        body: Untrusted bytes.
        max_bytes: The most that may come out; never more than this and one step of 1 MiB is held.

    Raises:
        ServingError: INVALID_ARGUMENT, no gzip, cut off, or too large when unpacked.
    """
    parts: list[bytes] = []
    size, rest = 0, body
    unpacker = zlib.decompressobj(_GZIP)
    while True:
        try:
            part = unpacker.decompress(rest, _STEP_BYTES)
        except zlib.error:
            raise ServingError(Code.INVALID_ARGUMENT, _FAILED) from None
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"The gzipped body is larger than {max_bytes} bytes when it is uncompressed"
            )
        if unpacker.eof:
            rest = unpacker.unused_data
            if not rest:
                return b"".join(parts)
            unpacker = zlib.decompressobj(_GZIP)  # gzip files may be put one after the other
            continue
        rest = unpacker.unconsumed_tail
        if not rest and not part:
            raise ServingError(Code.INVALID_ARGUMENT, _FAILED)


def pack(body: bytes) -> bytes:
    """Packs an answer, quickly rather than tightly."""
    return gzip.compress(body, 1, mtime=0)
