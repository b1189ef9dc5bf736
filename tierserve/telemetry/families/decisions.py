"""What the decision log wrote."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry

from tierserve.telemetry.decisions.writer import REASONS
from tierserve.telemetry.families.watched import Watched


class Decisions:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Watched(registry, "tierserve_decision_log_rows", "Rows written to the decision log.")
        self._dropped = Watched(
            registry,
            "tierserve_decision_log_dropped",
            "Rows that were not written: the queue was full because the writer was too slow (queue), another process "
            "held the file (locked), or the disk took nothing (disk); or the row itself failed (error).",
            ["reason"],
            [[reason] for reason in REASONS],
        )

    def watch(self, rows: Callable[[], float], dropped: Mapping[str, Callable[[], float]]) -> None:
        self._rows.watch(rows)
        for reason, count in dropped.items():
            self._dropped.watch(count, reason)
