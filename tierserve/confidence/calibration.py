"""From what an estimator says to how often that was right: an isotonic regression's knots, in a file of JSON.

calibration = Calibration.load(Path("confidence.json"), "logprob minimum")
calibration(0.93)      # 0.71: of answers with this confidence 71 % were right
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tierserve.errors import ConfigError

_REMEDY = "write it with `tierserve calibrate confidence`"


@dataclass(frozen=True)
class Calibration:
    """`stated` and `right` are the knots, both rising: between them a straight line, beyond them the nearest.

    `estimator` names whose numbers it is for; `note` says, for people, what it was fitted to.
    """

    estimator: str
    stated: Sequence[float]
    right: Sequence[float]
    note: str = ""

    def __call__(self, confidence: float) -> float:
        return float(np.interp(confidence, self.stated, self.right))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, estimator: str) -> "Calibration":
        """Raises ConfigError where the file can't be read, or is for another estimator."""
        where = f"escalation.calibration: {path}"
        try:
            loaded = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(where, f"is no calibration ({error})", _REMEDY) from None
        if loaded.estimator != estimator:
            raise ConfigError(where, f"is for {loaded.estimator!r}, not for {estimator!r}", _REMEDY)
        if not (_rises(loaded.stated) and _rises(loaded.right) and len(loaded.stated) == len(loaded.right) > 0):
            raise ConfigError(where, "has knots that are not two rising lists of one length in 0 to 1", _REMEDY)
        return loaded


def _rises(values: Any) -> bool:
    numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    return numbers and values == sorted(values) and all(0 <= value <= 1 for value in values)
