"""Decides which tier a call goes to, and names the one rule that decided."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from numpy import float32
from numpy.linalg import norm
from numpy.typing import NDArray

from tierserve.core import Call, Cause, Decision, Load, Prompt, Role
from tierserve.errors import TierUnavailable
from tierserve.router.assessing.assessor import load_assessor
from tierserve.router.assessing.opinion import Assessments, SecondOpinion
from tierserve.router.embedding.encoder import Encoder, EncoderThread, load_encoder
from tierserve.router.rules.cache import Scored
from tierserve.router.rules.conversations import Standing, is_short_follow_up
from tierserve.router.rules.policy import Policy, build_policy, renewed
from tierserve.router.scoring.head import Example, Head
from tierserve.router.scoring.scorers import Scorer, build_scorer
from tierserve.router.vectors import Vectors
from tierserve.threads import load_beside

if TYPE_CHECKING:
    from tierserve.config import RouterConfig

log = logging.getLogger(__name__)

_SCORED = frozenset({Cause.SCORE, Cause.CACHE, Cause.ASSESSED, Cause.UNASSESSED})  # by the score against the threshold


class Router:
    """The first rule that has something to say decides: the caller, the conversation, the score; then the load.

    `decide` is for calls that are then answered: the conversation is kept and the threshold may move. `look` gives the
    same decision and leaves no trace.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Encoder, Scorer]],
        policy: Policy,
        load_second: Callable[[Assessments], SecondOpinion] | None = None,
    ) -> None:
        """`load` gives encoder and scorer, `load_second` the second opinion, where there is to be one.

        Both may take seconds, and are called once, by `start`.
        """
        self._load, self._load_second = load, load_second
        self._policy = policy
        self.assessments = Assessments()
        self.vectors: Vectors | None = None  # set by who wants to have them
        self._second: SecondOpinion | None = None
        self._encoder: EncoderThread | None = None
        self._own = 0  # of a vector's numbers, those that are the sentence's own
        self._scorer: Scorer | None = None

    @property
    def ready(self) -> bool:
        return self._encoder is not None

    @property
    def threshold(self) -> float:
        """In force now."""
        return self._policy.threshold.value

    @property
    def cache_hits(self) -> int:
        return self._policy.cache.hits

    @property
    def cache_misses(self) -> int:
        return self._policy.cache.misses

    async def start(self) -> None:
        """Raises ConfigError when the encoder or the assessor can't be had."""
        encoder, self._scorer = await load_beside(self._load)
        self._own = await load_beside(lambda: encoder.own)
        if (load_second := self._load_second) is not None:
            self._second = await load_beside(lambda: load_second(self.assessments))
        self._encoder = EncoderThread(encoder)

    async def close(self) -> None:
        await self._policy.cache.close()
        if self._encoder is not None:
            await self._encoder.close()
        if self._second is not None:
            await self._second.close()

    def renew(self, config: "RouterConfig") -> None:
        """Go on with other rules; encoder, scorer and assessor stay what they are."""
        self._policy = renewed(self._policy, config)

    async def decide(self, call: Call, load: Callable[[], Load] = Load) -> Decision:
        """The decision for a call, which counts. `load` is asked when the score is known.

        Raises TierUnavailable while the router loads.
        """
        decision = await self._choose(call, load, counts=True)
        self._learn(call, decision)
        return _where_there_is_somebody(call, decision, load())

    async def look(self, call: Call, load: Callable[[], Load] = Load) -> Decision:
        """What `decide` would say."""
        return _where_there_is_somebody(call, await self._choose(call, load, counts=False), load())

    async def nearest(self, prompt: Prompt, count: int) -> list[Example]:
        """The nearest prompts that the scorer knows, for people; none where it knows none."""
        if self._encoder is None:
            raise TierUnavailable("the router is loading")
        if not isinstance(self._scorer, Head):
            return []
        return self._scorer.nearest(await self._encoder.embed(prompt.text), count)

    async def embed(self, text: str) -> NDArray[float32]:
        """The encoder's vector of any text, of unit length. Raises TierUnavailable while the router loads, TierBusy."""
        if self._encoder is None:
            raise TierUnavailable("the router is loading")
        own = (await self._encoder.embed(text))[: self._own]
        return own / float32(max(float(norm(own)), 1e-9))

    def settle(self, call: Call, decision: Decision) -> None:
        """How it went on: a conversation that the small tier can't hold stays on the large one, for it only grows; so
        does one in which its answer was doubted.

        A failover holds for its request alone: the tier that was away comes back.
        """
        if decision.cause in (Cause.CONTEXT, Cause.ESCALATION):
            self._policy.conversations.keep(call.conversation, Standing(decision.role, sent_up=True))

    async def _choose(self, call: Call, load: Callable[[], Load], counts: bool) -> Decision:
        if call.forced is not None:
            return Decision(*call.forced)
        standing = self._policy.conversations.find(call.conversation)
        if standing is not None and (cause := self._hold(standing, call)):
            return Decision(standing.role, cause)
        try:
            score, cause, _ = await self._score(call.prompts, counts)
        except TierUnavailable:
            raise
        except Exception:
            log.exception("scoring failed")
            return Decision(Role.LARGE, Cause.UNSCORED)
        role = Role.LARGE if self._policy.threshold.exceeded_by(score) else Role.SMALL
        relief = self._policy.relief
        if relief is not None and relief.role_for(role, score, self.threshold, load()) is not role:
            return Decision(role.other, Cause.LOAD, score)
        return Decision(role, cause, score)

    def _hold(self, standing: Standing, call: Call) -> Cause | None:
        """Why the conversation decides; None where it leaves that to the score."""
        if is_short_follow_up(call.prompts[0], self._policy.short_follow_up_chars):
            return Cause.FOLLOW_UP
        return Cause.CONVERSATION if standing.sent_up else None

    def _learn(self, call: Call, decision: Decision) -> None:
        """Keep the conversation, and let the threshold know of what the router decided.

        What the caller or its key forced is neither counted nor held against later turns, which find what was known
        before. What the load moved counts as its score said, or the threshold would move to undo it. What could not be
        scored is not counted.
        """
        conversations, role = self._policy.conversations, decision.role
        before = conversations.find(call.conversation)
        match decision.cause:
            case Cause.MODEL | Cause.HEADER | Cause.KEY:
                if before is not None:
                    conversations.keep(call.conversation, before)
                return
            case cause if cause in _SCORED:
                self._policy.threshold.observe(decision.score, role is Role.LARGE)
            case Cause.LOAD:
                self._policy.threshold.observe(decision.score, role.other is Role.LARGE)
            case Cause.FOLLOW_UP | Cause.CONVERSATION:
                self._policy.threshold.observe(None, role is Role.LARGE)
        scored_up = role is Role.LARGE and decision.cause in _SCORED
        sent_up = scored_up or (before is not None and before.sent_up)
        # Up, too, where a turn that was answered meanwhile was sent there while this one was being scored.
        conversations.keep(call.conversation, Standing(Role.LARGE if sent_up else role, sent_up))

    async def _score(self, prompts: Sequence[Prompt], counts: bool) -> Scored:
        """The hardest prompt's score, and what that one rests on."""
        cache = self._policy.cache
        prompts = list(dict.fromkeys(prompts))
        known = [cache.find(prompt) if counts else cache.peek(prompt) for prompt in prompts]
        scores = [Scored(score, Cause.CACHE) for score in known if score is not None]
        if len(scores) == len(known):  # the common case of a prompt seen before needs no task
            return max(scores)
        new = [prompt for prompt, score in zip(prompts, known, strict=True) if score is None]
        computing = [cache.compute(prompt, self._compute) if counts else self._compute(prompt) for prompt in new]
        return max([*scores, *await asyncio.gather(*computing)])

    async def _compute(self, prompt: Prompt) -> Scored:
        if self._encoder is None or self._scorer is None:
            raise TierUnavailable("the router is loading")
        vector = await self._encoder.embed(prompt.text)
        if self.vectors is not None:
            self.vectors.keep(prompt, vector)
        score = self._scorer.score(prompt, vector)
        if not 0 <= score <= 10:  # nor is NaN
            raise ValueError("the scorer left 0 to 10")
        if self._second is None or not self._second.is_wanted(score):
            return Scored(score)
        combined = await self._second.on(prompt.text, score)
        if combined is None:  # another time the assessor may answer
            return Scored(score, Cause.UNASSESSED, lasts=False)
        return Scored(combined, Cause.ASSESSED)


def _where_there_is_somebody(call: Call, decision: Decision, load: Load) -> Decision:
    """The other tier, where the one decided on can't answer now and the caller did not insist on it. Nothing is learnt
    of that: the tier comes back."""
    if call.forced is not None or load[decision.role] is not None or load[decision.role.other] is None:
        return decision
    return replace(decision, role=decision.role.other, cause=Cause.FAILOVER)


def build_router(config: "RouterConfig") -> Router:
    """The router, not yet started."""

    def load() -> tuple[Encoder, Scorer]:
        encoder = load_encoder(config.encoder)
        return encoder, build_scorer(config, encoder)

    def load_second(assessments: Assessments) -> SecondOpinion:
        assert config.assess is not None
        return SecondOpinion(config.assess, load_assessor(config.assess), assessments)

    return Router(load, build_policy(config), load_second if config.assess else None)
