"""Errors as TensorFlow Serving reports them: a canonical code and a text.

The codes are those of `google.rpc.Code`, which gRPC, TensorFlow and TensorFlow Serving share, so one table serves the
wire, the status of a version, and the HTTP statuses.
"""

from __future__ import annotations

from enum import IntEnum

# TensorFlow Serving cuts longer texts, because gRPC sends them in a header and headers are limited to 8 kB.
MAX_STATUS_MESSAGE_BYTES = 1024
TRUNCATION_MARK = "...TRUNCATED"


class Code(IntEnum):
    """Canonical error codes; the numbers are part of the protocol."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """What a client is told: `code` and `message`.

    Example:
        >>> raise ServingError(Code.NOT_FOUND, "Servable not found for request: Latest(dense)")
    """

    def __init__(self, code: Code, message: str) -> None:
        """Keeps the code and the text, both meant for the client."""
        super().__init__(message)
        self.code = code
        self.message = message


class UsageError(Exception):
    """A mistake of whoever started the command: shown as one line, exit code 2, no traceback."""


def status_text(message: str) -> str:
    """The text as it goes over the wire: at most 1,024 bytes of UTF-8, then `...TRUNCATED`.

    Args:
        message: Any text.

    Returns:
        The same text, or its beginning and the mark. Never half a character.
    """
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= MAX_STATUS_MESSAGE_BYTES:
        return encoded.decode("utf-8")
    # "ignore" drops the character that the cut may have split.
    return encoded[:MAX_STATUS_MESSAGE_BYTES].decode("utf-8", "ignore") + TRUNCATION_MARK
