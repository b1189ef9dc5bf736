"""What shadow comparisons in a decision log teach: their verdicts as outcomes, to fit a head to."""

from pathlib import Path
from typing import Final

import numpy as np

from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.quality.outcomes import Outcomes
from tierserve.telemetry.decisions.reading import reading

# Of the small and the large model, 1: as good as any.
_SCORES: Final = {"small": (1.0, 0.0), "large": (0.0, 1.0), "tie": (1.0, 1.0)}


def read_logged(path: Path) -> Outcomes:
    """A row for each pair whose prompt is kept. Raises ConfigError where there is none."""
    with reading(path) as decisions:
        rows, compared = decisions.judged_prompts()
    if not rows:
        raise ConfigError(
            str(path),
            f"holds {compared} comparisons, none of them with its prompt" if compared else "holds no comparisons",
            "set decisions.text: true, and let shadow comparisons run",
        )
    small, large = np.array([_SCORES[row["verdict"]] for row in rows]).T
    prompts = [Prompt(row["prompt"], row["turns"]) for row in rows]
    sources = [f"{row['small_tier']} and {row['large_tier']}" for row in rows]
    return Outcomes(prompts, small, large, np.array(sources), np.array([""] * len(rows)))
