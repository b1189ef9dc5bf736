"""`tierserve calibrate`: outcome files to a head and a threshold.

    head, report = calibrate(encoder, outcomes, traffic)
    head.save(path)

Which kind of head: of several sources, the one that ranks a source best which it was not fitted on, for the prompts to
come are of none of them; of one or two, or where all ask the same questions, the one that ranks questions best which it
was not fitted on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.fit import FEWEST, KINDS, Fitted, cross_ranks, cross_scores, fit_head, fit_rank, rank_of
from tierserve.quality.measures import Recovery
from tierserve.quality.outcomes import Outcomes
from tierserve.router.embedding.encoder import Encoder
from tierserve.router.scoring.head import Array, Head

T = TypeVar("T")

_BATCH: Final = 64
_FOLDS: Final = 5
_SEVERAL: Final = 3
_LEAST: Final = 50
_LEEWAY: Final = 0.01  # of the share
_RELATED: Final = 0.5
_DEFAULT_THRESHOLD: Final = 4.0


@dataclass(frozen=True, slots=True)
class Report:
    """`apgr`: of each kind that was tried, on prompts that it was not fitted on. `judged_by`: what was kept back."""

    kind: str
    apgr: dict[str, float]
    judged_by: str
    threshold: float


def calibrate(
    encoder: Encoder,
    questions: Outcomes | None,
    traffic: Outcomes | None,
    kinds: Sequence[str] = KINDS,
    large_share: float = 0.15,
    private: bool = False,
) -> tuple[Head, Report]:
    """A head fitted to `questions` (ranked by gain) and `traffic` (everyday prompts, simple or hard); one may be None.
    Of `private` questions it keeps no text.

    Its threshold sends `large_share` of the traffic, or else of the questions, to the large model. Raises ConfigError
    where the rows are too few, or teach nothing.
    """
    if questions is not None:
        _check(questions, "--data")
    if traffic is not None:
        _check(traffic, "--traffic")
        hard = int((traffic.gain > 0).sum())
        if min(hard, len(traffic) - hard) < FEWEST:
            problem = f"{hard} hard prompts and {len(traffic) - hard} simple ones"
            raise ConfigError("--traffic", problem, f"at least {FEWEST} of each are needed")
    fitted, everyday = (
        None if rows is None else Fitted(encode(encoder, rows.prompts), rows) for rows in (questions, traffic)
    )
    judged_by, apgr = _judged(fitted, kinds) if fitted is not None else ("", {})
    kind = max(apgr, key=lambda name: apgr[name]) if apgr else kinds[0]
    head = fit_head(fitted, everyday, kind, encoder.own, note=_note(questions, traffic, kind), private=private)
    threshold = threshold_for(cross_scores(head, fitted, everyday, kind), large_share)
    return replace(head, threshold=np.array(threshold, np.float32)), Report(kind, apgr, judged_by, threshold)


def threshold_for(scores: Array, large_share: float) -> float:
    """What sends this share of prompts with these scores to the large model; shape (n,).

    Where simple and hard lie far apart many thresholds have that share above them: the one nearest the default.
    """
    least, most = np.quantile(scores, np.clip(1 - large_share + np.array([-_LEEWAY, _LEEWAY]), 0, 1))
    return float(np.clip(_DEFAULT_THRESHOLD, least, most))


def encode(encoder: Encoder, prompts: Sequence[Prompt]) -> Array:
    """The prompts' vectors, shape (prompts, dimensions); with a progress bar where it takes long."""
    texts = sorted({prompt.text for prompt in prompts}, key=len)  # those of a batch are of one length: less padding
    vectors: dict[str, Array] = {}
    for start in _progress(range(0, len(texts), _BATCH), "encoding"):
        batch = texts[start : start + _BATCH]
        vectors |= zip(batch, encoder.encode(batch), strict=True)
    return np.stack([vectors[prompt.text] for prompt in prompts])


def _judged(questions: Fitted, kinds: Sequence[str]) -> tuple[str, dict[str, float]]:
    if len(kinds) == 1:
        return "", {}
    sources = [source for source in np.unique(questions.outcomes.sources) if _can_judge(questions, source)]
    if len(sources) < _SEVERAL:
        return "question", {kind: _apgr_within(questions, kind) for kind in _progress(kinds, "kinds")}
    by_kind = {
        kind: [_apgr_across(questions, source, kind) for source in sources] for kind in _progress(kinds, "kinds")
    }
    return "source", {kind: float(np.mean(values)) for kind, values in by_kind.items()}


def _apgr_within(questions: Fitted, kind: str) -> float:
    return Recovery(cross_ranks(questions, kind, _FOLDS), questions.outcomes.small, questions.outcomes.large).apgr()


def _can_judge(questions: Fitted, source: str) -> bool:
    """Whether a head can be fitted without this source, and there is something to recover in it."""
    others, own = without(questions, source)
    return len(others.outcomes) >= _LEAST and own.outcomes.gain.mean() > 0


def _apgr_across(questions: Fitted, source: str, kind: str) -> float:
    fitted, kept = without(questions, source)
    ranks = rank_of(fit_rank(fitted, kind), kept).astype(np.float64)
    return Recovery(ranks, kept.outcomes.small, kept.outcomes.large).apgr()


def without(questions: Fitted, source: str) -> tuple[Fitted, Fitted]:
    """The rows that have nothing to do with a source, and the source's own.

    Left out are its questions, wherever else they are asked, and whole sources that share most of theirs with it: they
    are of the same benchmark, answered by other models.
    """
    sources, asked = questions.outcomes.sources, questions.outcomes.questions()
    own = sources == source
    shared = np.isin(asked, asked[own])
    related = [name for name in np.unique(sources) if shared[sources == name].mean() > _RELATED]
    return questions[~shared & ~np.isin(sources, related)], questions[own]


def _check(outcomes: Outcomes, option: str) -> None:
    different = len(np.unique(outcomes.questions()))
    if different < _LEAST:
        problem = f"{different} different prompts are too few"
        raise ConfigError(option, problem, f"at least {_LEAST} are needed, hundreds to rank well")
    if not (outcomes.gain > 0).any() or outcomes.gain.mean() <= 0:
        raise ConfigError(option, "the large model is no better than the small one", "are the two exchanged?")
    if not (outcomes.gain <= 0).any():
        raise ConfigError(option, "the small model is worse on every row", "add prompts that it does well on")


def _note(questions: Outcomes | None, traffic: Outcomes | None, kind: str) -> str:
    parts = []
    if questions is not None:
        names, counts = np.unique(questions.sources, return_counts=True)
        parts.append(", ".join(f"{count} of {name}" for name, count in zip(names, counts, strict=True)) + f" ({kind})")
    if traffic is not None:
        parts.append(f"{len(traffic)} prompts of everyday traffic")
    return "; ".join(parts)


def _progress(items: Sequence[T], doing: str) -> Iterable[T]:
    shown: Iterable[T] = tqdm(items, desc=doing, disable=None, leave=False)
    return shown
