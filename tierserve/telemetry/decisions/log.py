"""The decision log: takes outcomes on the event loop, in microseconds, and writes them on a thread of its own."""

import importlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy import float16
from numpy.typing import NDArray

from tierserve.core import Outcome, Prompt
from tierserve.errors import ConfigError
from tierserve.telemetry.decisions.answers import text_of
from tierserve.telemetry.decisions.file import DecisionFile, Write
from tierserve.telemetry.decisions.rows import (
    INSERT_COMPARISON,
    INSERT_DECISION,
    Comparison,
    Finished,
    compared,
    values,
)
from tierserve.telemetry.decisions.schema import VERSION, version
from tierserve.telemetry.decisions.writer import REASONS, Writer
from tierserve.threads import load_beside

if TYPE_CHECKING:
    from tierserve.config import DecisionsConfig

log = logging.getLogger(__name__)

Redact = Callable[[str], str]
Vector = Callable[[Prompt], NDArray[Any] | None]

# Text that waits to be written, all together.
_QUEUE_BYTES: Final = 64 * 2**20
# Of one prompt or answer, in characters.
_LONGEST_TEXT: Final = 2**18
_REDACTED: Final = "[not kept: the redaction failed]"
# When the node ends, how long it waits for the last rows.
_LAST_S: Final = 5.0


class DecisionLog:
    """`record` takes outcomes, `record_comparison` pairs of answers; neither waits nor raises."""

    def __init__(
        self,
        config: "DecisionsConfig",
        threshold: Callable[[], float],
        embedding: Vector | None = None,
        features: Vector | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`threshold` is the router's, now. `embedding` finds what the encoder made of a prompt, asked on the event
        loop; `features` reads its surface, on the log's thread. `clock` gives the time of day.

        Raises ConfigError where the file can't be, or the redaction can't be had.
        """
        path = Path(config.path)
        _check(path)
        self._redact = _redaction(config.redact) if config.redact else None
        self._text, self._embeddings = config.text, config.embeddings
        self._threshold, self._embedding, self._features, self._clock = threshold, embedding, features, clock
        file = DecisionFile(path, config.retention_days, config.max_mb * 2**20)
        self._writer: Writer[Finished | Write] = Writer(file, self._row, config.queue, _QUEUE_BYTES, clock)
        self._redaction_failed = False

    @property
    def keeps_answers(self) -> bool:
        return self._text

    def start(self) -> None:
        self._writer.start()

    @property
    def rows(self) -> int:
        """Written since the start."""
        return self._writer.rows

    def dropped(self, reason: str) -> int:
        """Not written, since the start; of REASONS."""
        return self._writer.dropped[reason]

    @property
    def lost(self) -> int:
        """Likewise, whatever the reason."""
        return sum(map(self.dropped, REASONS))

    @property
    def counts(self) -> tuple[Callable[[], float], dict[str, Callable[[], float]]]:
        """For metrics: rows written, and those dropped by reason."""
        return lambda: self.rows, {reason: partial(self.dropped, reason) for reason in REASONS}

    def record(self, outcome: Outcome) -> None:
        call, sent = outcome.call, outcome.sent if self._text else None
        prompts = call.prompts if self._text or self._embeddings else ()
        vector = self._embedding(prompts[0]) if self._embeddings and self._embedding and prompts else None
        row = Finished(values(outcome, self._clock(), self._threshold()), call.stream, prompts, sent, vector)
        self._writer.put(row, sum(len(prompt.text) for prompt in prompts) + (sent.size if sent is not None else 0))

    def record_comparison(self, comparison: Comparison) -> None:
        """The answers in it are kept where text is, redacted as text is."""
        answers = len(comparison.small_answer or "") + len(comparison.large_answer or "")
        self._writer.put((INSERT_COMPARISON, compared(comparison, self._clock())), answers)

    async def close(self) -> None:
        """Write what waits, if that takes no more than five seconds."""
        await load_beside(partial(self._writer.close, _LAST_S))

    def _row(self, item: Finished | Write) -> Write:
        if not isinstance(item, Finished):
            statement, columns = item
            return statement, (*columns[:-2], self._kept(columns[-2]), self._kept(columns[-1]))
        prompt = self._kept("\n\n".join(prompt.text for prompt in item.prompts))
        answer = self._kept(text_of(item.sent, item.stream)) if item.sent is not None else None
        features = self._features(item.prompts[0]) if item.embedding is not None and self._features else None
        return INSERT_DECISION, (*item.values, prompt, answer, _blob(item.embedding), _blob(features))

    def _kept(self, text: object) -> str | None:
        if not self._text or not isinstance(text, str):
            return None
        if self._redact is None:
            return text[:_LONGEST_TEXT]
        try:
            return str(self._redact(text))[:_LONGEST_TEXT]
        except Exception as error:
            if not self._redaction_failed:
                log.error("decisions.redact failed (%s): such texts are not kept", type(error).__name__)
            self._redaction_failed = True
            return _REDACTED


def _check(path: Path) -> None:
    """What an operator should hear of at the start, not at the first request."""
    if not path.parent.is_dir():
        raise ConfigError("decisions.path", f"there is no folder {path.parent}", "make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError("decisions.path", f"{path} can't be written", "name another file, or let tierserve write it")
    if not path.exists():
        return
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            found = version(connection)
        finally:
            connection.close()
    except sqlite3.Error:  # locked, or corrupt: the writer sees to that
        return
    if found > VERSION:
        raise ConfigError(
            "decisions.path",
            f"{path} was written by a newer tierserve (its tables are of version {found}, this one knows {VERSION})",
            "name another file",
        )


def _redaction(name: str) -> Redact:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError("decisions.redact", f"{name} can't be had ({error})", "install its module") from None
    if not callable(found):
        raise ConfigError("decisions.redact", f"{name} is no function", "name one that takes a text and gives one")
    return found  # type: ignore[no-any-return]


def _blob(vector: NDArray[Any] | None) -> bytes | None:
    return vector.astype(float16).tobytes() if vector is not None else None
