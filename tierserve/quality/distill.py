"""`tierserve distill`: what the assessor would say, fitted into a head, so that it costs nothing at run time.

    ratings = assess(assessor, prompts, kept, key)      # hours for a large file: goes on where it was interrupted
    head, report = distill(encoder, base, prompts, ratings, weight=0.5)
    head.save(path)

The new head gives each prompt the score that the router would give it by asking the assessor about every one: `weight`
of the rating, the rest of the base head's score. It needs no outcomes; where there are some, `tierserve evaluate` says
whether it routes better than the base.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm  # type: ignore[import-untyped]

from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.calibrate import encode, threshold_for
from tierserve.quality.fit import KINDS, Fitted, cross_ranks, fit_opinions
from tierserve.quality.measures import Floats
from tierserve.quality.outcomes import Outcomes
from tierserve.router.assessing.opinion import Rater
from tierserve.router.embedding.encoder import Encoder
from tierserve.router.scoring.head import Head, probability

_BATCH: Final = 4  # no more at run time: where the assessor is slow, its arithmetic is what takes long
_FOLDS: Final = 5
_LEAST: Final = 50


@dataclass(frozen=True, slots=True)
class Report:
    """Spearman's rank correlation with the assessor's ratings: `before` of the base head; `kept` of each kind of head
    that was tried, on prompts that it was not fitted on."""

    kind: str
    before: float
    kept: dict[str, float]
    threshold: float


def assess(rater: Rater, prompts: Sequence[Prompt], store: Path, key: str) -> Floats:
    """Ratings, 0..10, shape (prompts,). `store` keeps each as it comes, by a digest of `key`, which says who rates, and
    of the text: an interrupted run goes on, and another assessor's are not taken for these. Raises ConfigError."""
    digests = [_digest(f"{key}\0{prompt.text}") for prompt in prompts]
    known = _stored(store)
    missing = {digest: prompt.text for digest, prompt in zip(digests, prompts, strict=True) if digest not in known}
    todo = sorted(missing, key=lambda digest: len(missing[digest]))  # those of a batch are of one length: less padding
    try:
        with (
            store.open("a", encoding="utf-8") as file,
            tqdm(total=len(prompts), initial=len(prompts) - len(todo), desc="assessing", disable=None) as progress,
        ):
            if file.tell() and not store.read_bytes().endswith(b"\n"):
                file.write("\n")  # an earlier run was killed while it wrote
            for start in range(0, len(todo), _BATCH):
                batch = todo[start : start + _BATCH]
                for digest, rating in zip(batch, rater.rate([missing[each] for each in batch]), strict=True):
                    known[digest] = rating
                    file.write(json.dumps({"prompt": digest, "rating": rating}) + "\n")
                file.flush()
                progress.update(len(batch))
    except OSError as error:
        raise ConfigError(str(store), f"can't be written ({error.strerror})", "name another --out") from None
    return np.array([known[digest] for digest in digests])


def distill(
    encoder: Encoder, base: Head, prompts: Sequence[Prompt], ratings: Floats, weight: float, large_share: float = 0.15
) -> tuple[Head, Report]:
    """A head of the kind that keeps the assessor's ranking best, and how much that is. Raises ConfigError where the
    prompts are too few or the assessor makes no difference between them."""
    vectors = encode(encoder, prompts)
    rows = Fitted(vectors, _as_outcomes(prompts, np.zeros(len(prompts))))
    if (different := len(np.unique(rows.outcomes.questions()))) < _LEAST:
        raise ConfigError("--prompts", f"{different} different prompts are too few", f"at least {_LEAST} are needed")
    if np.ptp(ratings) < 1e-3:
        raise ConfigError("--prompts", "the assessor rates all of them alike", "add easier and harder ones")
    before = base.scores(vectors, rows.surface()).astype(np.float64)
    target = ((1 - weight) * before + weight * ratings) / 10
    rows = Fitted(vectors, _as_outcomes(prompts, target))
    ranks = {kind: cross_ranks(rows, kind, _FOLDS) for kind in tqdm(KINDS, desc="kinds", disable=None, leave=False)}
    kept = {kind: _spearman(values, ratings) for kind, values in ranks.items()}
    kind = max(kept, key=lambda name: kept[name])
    note = f"{len(prompts)} ratings of an assessor, {weight:g} of the score ({kind}); the rest: {base.note}"
    head = fit_opinions(rows, ranks[kind], kind, encoder.own, note)
    logits = head.calibration[0] * ranks[kind] + head.calibration[1]
    threshold = threshold_for(10 * probability(logits.astype(np.float32)), large_share)
    head = replace(
        head,
        threshold=np.array(threshold, np.float32),
        example_texts=base.example_texts,
        example_hard=base.example_hard,
        example_vectors=base.example_vectors,
    )
    return head, Report(kind, _spearman(before, ratings), kept, threshold)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _as_outcomes(prompts: Sequence[Prompt], chances: Floats) -> Outcomes:
    """As if the large model never failed, and the small one by these chances."""
    same = np.full(len(prompts), "assessor")
    return Outcomes(prompts, 1 - chances, np.ones(len(prompts)), same, same)


def _spearman(scores: Floats, ratings: Floats) -> float:
    """0 where all score alike: no ranking, none kept."""
    return float(spearmanr(scores, ratings).statistic) if np.ptp(scores) > 0 else 0.0


def _stored(store: Path) -> dict[str, float]:
    """Ratings of earlier runs; a line that was being written when one was killed is left out."""
    try:
        lines = store.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(store), f"can't be read ({error})", "remove it, or name another --out") from None
    known = {}
    for line in lines:
        try:
            row = json.loads(line)
            known[str(row["prompt"])] = float(row["rating"])
        except (ValueError, KeyError, TypeError):
            continue
    return known
