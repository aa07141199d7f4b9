"""What a row's content is: its hash finds it again, and decides on its split, its shard and its place there."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Value: TypeAlias = str | bytes | int | float | None
Row: TypeAlias = Mapping[str, Value]

_SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    r"""A text as it is compared: compatible characters, small letters and single spaces are the same.

    Example:
        >>> normalised("Ａ  good\tBook ")
        'a good book'
    """
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def content_key(row: Row, text: str | None, label: str | None, seed: int) -> bytes:
    """16 bytes that are the same for rows of the same content: of their normalised text, or of all but their label."""
    if text is not None:
        return digest([("text", normalised(str(row[text])))], seed)
    return digest(((name, value) for name, value in sorted(row.items()) if name != label), seed)


def digest(values: Iterable[tuple[str, Value]], seed: int) -> bytes:
    """16 bytes of names and values, missing ones left out; for each seed others."""
    hashed = hashlib.blake2b(digest_size=16, key=seed.to_bytes(8, "big"))
    for name, value in values:
        if value is None:
            continue
        kind = b"b" if isinstance(value, bytes) else b"v"
        content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        head = name.encode("utf-8", "surrogatepass")
        hashed.update(b"%d %d %s " % (len(head), len(content), kind) + head + content)
    return hashed.digest()


def split_of(key: bytes, validation: float, test: float) -> str:
    """The split of a content: the same whatever else there is."""
    share = int.from_bytes(key[:8], "big") / 2**64
    return "test" if share < test else "validation" if share < test + validation else "train"


def shard_of(key: bytes, shards: int) -> int:
    """The shard of a content, by other bits than its split."""
    return int.from_bytes(key[8:], "big") % shards
