"""Every error that tierserve raises on purpose. None knows HTTP: server/refusal.py maps them to status codes.

TierserveError
├── ConfigError            the configuration or what it points at is wrong; names the path in the file and the remedy
├── BackendUnusable        a library that could run the router's encoder can't be used here; another one does
├── TierStartError         an engine did not come up
├── RequestError           the caller's request is at fault; says what to change
│   ├── UnknownModel       `model` is neither `auto` nor a tier's name
│   └── ContextOverflow    the prompt, with the output asked for, does not fit the tier's context
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


class TierUnavailable(TierserveError):
    """The tier can't answer now; another tier, or the same one later, may."""


class TierBusy(TierUnavailable):
    """The tier's queue is full."""
