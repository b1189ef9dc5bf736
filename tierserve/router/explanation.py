"""Why a prompt goes where it goes, for people: the rule that decided, the score, and the nearest known examples."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tierserve.core import Call, Decision, Kind, Prompt
from tierserve.router.router import build_router
from tierserve.router.scoring.head import Example

if TYPE_CHECKING:
    from tierserve.config import RouterConfig

_EXAMPLES = 3
_SHOWN = 90  # characters of an example


@dataclass(frozen=True, slots=True)
class Explanation:
    """`examples` is empty where the scorer knows none."""

    decision: Decision
    threshold: float
    scorer: str
    examples: list[Example]

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.decision.role,
            "score": self.decision.score,
            "threshold": self.threshold,
            "cause": self.decision.cause,
            "scorer": self.scorer,
            "nearest": [
                {"prompt": each.text, "label": _label(each), "cosine": round(each.cosine, 3)} for each in self.examples
            ],
        }

    def as_text(self, tier: str) -> str:
        score = self.decision.score
        relation = "<=" if score is not None and score <= self.threshold else ">"
        why = str(self.decision.cause)
        if score is not None:
            why += f" {score:.2f} {relation} {self.threshold:g}"
        lines = [f"{tier} ({self.decision.role}): {why}, by {self.scorer}"]
        if self.examples:
            lines += ["nearest known:"]
            lines += [f"  {_label(each):6} {each.cosine:.2f}  {_shortened(each.text)}" for each in self.examples]
        return "\n".join(lines)


def explain(config: "RouterConfig", text: str) -> Explanation:
    """Loads the router and asks it. Raises ConfigError."""

    async def ask() -> Explanation:
        router = build_router(config)
        await router.start()
        try:
            prompt = Prompt(text)
            decision = await router.look(Call("route", Kind.CHAT, {}, (prompt,)))
            return Explanation(decision, router.threshold, config.scorer, await router.nearest(prompt, _EXAMPLES))
        finally:
            await router.close()

    return asyncio.run(ask())


def _label(example: Example) -> str:
    return "hard" if example.hard else "simple"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
