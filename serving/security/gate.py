"""Who may do what, and how much of it: every request passes here, on the event loop.

Without tokens everyone may do everything; how much the server takes at once is limited in any case.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from serving.errors import Code, ServingError
from serving.security.exposure import is_loopback
from serving.security.limits import Admission, Load, Memory, TokenBucket
from serving.security.tokens import Action, Token

DEFAULT_MAX_CONCURRENT_REQUESTS = 1000
# Of gRPC's messages; REST's bodies are counted where they are received.
_MAX_HELD_BYTES = 4 << 30
# Ours have 43 characters. What is much longer is no token, and not worth the time of hashing it.
_MAX_TOKEN_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        name: The token's name, for logs; `anonymous` where no tokens are configured.
        token: What it may do; None = everything.
        load: What it has under way.
    """

    name: str
    token: Token | None = None
    load: Load = field(default_factory=Load, repr=False)


class TokenSource(Protocol):
    """Where the tokens come from: `serving.security.tokens.TokensFile`."""

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Those in force now; another tuple when they have changed."""


class Gate:
    """Authentication, rights and limits. Used on one event loop only: it has no locks, and no call of it waits.

    Example:
        >>> caller = gate.authenticate("Bearer …")
        >>> gate.authorise(caller, "infer", "dense")
        >>> with gate.admit(caller):
        ...     response = await infer(…)
    """

    def __init__(
        self,
        source: TokenSource | None = None,
        max_concurrent_requests: int = DEFAULT_MAX_CONCURRENT_REQUESTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Sets up the gate.

        Args:
            source: The tokens; None = everyone may do everything.
            max_concurrent_requests: How many requests may be under way, from all callers together. It bounds the
                memory that a flood can take.
            clock: Seconds that never go back.
        """
        self._source = source
        self._clock = clock
        self._server = Load(max_concurrent_requests)
        self.memory = Memory(_MAX_HELD_BYTES)
        self._anonymous = Caller("anonymous")
        self._tokens: tuple[Token, ...] = ()
        self._loads: dict[str, Load] = {}
        self._known: dict[bytes, Caller] = {}

    @property
    def in_flight(self) -> int:
        """Requests under way, from all callers."""
        return self._server.in_flight

    def authenticate(self, authorization: str | None) -> Caller:
        """Finds out who sends a request.

        Args:
            authorization: The header `Authorization` (gRPC: the metadata `authorization`): `Bearer <token>`.

        Returns:
            The caller.

        Raises:
            ServingError: UNAUTHENTICATED. Only who has the token is told that it has expired.
        """
        if self._source is None:
            return self._anonymous
        if self._source.tokens is not self._tokens:
            self._take(self._source.tokens)
        scheme, _, token = (authorization or "").strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("a bearer token is required")
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise _unauthenticated("the bearer token is not valid")
        # "backslashreplace" takes any text that a header can bring.
        caller = self._find(hashlib.sha256(token.encode("utf-8", "backslashreplace")).digest())
        if caller is None or caller.token is None:
            raise _unauthenticated("the bearer token is not valid")
        if caller.token.expires is not None and time.time() >= caller.token.expires:
            raise _unauthenticated("the bearer token has expired")
        return caller

    def allows(self, caller: Caller, action: Action, model: str | None = None) -> bool:
        """Whether a caller may do something: to choose what a list shows it."""
        return caller.token is None or caller.token.allows(action, model)

    def authorise(self, caller: Caller, action: Action, model: str | None = None) -> None:
        """Checks a right; before anything is looked up, so that the answer does not tell what models exist.

        Args:
            caller: From `authenticate`.
            action: What is asked for.
            model: On which model; None = on none in particular (metrics, a list, a reload).

        Raises:
            ServingError: PERMISSION_DENIED.
        """
        if not self.allows(caller, action, model):
            where = "" if model is None else f" on model {model!r}"
            raise ServingError(Code.PERMISSION_DENIED, f"the token {caller.name!r} has no right to {action}{where}")

    def authorise_metrics(self, authorization: str | None, peer: str) -> Caller:
        """Checks who may read the metrics: anyone on this machine, elsewhere a token with the action metrics.

        Args:
            authorization: The header, as for `authenticate`.
            peer: The IP address of the connection's other end. Behind a proxy on this machine every peer is the
                proxy: it must not pass on the metrics' path.

        Returns:
            The caller, for the log.

        Raises:
            ServingError: UNAUTHENTICATED or PERMISSION_DENIED.
        """
        if is_loopback(peer):
            return self._anonymous
        caller = self.authenticate(authorization)
        self.authorise(caller, "metrics")
        return caller

    def admit(self, caller: Caller) -> Admission:
        """A context manager to hold while a request is under way; it counts from `with` on.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, on entering: the server's limit or one of the caller's is reached.
        """
        return Admission(self._server, caller.load, f"the token {caller.name!r}", self._clock)

    def check_room(self) -> None:
        """Refuses what `admit` would refuse of anyone, before anything is read of it.

        Raises:
            ServingError: RESOURCE_EXHAUSTED: the server's limit is reached.
        """
        with self.admit(self._anonymous):
            pass

    def _find(self, digest: bytes) -> Caller | None:
        # What has been found once is found at once. Neither way tells a secret by the time it takes: both compare
        # hashes, and who can choose a token cannot choose its hash. Wrong tokens are not kept: they are endless.
        caller = self._known.get(digest)
        if caller is not None:
            return caller
        found = None
        for token in self._tokens:  # all of them, also after one has matched
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            return None
        caller = self._known[digest] = Caller(found.name, found, self._load(found))
        return caller

    def _load(self, token: Token) -> Load:
        """The load of a name, which outlives a new token or other limits of that name: what it used stays used."""
        load = self._loads.setdefault(token.name, Load())
        load.max_concurrent = token.max_concurrent
        rate, now = token.requests_per_second, self._clock()
        if rate is None:
            load.bucket = None
        elif load.bucket is None:
            load.bucket = TokenBucket(rate, token.burst, now)
        elif (load.bucket.rate, load.bucket.burst) != (rate, token.burst):
            load.bucket.change(rate, token.burst, now)
        return load

    def _take(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens
        self._known.clear()
        names = {token.name for token in tokens}
        self._loads = {name: load for name, load in self._loads.items() if name in names}


def _unauthenticated(text: str) -> ServingError:
    return ServingError(Code.UNAUTHENTICATED, text)
