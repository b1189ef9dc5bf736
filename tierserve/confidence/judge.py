"""Judges one answer while it is generated. Pure: what is heard goes in, a finding comes out.

judge = judge_for(config, call, calibration)
tier.generate(judge.call, judge)      # the call, where need be in another form
judge.hear(heard) ...                 # until judge.finding is there
judge.end()                           # nothing more will be heard: now there is one
judge.event(b"data: ...")             # what the caller gets of it
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from tierserve.confidence import structured
from tierserve.confidence.logprobs import ALTERNATIVES, STATISTICS, Token, mean
from tierserve.confidence.structured import Position
from tierserve.core import Call, Doubt, Heard, Kind

if TYPE_CHECKING:
    from tierserve.config import EscalationConfig

Calibrate = Callable[[float], float]

_DATA: Final = b"data: "


@dataclass(frozen=True, slots=True)
class Finding:
    """`doubt` is None where the answer will do; `confidence` is None where there was nothing to judge."""

    confidence: float | None
    doubt: Doubt | None = None


class Judge(Protocol):
    """A listener (tiers/base.py) that comes to a finding, which then stays.

    `call` is what the tier is to be asked; `content_stands`: what has been heard can be served, whatever the finding.
    """

    call: Call
    alternatives: int | None
    finding: Finding | None

    @property
    def content_stands(self) -> bool: ...

    def hear(self, heard: Heard) -> None: ...

    def end(self) -> None: ...

    def event(self, event: bytes) -> bytes | None:
        """An event of the tier's as the caller gets it; None: not at all."""

    def body(self, body: bytes) -> bytes:
        """Likewise a whole answer."""


def judge_for(
    config: "EscalationConfig", call: Call, score: float | None = None, calibrate: Calibrate | None = None
) -> Judge | None:
    """The judge of an answer to `call`, whose prompt has the `score`; None where it can't be judged.

    What can't be said in the structured form is judged by its logprobs, without the calibration, which is not theirs.
    """
    if call.body.get("use_beam_search"):
        return None  # vLLM searches past the engine's own outputs: nothing would be heard
    if config.estimator == "logprob":
        return LogprobJudge(config, call, score, calibrate)
    if not _fits_the_form(call):
        return LogprobJudge(config, call, score)
    return StructuredJudge(Position(config.position), config.threshold, call, calibrate)


class LogprobJudge:
    """The statistic over each choice's tokens; the worst choice counts.

    A stream is judged by its first `hold_tokens` tokens, or earlier where the prompt is simple and the model sure; any
    other answer by all of its tokens.
    """

    content_stands = True

    def __init__(
        self,
        config: "EscalationConfig",
        call: Call,
        score: float | None = None,
        calibrate: Calibrate | None = None,
    ) -> None:
        self.call = call
        self.finding: Finding | None = None
        self._may_be_early = call.stream and score is not None and score <= config.early_score
        self.alternatives: int | None = ALTERNATIVES if config.statistic == "entropy" else 0
        self._config = config
        self._statistic = STATISTICS[config.statistic]
        self._calibrate = calibrate
        self._hold = config.hold_tokens if call.stream else None
        self._choices = max(1, len(call.prompts)) * (call.body.get("n") or 1)
        self._tokens: dict[int, list[Token]] = defaultdict(list)
        self._heard: dict[int, int] = defaultdict(int)
        self._text: dict[int, str] = defaultdict(str)
        self._ended: set[int] = set()

    def hear(self, heard: Heard) -> None:
        if self.finding is not None:
            return
        choice = heard.choice
        self._tokens[choice].extend(heard.logprobs)
        self._heard[choice] += heard.tokens
        self._text[choice] += heard.text if not self._text[choice].strip() else ""
        if heard.ended:
            self._ended.add(choice)
        if sum(self._is_enough(known) for known in self._heard) == self._choices:
            self._conclude()
        elif self._fell_below(choice, len(heard.logprobs)):
            self.finding = Finding(self._confidence(choice), Doubt.LOW)

    def end(self) -> None:
        if self.finding is None:
            self._conclude()

    def event(self, event: bytes) -> bytes | None:
        return event

    def body(self, body: bytes) -> bytes:
        return body

    def _is_enough(self, choice: int) -> bool:
        if choice in self._ended or (self._hold is not None and self._heard[choice] >= self._hold):
            return True
        so_far = self._tokens[choice]
        return self._may_be_early and bool(so_far) and mean(so_far, 0) >= self._config.early_confidence

    def _fell_below(self, choice: int, new: int) -> bool:
        """Whether an unfinished answer can't come above the threshold any more: a minimum only falls."""
        width = self._config.window
        if self._config.statistic != "minimum" or len(self._tokens[choice]) < width or not new:
            return False
        latest = self._statistic(self._tokens[choice][-(width + new - 1) :], width)
        return self._calibrated(latest) < self._config.threshold

    def _conclude(self) -> None:
        if not self._heard:
            self.finding = Finding(None)
        elif not all(self._tokens[choice] for choice in self._heard):
            self.finding = Finding(None, Doubt.UNSTATED)
        else:
            confidence = min(self._confidence(choice) for choice in self._heard)
            silent = any(choice in self._ended and not self._text[choice].strip() for choice in self._heard)
            low = Doubt.LOW if confidence < self._config.threshold else None
            self.finding = Finding(confidence, Doubt.EMPTY if silent else low)

    def _confidence(self, choice: int) -> float:
        return self._calibrated(self._statistic(self._tokens[choice], self._config.window))

    def _calibrated(self, confidence: float) -> float:
        return self._calibrate(confidence) if self._calibrate else confidence


