"""How well the router spends the large model's calls, on outcome files of real models.

    python benchmarks/routing_quality.py --data OUTCOMES.jsonl.gz ...

Measured, by APGR (0.5 is chance; quality/measures.py says what it is), with bootstrap 95 % intervals:

inside   each source by itself, 5-fold cross-validation that divides by the question: every kind of head, beside the
         length, the article's seeds, and a linear head on the sentence's own vector alone
across   each source by a head that was fitted without any question of its benchmark, as prompts to come are of none
traffic  the mix in benchmarks/traffic.jsonl, each half by a head fitted to the other half and all outcomes: AUROC for
         telling hard from simple, and the large tier's share at the default threshold
cut      with --cuts 64 128: `inside` again, with only so many tokens of a prompt read

The targets are about the sources routellm-mmlu and routellm-gsm8k, where these are among the data.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measurement import Measurement, Target, arguments
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from tierserve.config import EncoderConfig
from tierserve.quality.calibrate import encode, without
from tierserve.quality.fit import KINDS, Fitted, cross_ranks, fit_head, fit_rank, rank_of
from tierserve.quality.measures import measure
from tierserve.quality.outcomes import Outcomes, read_outcomes
from tierserve.router.embedding.encoder import load_encoder
from tierserve.router.scoring.length import LengthScorer
from tierserve.router.scoring.seeds import SeedScorer

_TRAFFIC = Path(__file__).with_name("traffic.jsonl")
_THRESHOLD = 4.0
_FOLDS = 5
_QUICK_ROWS = 150
# RouteLLM's names for its cached evaluations, and what is to be reached inside and across.
_BOUNDS = {"routellm-mmlu": ("mmlu", 0.70, 0.61), "routellm-gsm8k": ("gsm8k", 0.66, 0.62)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="outcome files")
    parser.add_argument("--cuts", type=int, nargs="*", default=[], metavar="TOKENS", help="other values of max_tokens")
    options = parser.parse_args()
    outcomes, traffic = read_outcomes(options.data), read_outcomes([_TRAFFIC])
    if options.quick:
        outcomes = outcomes[np.concatenate([rows[:_QUICK_ROWS] for _, rows in _by_source(outcomes)])]
    encoder = load_encoder(EncoderConfig())
    seeds = SeedScorer(encoder)
    questions, everyday = (Fitted(encode(encoder, rows.prompts), rows) for rows in (outcomes, traffic))
    rows = []
    for source, where in tqdm(list(_by_source(outcomes)), desc="sources", file=sys.stderr, disable=None):
        if questions[where].outcomes.gain.mean() <= 0:
            print(f"{source}: the large model is no better there, nothing to measure", file=sys.stderr)
            continue
        rows += _inside(source, questions[where], encoder.own, seeds)
        rows.append(_across(source, questions))
    rows += _traffic(questions, everyday, encoder.own)
    for tokens in options.cuts:
        rows += _cut(tokens, outcomes)
    Measurement("routing_quality", rows, _targets(rows)).show(options)


def _by_source(outcomes: Outcomes) -> Iterator[tuple[str, Any]]:
    for source in np.unique(outcomes.sources):
        yield str(source), np.flatnonzero(outcomes.sources == source)


def _inside(source: str, questions: Fitted, own: int, seeds: SeedScorer) -> list[dict[str, Any]]:
    prompts = list(zip(questions.outcomes.prompts, questions.vectors, strict=True))
    scores = {
        "seeds": np.array([seeds.score(*prompt) for prompt in prompts]),
        "length": np.array([LengthScorer().score(*prompt) for prompt in prompts]),
        "linear, sentence vector": cross_ranks(
            Fitted(questions.vectors[:, :own], questions.outcomes), "linear", _FOLDS
        ),
    }
    scores |= {kind: cross_ranks(questions, kind, _FOLDS) for kind in KINDS}
    return [_row("inside", source, name, questions.outcomes, values) for name, values in scores.items()]


def _across(source: str, questions: Fitted) -> dict[str, Any]:
    others, own = without(questions, source)
    if not len(others.outcomes):
        return _row("across", source, "nothing to fit on", own.outcomes, np.zeros(len(own.outcomes)))
    return _row("across", source, "linear", own.outcomes, rank_of(fit_rank(others, "linear"), own))


def _cut(tokens: int, outcomes: Outcomes) -> list[dict[str, Any]]:
    encoder = load_encoder(EncoderConfig(max_tokens=tokens))
    questions = Fitted(encode(encoder, outcomes.prompts), outcomes)
    return [
        _row(f"cut at {tokens}", source, kind, outcomes[where], cross_ranks(questions[where], kind, _FOLDS))
        for source, where in _by_source(outcomes)
        for kind in ("linear", "kernel")
    ]


def _traffic(questions: Fitted, everyday: Fitted, own: int) -> list[dict[str, Any]]:
    half = everyday.outcomes.folds(2, seed=0)
    rows = []
    for kept in (0, 1):
        head = fit_head(questions, everyday[half != kept], "linear", own)
        judged = everyday[half == kept]
        scores, hard = head.scores(judged.vectors, judged.surface()), judged.outcomes.gain > 0
        rows.append(
            _cells("traffic", f"half {kept + 1}", "as the default, fitted to the rest", len(hard))
            | {"auroc": float(roc_auc_score(hard, scores)), "large_share": float((scores > _THRESHOLD).mean())}
        )
    return rows


def _row(measured: str, source: str, by: str, outcomes: Outcomes, scores: Any) -> dict[str, Any]:
    found = measure(np.asarray(scores, np.float64), outcomes.small, outcomes.large)
    apgr = found["apgr"]
    return _cells(measured, source, by, len(outcomes)) | {
        "apgr": apgr.value,
        "low": apgr.low,
        "high": apgr.high,
        "cpt50": found["cpt50"].value,
        "cpt80": found["cpt80"].value,
    }


def _cells(measured: str, source: str, by: str, rows: int) -> dict[str, Any]:
    empty = dict.fromkeys(("apgr", "low", "high", "cpt50", "cpt80", "auroc", "large_share"), "")
    return {"measured": measured, "source": source, "by": by, "rows": rows} | empty


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    targets = []
    for source, (name, inside, across) in _BOUNDS.items():
        found = [row for row in rows if row["source"] == source]
        kinds = (row["apgr"] for row in found if row["measured"] == "inside" and row["by"] in KINDS)
        best = max(kinds, default=None)
        transferred = [row["apgr"] for row in found if row["measured"] == "across"]
        if best is not None and transferred:
            targets.append(Target(f"{name}_apgr_inside", best, inside, "higher"))
            targets.append(Target(f"{name}_apgr_across", transferred[0], across, "higher"))
    halves = [row for row in rows if row["measured"] == "traffic"]
    shares = [row["large_share"] for row in halves]
    return [
        *targets,
        Target("traffic_auroc", min(row["auroc"] for row in halves), 0.95, "higher"),
        Target("traffic_large_share_least", min(shares), 0.10, "higher"),
        Target("traffic_large_share_most", max(shares), 0.20, "lower"),
    ]


if __name__ == "__main__":
    main()
