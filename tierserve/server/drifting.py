"""The drift report for the node's own metrics: made now and then, on a thread, from its decision log."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tierserve.config import DriftConfig, NodeConfig
from tierserve.telemetry.families.drift import WINDOWS, Drift
from tierserve.threads import load_beside, step_back

if TYPE_CHECKING:
    from tierserve.quality.drift.report import Report

log = logging.getLogger(__name__)

_HOUR_S: Final = 3600.0


class Drifting:
    """Does nothing where the node keeps no decision log."""

    def __init__(self, config: NodeConfig, metrics: Drift, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the time of day."""
        self._path = Path(config.decisions.path) if config.decisions else None
        self._options, self._metrics, self._clock = config.drift, metrics, clock
        self.brief: dict[str, Any] | None = None
        """The last report for a page; None before there is one."""

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at once and then every `drift.every_h`, for as long as the block runs."""
        task = asyncio.create_task(self._watch(), name="drift") if self._path else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> None:
        """Make a report and show it; what fails is logged, and what was shown before stays."""
        assert self._path is not None
        now = self._clock()
        try:
            report = await load_beside(partial(_report, self._path, self._options, now))
        except Exception as error:
            log.warning("drift was not looked for: %s", error)
            return
        self._show(report, now)

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._options.every_h * _HOUR_S)

    def _show(self, report: "Report", now: float) -> None:
        from tierserve.quality.drift.wording import in_brief  # loaded by now, with what made the report

        self.brief = in_brief(report)
        alarms, missing, values = {}, {}, {}
        for finding in report.findings:
            alarms[finding.measure] = finding.alarm
            for window, lacking, level in zip(
                WINDOWS, (finding.missing, finding.missing_baseline), (finding.recent, finding.baseline), strict=True
            ):
                missing[finding.measure, window], values[finding.measure, window] = lacking, level.value
        self._metrics.show(now, alarms, missing, values)
        if report.alarm:
            changed = ", ".join(measure for measure, alarm in alarms.items() if alarm)
            log.warning("drift: %s changed against the weeks before; `tierserve drift` says more", changed)


def _report(path: Path, options: DriftConfig, now: float) -> "Report":
    step_back()
    from tierserve.quality.drift.windows import drift  # scipy, which takes a second to import

    return drift(path, options, now)
