"""Bearer tokens: the file of `--auth_tokens_file`, strictly read, and read again when it changes.

    {"tokens": [{"name": "shop", "sha256": "9f86…", "models": ["dense", "bert*"], "actions": ["infer", "read"]}]}

The command that makes tokens and takes them back is `python -m serving.security.tokens`.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from serving.errors import UsageError

logger = logging.getLogger(__name__)

Action = Literal["infer", "read", "admin", "metrics"]
ACTIONS: tuple[Action, ...] = get_args(Action)
DEFAULT_ACTIONS: tuple[Action, ...] = ("infer", "read")
POLL_SECONDS = 2.0

_KEYS = ("name", "sha256", "models", "actions", "expires", "requests_per_second", "burst", "max_concurrent")
_MAX_NAME = 100
_EPOCH = datetime.fromtimestamp(0, UTC)
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Token:
    """What is kept of a token: not itself, only its hash, and what it may do.

    A plain SHA-256 is right for tokens, unlike passwords: 256 random bits cannot be guessed however fast guesses can
    be checked, so a slow, salted hash would only slow down every request.

    Attributes:
        name: Who has it; shown in logs.
        digest: The token's SHA-256.
        models: Names of models, `*` standing for any text.
        actions: What it may do with them.
        expires: When it ends, in seconds since 1970; None = never.
        requests_per_second: The rate on average; None = any.
        burst: How many requests may come at once within that rate.
        max_concurrent: How many may be under way at once; None = any.
    """

    name: str
    digest: bytes
    models: tuple[str, ...]
    actions: tuple[Action, ...] = DEFAULT_ACTIONS
    expires: float | None = None
    requests_per_second: float | None = None
    burst: int = 1
    max_concurrent: int | None = None

    def __repr__(self) -> str:
        """Without the hash, which does not help whoever reads a log."""
        return f"Token({self.name!r})"

    def allows(self, action: Action, model: str | None) -> bool:
        """Whether it gives the right to an action, on one model or (None) on none in particular."""
        return action in self.actions and (model is None or any(_matches(model, name) for name in self.models))


def _matches(model: str, pattern: str) -> bool:
    """Whether a name fits a pattern, in which only `*` stands for others than itself."""
    return fnmatchcase(model, pattern.replace("[", "[[]").replace("?", "[?]"))


class TokensFile:
    """The tokens of a file, as they are now.

    A thread looks whether the file has changed, because the event loop must not wait for disks. A broken file changes
    nothing but the log, so that a slip of the pen locks nobody out. Reading `tokens` needs no lock.

    Attributes:
        tokens: What the file held when it was last whole.

    Example:
        >>> with TokensFile(Path("tokens.json")) as file:
        ...     gate = Gate(file)
    """

    def __init__(self, path: Path, poll_seconds: float = POLL_SECONDS) -> None:
        """Reads the file.

        Raises:
            UsageError: It cannot be read, or something in it is wrong.
        """
        self._path, self._poll_seconds = path, poll_seconds
        self._seen = _state(path)
        self.tokens = read_tokens(path)
        self._warn()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tokens", daemon=True)

    def __enter__(self) -> TokensFile:
        """Starts to watch."""
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        """Stops watching."""
        self.close()

    def start(self) -> None:
        """Starts the thread that reads the file again when it has changed."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            state = _state(self._path)  # before it is read: a change in between is seen the next time
            if state == self._seen:
                continue
            self._seen = state
            try:
                self.tokens = read_tokens(self._path)
            except UsageError as error:
                logger.error("%s; the tokens read before stay in force", error)
                continue
            logger.info("read %d tokens from %s", len(self.tokens), self._path)
            self._warn()

    def _warn(self) -> None:
        mode = (self._seen or (0, 0, 0, 0))[3]
        if mode & 0o002:
            logger.warning("every user may write %s, and so give rights: chmod 600 %s", self._path, self._path)
        elif mode & 0o004:
            logger.warning("every user may read %s: chmod 600 %s", self._path, self._path)
        if not self.tokens:
            logger.warning("%s has no tokens: every request will be refused", self._path)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Reads a tokens file.

    Args:
        path: JSON: `{"tokens": [{"name": …, "sha256": …, "models": […], …}, …]}`.

    Returns:
        The tokens, in the file's order.

    Raises:
        UsageError: It cannot be read or is not such a file; names the entry and the key. Never shows a hash: somebody
            may have put the token itself there.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_repetition)
    except OSError as error:
        raise UsageError(f"--auth_tokens_file: cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"--auth_tokens_file: {path} is not valid JSON: {error.msg} at {place}") from None
    except _RepeatedKeyError as error:
        raise UsageError(f"--auth_tokens_file: {path} has the key {error} twice in one object") from None
    except (ValueError, RecursionError):
        raise UsageError(f"--auth_tokens_file: {path} is not valid JSON") from None
    try:
        return _parse(content)
    except UsageError as error:
        raise UsageError(f"--auth_tokens_file: {path}: {error}") from None


def _parse(content: Any) -> tuple[Token, ...]:
    if not isinstance(content, dict) or not isinstance(content.get("tokens"), list):
        raise UsageError('expected an object {"tokens": […]}')
    _known_keys("the file", content, ("tokens",))
    tokens: list[Token] = []
    for number, entry in enumerate(content["tokens"], 1):
        token = parse_token(entry, number)
        for other in tokens:
            if other.name == token.name:
                raise UsageError(f"token {number}: the name {token.name!r} is used by another token already")
            if other.digest == token.digest:
                raise UsageError(f"token {number}: {token.name!r} and {other.name!r} are the same token")
        tokens.append(token)
    return tuple(tokens)


def parse_token(entry: Any, number: int) -> Token:
    """Checks one entry of the file.

    Args:
        entry: The JSON value.
        number: Its place in the file, from 1, for the messages.

    Raises:
        UsageError: What is wrong with it.
    """
    where = f"token {number}"
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected an object with {', '.join(_KEYS)}")
    _known_keys(where, entry, _KEYS)
    name = entry.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME or " " in name or not name.isprintable():
        raise UsageError(f"{where}: name must be a text of 1 to {_MAX_NAME} printable characters without spaces")
    where = f"token {number} ({name})"
    digest = entry.get("sha256")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UsageError(f"{where}: sha256 must be the 64 hexadecimal digits of the token's SHA-256, never the token")
    models = _texts(where, "models", entry.get("models"), 'a list of names such as ["dense", "bert*"], ["*"] for all')
    actions = _texts(where, "actions", entry.get("actions", [*DEFAULT_ACTIONS]), f"a list of {', '.join(ACTIONS)}")
    for action in actions:
        if action not in ACTIONS:
            near = _near(action, ACTIONS)
            raise UsageError(f"{where}: actions: unknown action {action!r}{near}; expected {', '.join(ACTIONS)}")
    if "admin" in actions and "*" not in models:
        # A reload names every model and where it lies: rights on some of them would be no limit.
        raise UsageError(f'{where}: the action admin is about every model, so models must be ["*"]')
    rate = _number(where, "requests_per_second", entry, float)
    burst = _number(where, "burst", entry, int)
    if burst is not None and rate is None:
        raise UsageError(f"{where}: burst has no effect without requests_per_second")
    return Token(
        name=name,
        digest=bytes.fromhex(digest),
        models=models,
        actions=tuple(action for action in ACTIONS if action in actions),
        expires=_time(where, entry.get("expires")),
        requests_per_second=rate,
        burst=int(burst or max(1, math.ceil(rate or 0))),
        max_concurrent=_number(where, "max_concurrent", entry, int),
    )


def _known_keys(where: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{_near(key, known)}; expected {', '.join(known)}")


def _near(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _texts(where: str, key: str, value: Any, expected: str) -> tuple[str, ...]:
    valid = isinstance(value, list) and value
    if not valid or not all(isinstance(item, str) and item and item.isprintable() for item in value):
        raise UsageError(f"{where}: {key} must be {expected}")
    return tuple(value)


def _number(where: str, key: str, entry: Mapping[str, Any], kind: type[float] | type[int]) -> Any:
    value = entry.get(key)
    if value is None:
        return None
    valid = isinstance(value, int) if kind is int else isinstance(value, int | float)
    # bool is an int to Python; NaN fails the comparison.
    if not valid or isinstance(value, bool) or not 0 < value <= 1e9:
        expected = "a whole number from 1" if kind is int else "a number above 0"
        raise UsageError(f"{where}: {key} must be {expected} to 1000000000, but {value!r} was given")
    return value


def _time(where: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
        valid = time.tzinfo is not None and time.astimezone(UTC) > _EPOCH
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise UsageError(
            f"{where}: expires must be a date and time with its zone such as 2027-01-31T00:00:00Z, "
            f"but {value!r} was given"
        )
    return time.timestamp()


class _RepeatedKeyError(Exception):
    """A JSON object with a key twice: which of the two counts would be a guess."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _RepeatedKeyError(repr(key))
        content[key] = value
    return content


def _state(path: Path) -> tuple[int, int, int, int] | None:
    """What tells one content of the file from the next; a Kubernetes secret is swapped by its link."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


if __name__ == "__main__":
    import sys

    from serving.security.tokens_command import main

    sys.exit(main())
