"""Who asks, what they may do, and what it counts against: from a request's key to a Ticket.

    access = Access(config.server)
    ticket = access.ticket("/v1/chat/completions", request.headers.getall("authorization", ()))   # or Unauthorized
    with ticket.entered():                # or RateLimited
        ticket.charge(tokens)             # or RateLimited
        ticket.outcome = answer.outcome   # what was used, once it has ended

Nothing here reads a body: a caller without a key costs a hash.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tierserve.config import KeyEntry, ServerConfig
from tierserve.core import ANYBODY, Caller, Outcome, Role, Status
from tierserve.errors import ConfigError, DeadlineExceeded, Forbidden, Unauthorized
from tierserve.server.keys import Keys, read_keys
from tierserve.server.quota import Limits, Quota
from tierserve.server.tls import Certificate

# By the route that was found, not by the path as it was written.
# The dashboard's page has no data; what it asks for has.
_OPEN = frozenset({"/health", "/ready", "/dashboard", "/dashboard/static/{file}"})
_METRICS = "/metrics"
_ADMINS = frozenset({_METRICS, "/dashboard/feed", "/dashboard/nearest"})


class Ticket:
    """One request's. Without a quota nothing is limited."""

    __slots__ = ("_charged", "_clock", "_quota", "caller", "outcome")

    def __init__(
        self, caller: Caller = ANYBODY, quota: Quota | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.caller = caller
        self.outcome: Outcome | None = None
        self._quota = quota
        self._clock = clock
        self._charged = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Counts as one request, in flight while the block runs; what it was charged is set right at the end. Raises
        RateLimited."""
        if self._quota is None:
            yield
            return
        self._quota.enter(self._clock())
        broken_off = False
        try:
            yield
        except (asyncio.CancelledError, DeadlineExceeded):
            broken_off = True
            raise
        finally:
            self._quota.leave()
            self._quota.correct(self._used(broken_off) - self._charged, self._clock())

    def charge(self, tokens: int) -> None:
        """What the request may come to. Raises RateLimited."""
        if self._quota is not None:
            self._quota.charge(tokens, self._clock())
            self._charged = tokens

    def headers(self) -> dict[str, str]:
        return self._quota.headers(self._clock()) if self._quota is not None else {}

    def _used(self, broken_off: bool) -> int:
        """Tokens. What failed costs nothing; where nobody counted (the caller was gone or had no more time, or a server
        elsewhere does not tell) the charge stands, or hanging up would make work free."""
        if self.outcome is None:
            return self._charged if broken_off else 0
        used = self.outcome.usage.prompt_tokens + self.outcome.usage.completion_tokens
        return used or (0 if self.outcome.status is Status.ERROR else self._charged)


class Access:
    """The node's keys, what each has used, and its certificate. Without keys everybody may do everything."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError."""
        self._clock = clock
        self._variables: dict[str, str | None] = {}
        self._quotas: dict[str, Quota] = {}
        self._certificate = Certificate(config.tls) if config.tls else None
        self._set(config, read_keys(config.keys, self._variable) if config.keys else None)

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """None: plain HTTP."""
        return self._certificate.context if self._certificate else None

    @property
    def names(self) -> Iterable[str]:
        """Of the keys that are known now."""
        return self._callers.keys()

    @property
    def wants_keys(self) -> bool:
        return self._keys is not None

    def prepare(self, config: ServerConfig) -> Callable[[], None]:
        """Read the keys' file and the certificate again; what is returned puts them in force. What was used up stays
        so, and requests in flight go on.

        Raises ConfigError, and then everything is as before. What a variable holds can't change in a running process.
        """
        for name, before, after in (
            ("server.keys", self._keys, config.keys),
            ("server.tls", self._certificate, config.tls),
        ):
            if (before is None) != (after is None):
                raise ConfigError(name, "can't be switched on or off while the node runs", "restart it")
        keys = read_keys(config.keys, self._variable) if config.keys else None
        renew = self._certificate.prepare(config.tls) if self._certificate and config.tls else None

        def apply() -> None:
            self._set(config, keys)
            if renew is not None:
                renew()

        return apply

    def ticket(self, path: str | None, authorization: Sequence[str]) -> Ticket:
        """`path` is that of the route, None where there is none; `authorization` the headers of this name.

        Raises Unauthorized, and Forbidden.
        """
        if self._keys is None or path in _OPEN or (path == _METRICS and self._metrics_open):
            return Ticket()
        entry = self._keys.find(_bearer(authorization))
        if entry is None:
            raise Unauthorized("this key is not known here")
        if path in _ADMINS and not entry.admin:
            raise Forbidden(f"the key {entry.name} may not read {path}: use an admin's")
        return Ticket(self._callers[entry.name], self._quotas[entry.name], self._clock)

    def _set(self, config: ServerConfig, keys: Keys | None) -> None:
        self._keys, self._metrics_open = keys, config.metrics_open
        entries = list(keys or ())
        self._callers = {entry.name: _caller(entry) for entry in entries}
        before, self._quotas = self._quotas, {}
        for entry in entries:
            limits = Limits(entry.requests_per_minute, entry.tokens_per_minute, entry.concurrency)
            quota = self._quotas[entry.name] = before.get(entry.name) or Quota(limits)
            quota.limit(limits)

    def _variable(self, name: str) -> str | None:
        """Taken out of the environment, which the engines' processes get a copy of."""
        if name not in self._variables:
            self._variables[name] = os.environ.pop(name, None)
        return self._variables[name]


def _bearer(authorization: Sequence[str]) -> str:
    if len(authorization) != 1:
        raise Unauthorized("send one header `authorization: Bearer KEY`")
    scheme, _, key = authorization[0].partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("send the key as `authorization: Bearer KEY`")
    return key.strip()


def _caller(entry: KeyEntry) -> Caller:
    return Caller(entry.name, entry.priority, frozenset(Role(tier) for tier in entry.tiers), entry.admin)
