"""Every error that tierserve raises on purpose. None knows HTTP: server/refusal.py maps them to status codes.

TierserveError
├── ConfigError            the configuration or what it points at is wrong; names the path in the file and the remedy
├── BackendUnusable        a library that could run the router's encoder can't be used here; another one does
├── TierStartError         an engine did not come up
├── RequestError           the caller's request is at fault; says what to change
│   ├── UnknownModel       `model` is neither `auto` nor a tier's name
│   └── ContextOverflow    the prompt, with the output asked for, does not fit the tier's context
├── Refused                the node does not take the request on
│   ├── Unauthorized       no key, or none that is known
│   ├── Forbidden          the key is known, and may not do this
│   ├── RateLimited        the key's limit is used up; says when to come again
│   └── Overloaded         the node's queue is full; says when to come again
├── DeadlineExceeded       the caller's time was over before the answer was there
└── TierUnavailable        the tier can't answer now (loading, dead, unreachable)
    └── TierBusy           the tier's queue is full
"""


class TierserveError(Exception):
    """The base of the tree."""


class ConfigError(TierserveError):
    """`where` is the path in the configuration file (`tiers.small.engine.dtype`), `remedy` what to do about it."""

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{where}: {problem}" + (f" — {remedy}" if remedy else ""))
        self.where, self.problem, self.remedy = where, problem, remedy


class BackendUnusable(TierserveError):
    """The message is the reason; the router goes on with the next backend."""


class TierStartError(TierserveError):
    """An engine was built from a valid configuration and did not come up."""


class RequestError(TierserveError):
    """The request can't be honoured as it stands. `param` names the field at fault, where one is."""

    code: str | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(RequestError):
    code = "model_not_found"


class ContextOverflow(RequestError):
    code = "context_length_exceeded"


class Refused(TierserveError):
    """The node does not take the request on. `retry_after_s`: when to come again, where that would help."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthorized(Refused):
    """The request carries no key, or none that is known here."""

    code = "invalid_api_key"


class Forbidden(Refused):
    """The key is known, and may not do this."""


class RateLimited(Refused):
    """The key's limit is used up."""

    code = "rate_limit_exceeded"


class Overloaded(Refused):
    """The node's queue is full."""


class DeadlineExceeded(TierserveError):
    """The caller's time was over before the answer was there."""


class TierUnavailable(TierserveError):
    """The tier can't answer now; another tier, or the same one later, may."""


class TierBusy(TierUnavailable):
    """The tier's queue is full."""