class StructuredJudge:
    """What the model states. The caller gets the content alone, in the form that was asked for.

    With the confidence first the finding is there with the content's first character, so that an empty one is known,
    too; with the confidence last, at the end.
    """

    alternatives: int | None = None

    def __init__(self, position: Position, threshold: float, call: Call, calibrate: Calibrate | None = None) -> None:
        self.finding: Finding | None = None
        self._position = position
        self._threshold = threshold
        self._calibrate = calibrate
        self._limit = _output_limit(call.body)
        schema = _asked_schema(call.body)
        self._is_json = schema is not None
        self.call = _in_form(call, position, schema, self._limit)
        self._reader = structured.Reader(self._is_json)
        self._text = ""  # all of it, where the confidence comes last
        self._content = ""  # not yet given to the caller
        self._content_tokens = 0
        self._cut = False

    @property
    def content_stands(self) -> bool:
        return bool(self._content)

    def hear(self, heard: Heard) -> None:
        if self._position is Position.LAST:
            self._text += heard.text
            return
        self._reader.feed(heard.text)
        if heard.ended:
            self._reader.end()
        self._keep(heard.tokens)
        if self.finding is None:
            if self._reader.broken:
                self.finding = Finding(None, Doubt.UNREADABLE)
            elif self._reader.begun:
                self._conclude(self._reader.confidence)

    def end(self) -> None:
        if self._position is Position.LAST:
            answer = structured.read(self._text, self._is_json)
            self._content = answer.content if answer else ""
            if answer is None:
                self.finding = Finding(None, Doubt.UNREADABLE)
            else:
                self._conclude(answer.confidence)
            return
        self._reader.end()
        self._keep(0)
        if self.finding is None and self._reader.broken:
            self.finding = Finding(None, Doubt.UNREADABLE)
        elif self.finding is None:
            self._conclude(self._reader.confidence)

    def event(self, event: bytes) -> bytes | None:
        """One event is one `data:` line. What adds nothing for the caller is left out."""
        if not event.startswith(_DATA + b"{"):
            return event
        data = json.loads(event.removeprefix(_DATA))
        for choice in data.get("choices", ()):
            delta, ends = choice.get("delta", {}), choice.get("finish_reason") is not None
            if not delta.get("content") and not ends:
                continue
            content = self._take()
            if ends:
                self._say_where_it_was_cut(choice)
            elif not content:
                return None
            if content or "content" in delta:
                delta["content"] = content
        return _DATA + _compact(data) + b"\n\n"

    def body(self, body: bytes) -> bytes:
        data = json.loads(body)
        (choice,) = data["choices"]
        choice["message"]["content"] = self._take()
        self._say_where_it_was_cut(choice)
        return _compact(data)

    def _keep(self, tokens: int) -> None:
        """Content beyond the caller's limit, for which the form had left room, is not the caller's."""
        content = self._reader.take()
        if self._limit is not None and self._content_tokens >= self._limit:
            self._cut = self._cut or bool(content)
            return
        self._content += content
        if self._reader.begun:
            self._content_tokens += tokens

    def _take(self) -> str:
        content, self._content = self._content, ""
        return content

    def _say_where_it_was_cut(self, choice: dict[str, Any]) -> None:
        if self._cut and choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "length"

    def _conclude(self, stated: float | None) -> None:
        confidence = self._calibrate(stated) if self._calibrate and stated is not None else stated
        if not self._content.strip():
            self.finding = Finding(confidence, Doubt.EMPTY)
        elif confidence is None:
            self.finding = Finding(None, Doubt.UNSTATED)
        else:
            self.finding = Finding(confidence, Doubt.LOW if confidence < self._threshold else None)


# A field that the form has no room for: it counts in tokens or characters of the answer as the model writes it, or
# prescribes another form.
_UNFIT: Final = (
    *("tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "stop", "stop_token_ids", "echo"),
    *("continue_final_message", "ignore_eos", "min_tokens", "return_token_ids", "chat_template", "reasoning_effort"),
)
_JSON_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}


def _fits_the_form(call: Call) -> bool:
    body = call.body
    if call.kind is not Kind.CHAT or any(body.get(name) for name in _UNFIT) or (body.get("n") or 1) > 1:
        return False
    constraints = {name for name, value in (body.get("structured_outputs") or {}).items() if value is not None}
    form = (body.get("response_format") or {}).get("type", "text")
    return constraints <= {"json"} and form in ("text", "json_object", "json_schema")


def _asked_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema that the caller asked for; None: text."""
    schema = (body.get("structured_outputs") or {}).get("json")
    if schema is not None:
        parsed: Mapping[str, Any] = json.loads(schema) if isinstance(schema, str) else schema
        return parsed
    asked = body.get("response_format") or {}
    match asked.get("type"):
        case "json_schema":
            return asked["json_schema"].get("schema") or _JSON_OBJECT
        case "json_object":
            return _JSON_OBJECT
    return None


def _in_form(call: Call, position: Position, schema: Mapping[str, Any] | None, limit: int | None) -> Call:
    body = {name: value for name, value in call.body.items() if name != "response_format"}
    body["messages"] = structured.instructed(call.body["messages"], position)
    body["structured_outputs"] = structured.grammar(position, schema)
    if limit is not None:
        name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
        body[name] = limit + structured.FORM_TOKENS
    return replace(call, body=body, parsed=None)


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _output_limit(body: Mapping[str, Any]) -> int | None:
    limit: int | None = body.get("max_completion_tokens")
    return limit if limit is not None else body.get("max_tokens")
