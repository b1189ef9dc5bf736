"""A drift report for people, and as JSON. Pure."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from tierserve.core import Measure
from tierserve.quality.drift.report import COMPARED, Finding, Level, Report, Window

_ABOUT: Final = {
    Measure.WIN_RATE: "small did as well as large",
    Measure.CALIBRATION: "confidence is off by",
    Measure.ESCALATION: "escalated, of those judged",
    Measure.SCORE: "score (change: PSI)",
    Measure.LARGE_SHARE: "answered by large",
}
_HEAD: Final = ("", "recent", "baseline", "change", "matters from", "p", "")


def as_json(report: Report) -> dict[str, Any]:
    return {
        "alarm": report.alarm,
        "alpha": report.limits.alpha,
        "recent": _window_json(report.recent),
        "baseline": _window_json(report.baseline),
        "measures": [asdict(finding) for finding in report.findings],
    }


def _window_json(window: Window) -> dict[str, Any]:
    return {
        "from": datetime.fromtimestamp(window.start, UTC).isoformat(timespec="seconds"),
        "to": datetime.fromtimestamp(window.end, UTC).isoformat(timespec="seconds"),
        "scored": len(window.scores),
        "routed": window.routed,
        "judged": window.judged,
        "comparisons": window.compared,
        "small_won": window.wins,
        "tied": window.ties,
        "large_won": window.losses,
        "mean_threshold": window.threshold,
    }


def as_text(report: Report) -> str:
    rows = [_HEAD, *(_row(finding) for finding in report.findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [_described("recent  ", report.recent), _described("baseline", report.baseline), ""]
    for label, *cells, verdict in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False))
        lines.append("  ".join([label.ljust(widths[0]), *padded, verdict]).rstrip())
    lines += [f"  {line}" for line in map(_missing, report.findings) if line]
    return "\n".join([*lines, "", _verdict(report)])


def in_brief(report: Report) -> dict[str, Any]:
    """For a page: what was found, in a sentence, and a line on each measure."""
    known = [
        f"{_ABOUT[each.measure]}: {_level(each.measure, each.recent)}, before {_level(each.measure, each.baseline)}"
        for each in report.findings
        if each.known
    ]
    missing = [line for line in map(_missing, report.findings) if line]
    return {"alarm": report.alarm, "summary": _verdict(report), "details": [*known, *missing]}


def _described(name: str, window: Window) -> str:
    start, end = (
        datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M") for moment in (window.start, window.end)
    )
    threshold = f", threshold {window.threshold:.2f}" if window.threshold is not None else ""
    compared = f"{window.compared} comparisons ({window.wins} won, {window.ties} tied, {window.losses} lost)"
    return f"{name}  {start} to {end} UTC: {window.routed} requests routed{threshold}; {compared}"


def _row(finding: Finding) -> tuple[str, ...]:
    measure, effect = finding.measure, finding.effect
    levels = (_level(measure, level) for level in (finding.recent, finding.baseline))
    change = "" if effect is None else f"{effect:.3f}" if measure is Measure.SCORE else f"{100 * effect:+.1f}"
    least = (
        f"{finding.least_effect:g}" if measure is Measure.SCORE else f"{_SIGNS[measure]}{100 * finding.least_effect:g}"
    )
    p = "" if finding.p is None else "< 0.0001" if finding.p < 1e-4 else f"{finding.p:.4f}"
    verdict = "ALARM" if finding.alarm else "" if finding.known else "too few"
    return (_ABOUT[measure], *levels, change, least, p, verdict)


_SIGNS: Final = {
    Measure.WIN_RATE: "-",
    Measure.CALIBRATION: "+",
    Measure.ESCALATION: "+-",
    Measure.LARGE_SHARE: "+-",
}


def _level(measure: Measure, level: Level) -> str:
    if level.value is None:
        return "-"
    if measure is Measure.SCORE:
        return f"{level.value:.2f}"
    interval = "" if level.low is None or level.high is None else f" ({100 * level.low:.1f} to {100 * level.high:.1f})"
    return f"{100 * level.value:.1f} %{interval}"


def _missing(finding: Finding) -> str:
    unit = "comparisons" if finding.measure in COMPARED else "requests"
    if finding.measure is Measure.CALIBRATION:
        unit += " with a confidence"
    parts = [
        f"{missing} more {unit} in the {window} window"
        for missing, window in ((finding.missing, "recent"), (finding.missing_baseline, "baseline"))
        if missing
    ]
    return f"{finding.measure} needs {' and '.join(parts)}" if parts else ""


def _verdict(report: Report) -> str:
    alarms = [finding.measure for finding in report.findings if finding.alarm]
    unknown = [finding.measure for finding in report.findings if not finding.known]
    if alarms:
        return f"ALARM: {', '.join(alarms)}"
    if len(unknown) == len(report.findings):
        return "nothing can be said yet"
    return "no drift found" + (f"; nothing can be said of {', '.join(unknown)}" if unknown else "")
