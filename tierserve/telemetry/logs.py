"""Log lines: text for a person at a terminal, one JSON object a line for everything else. No prompt text.

The engines' processes write through the same formatter: vLLM reads engine_logging.json, whose path it is given in the
environment, in each of them.
"""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pythonjsonlogger.json import JsonFormatter

from tierserve.core import Outcome, Status

if TYPE_CHECKING:
    from tierserve.config import LogConfig

log = logging.getLogger("tierserve.request")

# How the engines' processes learn of what was configured for the node.
_FORMAT_VARIABLE = "TIERSERVE_LOG_FORMAT"
_LEVEL_VARIABLE = "TIERSERVE_LOG_LEVEL"

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
_LIBRARIES = ("httpx", "httpx2", "httpcore", "urllib3", "sentence_transformers", "transformers", "asyncio", "filelock")


def configure(config: "LogConfig") -> None:
    """Set up logging for this process and, through the environment, for the engines' processes."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    os.environ[_FORMAT_VARIABLE] = "json" if as_json else "text"
    os.environ[_LEVEL_VARIABLE] = config.level.upper()
    os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(Path(__file__).with_name("engine_logging.json")))
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _LIBRARIES:  # what they find worth saying is, to an operator of this node, not
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def formatter() -> logging.Formatter:
    if os.environ.get(_FORMAT_VARIABLE) != "json":
        return logging.Formatter(_TEXT, datefmt="%H:%M:%S")
    return JsonFormatter(
        "%(levelname)s %(name)s %(process)d %(message)s",
        rename_fields={"levelname": "level", "name": "logger", "process": "pid"},
        timestamp="time",
    )


class EngineFilter(logging.Filter):
    """vLLM says at INFO what tierserve's operator needs only when looking for a fault: its warnings are enough."""

    def filter(self, record: logging.LogRecord) -> bool:
        wanted = os.environ.get(_LEVEL_VARIABLE, "INFO")
        least = logging.DEBUG if wanted == "DEBUG" else max(logging.WARNING, logging.getLevelName(wanted))
        return record.levelno >= least


def log_outcome(outcome: Outcome) -> None:
    """One line for a finished request: what was decided and how it went, not what was said."""
    decision = outcome.decision
    level = logging.WARNING if outcome.status is Status.ERROR else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields = {
        "request_id": outcome.call.id,
        "kind": outcome.call.kind,
        "status": outcome.status,
        "tier": outcome.tier,
        "cause": decision and decision.cause,
        "score": decision and decision.score and round(decision.score, 2),
        "prompt_tokens": outcome.usage.prompt_tokens,
        "completion_tokens": outcome.usage.completion_tokens,
        "first_byte_s": outcome.first_byte_s and round(outcome.first_byte_s, 4),
        "total_s": round(outcome.total_s, 4),
    }
    log.log(
        level,
        "%s %s -> %s (%s) %s tokens, %.3f s",
        outcome.call.id,
        outcome.status,
        outcome.tier,
        fields["cause"],
        outcome.usage.completion_tokens,
        outcome.total_s,
        extra=fields,
    )
