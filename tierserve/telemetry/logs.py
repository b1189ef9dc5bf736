"""Log lines: text for a person at a terminal, one JSON object a line for everything else. No prompt text.

The engines' processes write through the same formatter: vLLM reads engine_logging.json, whose path it is given in the
environment, in each of them. What native code and libraries print past all logging is caught and becomes a log line.
"""

import faulthandler
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pythonjsonlogger.json import JsonFormatter

from tierserve.core import Judgement, Outcome, Status

if TYPE_CHECKING:
    from tierserve.config import LogConfig

log = logging.getLogger("tierserve.request")
stray = logging.getLogger("stderr")

# How the engines' processes learn of what was configured for the node.
_FORMAT_VARIABLE = "TIERSERVE_LOG_FORMAT"
_LEVEL_VARIABLE = "TIERSERVE_LOG_LEVEL"

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
_FORMATTED = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ +")
_STDERR = 2
# Ends the relay: children may hold the other end of its pipe longer than this process lives.
_RELAY_END = b"\0end\n"
_RELAY_END_S = 1.0
_LIBRARIES = (
    "asyncio",
    "filelock",
    "httpcore",
    "httpx",
    "httpx2",
    "sentence_transformers",
    "transformers",
    "urllib3",
    "vllm.triton_utils",
)

# What vLLM warns of at each start on a CPU, and nobody there can change: its CPU build lacks Triton and compiles
# nothing where the configuration says `enforce_eager`, which it says for that reason.
_EXPECTED = (
    "Default vLLM sampling parameters have been overridden",
    "Enforce eager set",
    "Inductor compilation was disabled",
    "Model Runner V2 requires Triton",
    "Reset SSM cache type",
    "Triton is not installed",
    "libiomp is not found",
    "libtcmalloc is not found",
    "[shutdown]",
)

# What vLLM logs as an error, with a traceback, though the model only wrote something that looked like a call.
_NO_FAULT = "Error in extracting tool call"


@contextmanager
def configured(config: "LogConfig") -> Iterator[None]:
    """Logging for this process and, through the environment, for the engines' processes, which come after."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    os.environ[_FORMAT_VARIABLE] = "json" if as_json else "text"
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it has a handler of its own; what fails is said by who asked
    os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(Path(__file__).with_name("engine_logging.json")))
    with _stray_lines_logged() as terminal:
        handler = logging.StreamHandler(terminal)
        handler.setFormatter(formatter())
        logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
        logging.captureWarnings(True)
        set_level(config.level)
        yield


def set_level(level: str) -> None:
    """Of this process, and of engines' processes that are started from now on."""
    os.environ[_LEVEL_VARIABLE] = level.upper()
    logging.getLogger().setLevel(level.upper())
    for name in _LIBRARIES:  # what they find worth saying is, to an operator of this node, not
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    # Of a request that is no HTTP it logs the bytes, and so the prompt.
    logging.getLogger("aiohttp.server").setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL)


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
        if wanted == "DEBUG":
            return True
        if record.getMessage().startswith(_NO_FAULT):
            record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        least = max(logging.WARNING, logging.getLevelName(wanted))
        return record.levelno >= least and not record.getMessage().startswith(_EXPECTED)


def log_outcome(outcome: Outcome) -> None:
    """One line for a finished request: what was decided and how it went, not what was said."""
    decision = outcome.decision
    level = logging.WARNING if outcome.status is Status.ERROR else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields = {
        "request_id": outcome.call.id,
        "kind": outcome.call.kind,
        "key": outcome.call.caller.key or None,
        "status": outcome.status,
        "tier": outcome.tier,
        "cause": decision and decision.cause,
        "score": decision and decision.score and round(decision.score, 2),
        "prompt_tokens": outcome.usage.prompt_tokens,
        "completion_tokens": outcome.usage.completion_tokens,
        **_judged(outcome.judgement),
        "first_byte_s": outcome.first_byte_s and round(outcome.first_byte_s, 4),
        "total_s": round(outcome.total_s, 4),
        **({"cost": outcome.cost.spent, "cost_all_large": outcome.cost.all_large} if outcome.cost else {}),
        **({"trace_id": f"{outcome.call.trace.trace_id:032x}"} if outcome.call.trace else {}),
    }
    log.log(
        level,
        "%s %s -> %s (%s) %s tokens, %.3f s",
        outcome.call.id,
        outcome.status,
        outcome.tier or "no tier",
        fields["cause"] or "undecided",
        outcome.usage.completion_tokens,
        outcome.total_s,
        extra=fields,
    )


@contextmanager
def _stray_lines_logged() -> Iterator[TextIO]:
    """Gives the true standard error; what anybody else writes to descriptor 2, here or in a child, becomes a log line.

    Python's own standard error stays the true one, so that a traceback at the very end is not lost with the relay.
    """
    terminal = os.fdopen(os.dup(_STDERR), "w", buffering=1, errors="backslashreplace")
    reader, writer = os.pipe()
    os.dup2(writer, _STDERR)
    os.close(writer)
    previous, sys.stderr = sys.stderr, terminal
    faulthandler.enable(terminal)
    relay = threading.Thread(target=_relay, args=(reader, terminal), name="stderr", daemon=True)
    relay.start()
    try:
        yield terminal
    finally:
        os.write(_STDERR, _RELAY_END)
        relay.join(_RELAY_END_S)
        os.dup2(terminal.fileno(), _STDERR)
        sys.stderr = previous


def _relay(reader: int, terminal: TextIO) -> None:
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            if line.endswith(_RELAY_END):
                return
            text = line.decode(errors="backslashreplace")
            if _is_formatted(text):
                terminal.write(text)
            elif text.strip():
                stray.info("%s", text.strip())


def _is_formatted(line: str) -> bool:
    """Whether an engine's process wrote it through our formatter."""
    if os.environ.get(_FORMAT_VARIABLE) != "json":
        return _FORMATTED.match(line) is not None
    try:
        return line.startswith('{"level": ') and "logger" in json.loads(line)
    except ValueError:
        return False


def _judged(judgement: Judgement | None) -> dict[str, object]:
    """What is said of an answer that was judged."""
    if judgement is None:
        return {}
    return {
        "confidence": judgement.confidence and round(judgement.confidence, 4),
        "doubt": judgement.doubt,
        "escalated": judgement.escalated,
        "held_s": round(judgement.held_s, 4),
        "wasted_prompt_tokens": judgement.wasted.prompt_tokens,
        "wasted_completion_tokens": judgement.wasted.completion_tokens,
        "prewarm": judgement.prewarm,
    }
