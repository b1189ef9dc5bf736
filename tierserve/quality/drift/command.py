"""`tierserve drift`: what it prints, and the exit status that a timer acts on."""

import json
from pathlib import Path

from tierserve.config import DriftConfig
from tierserve.quality.drift.windows import drift
from tierserve.quality.drift.wording import as_json, as_text

ALARM_STATUS = 3


def report_drift(path: Path, config: DriftConfig, now: float, json_only: bool) -> int:
    report = drift(path, config, now)
    print(json.dumps(as_json(report)) if json_only else as_text(report))
    return ALARM_STATUS if report.alarm else 0
