"""How well the second opinion tells which prompts the small model fails at, beside the embedding's score.

    python -m tierserve.lab outcomes --split heldout --out build/heldout.jsonl.gz
    python benchmarks/assessor_quality.py --data build/heldout.jsonl.gz

AUROC: the chance that a prompt which the small model got wrong scores above one which it got right; chance is 0.5, with
bootstrap 95 % intervals. `asked` is the share of prompts on which the assessor is asked, `auroc_asked` the AUROC among
those that lie in the band. `large` and `right` are what comes of it at the configuration's threshold: the share of
prompts that go to the large model, and of right answers.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from measurement import Measurement, arguments
from numpy.typing import NDArray
from tqdm import tqdm

from tierserve.config import RouterConfig, load
from tierserve.quality.answers import auroc
from tierserve.quality.calibrate import encode
from tierserve.quality.outcomes import Outcomes, read_outcomes
from tierserve.router.assessing.assessor import load_assessor
from tierserve.router.embedding.encoder import load_encoder
from tierserve.router.scoring.scorers import build_scorer

_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "lab.yaml"
_BATCH = 32
_RESAMPLES = 400
Floats = NDArray[np.float64]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="outcome files")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="the node whose router it is")
    options = parser.parse_args()
    router = load(options.config).router
    if router.assess is None:
        parser.error(f"{options.config} has no router.assess")
    outcomes = read_outcomes(options.data)
    rows = _rows(router, outcomes, 20 if options.quick else _RESAMPLES)
    Measurement("assessor_quality", rows).show(options)


def _rows(router: RouterConfig, outcomes: Outcomes, resamples: int) -> list[dict[str, Any]]:
    embedding, rating = _scores(router, outcomes)
    low, high = router.assess.band
    unsure = (embedding >= low) & (embedding <= high)
    both = (1 - router.assess.weight) * embedding + router.assess.weight * rating
    never, always = np.zeros_like(unsure), np.ones_like(unsure)
    cases = [
        ("embedding alone", embedding, never),
        ("assessor alone", rating, always),
        (f"both, within {low:g} to {high:g}", np.where(unsure, both, embedding), unsure),
        ("both, on every prompt", both, always),
    ]
    return [_row(*case, unsure, outcomes, router.threshold, resamples) for case in cases]


def _scores(router: RouterConfig, outcomes: Outcomes) -> tuple[Floats, Floats]:
    """The embedding's scores and the assessor's ratings, shape (prompts,) each."""
    encoder = load_encoder(router.encoder)
    scorer, assessor = build_scorer(router, encoder), load_assessor(router.assess)
    vectors = encode(encoder, outcomes.prompts)
    scores = [scorer.score(*each) for each in zip(outcomes.prompts, vectors, strict=True)]
    ratings: list[float] = []
    for start in tqdm(range(0, len(outcomes), _BATCH), desc="assessing", file=sys.stderr, disable=None):
        ratings += assessor.rate([prompt.text for prompt in outcomes.prompts[start : start + _BATCH]])
    return np.array(scores), np.array(ratings)


def _row(
    by: str,
    scores: Floats,
    asked: NDArray[np.bool_],
    unsure: NDArray[np.bool_],
    outcomes: Outcomes,
    threshold: float,
    resamples: int,
) -> dict[str, Any]:
    fails, large = outcomes.small < 1, scores > threshold
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(scores), len(scores)) for _ in range(resamples)]
    resampled = [auroc(scores[rows].tolist(), fails[rows].tolist()) for rows in drawn]
    least, most = np.nanpercentile(resampled, [2.5, 97.5])
    return {
        "by": by,
        "asked": float(asked.mean()),
        "auroc": auroc(scores.tolist(), fails.tolist()),
        "auroc_low": float(least),
        "auroc_high": float(most),
        "auroc_asked": auroc(scores[unsure].tolist(), fails[unsure].tolist()),
        "large": float(large.mean()),
        "right": float(np.where(large, outcomes.large, outcomes.small).mean()),
    }


if __name__ == "__main__":
    main()
