"""A report at a terminal."""

import textwrap
from collections.abc import Iterator, Sequence

from tierserve.quality.report.figures import BINS, PERCENTILES, Report
from tierserve.quality.report.words import PART_HEAD, cells, count, findings, heading, seconds
from tierserve.telemetry.decisions.printing import visible

_WIDTH = 100


def as_text(report: Report) -> str:
    """The whole report; what there is no data for is left out."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield heading(report)
    yield ""
    for finding in findings(report):
        yield from textwrap.wrap(finding, _WIDTH)
    if not report.all.requests:
        return
    if report.tiers:
        yield from table(TIER_HEAD, tier_rows(report))
    yield from table(["cause", *tier_names(report)], cause_rows(report))
    yield from table(["ended", "requests"], [[status, count(n)] for status, n in report.statuses.most_common()])
    if any(report.confidences):
        yield from table(["confidence", "answers"], confidence_rows(report))
        yield f"mean confidence {report.mean_confidence:.3f}; {count(report.wasted_tokens)} tokens wasted"
    yield from table(["day (UTC)", *PART_HEAD], [[day, *cells(part)] for day, part in report.days.items()])
    yield from table(["key", *PART_HEAD], [[key or "(none)", *cells(part)] for key, part in report.keys.items()])


TIER_HEAD = [
    *("tier", "requests", "tokens in", "out"),
    f"first byte p{' / '.join(map(str, PERCENTILES))}",
    f"total p{' / '.join(map(str, PERCENTILES))}",
]


def tier_rows(report: Report) -> list[list[str]]:
    return [
        [
            name,
            count(tier.requests),
            count(tier.prompt_tokens),
            count(tier.completion_tokens),
            " / ".join(map(seconds, tier.first_byte_s)) or "-",
            " / ".join(map(seconds, tier.total_s)) or "-",
        ]
        for name, tier in report.tiers.items()
    ]


def tier_names(report: Report) -> list[str]:
    """Those that answered, and `none` where there were requests that nobody did."""
    return list(dict.fromkeys([*report.tiers, *(name for tiers in report.causes.values() for name in tiers)]))


def cause_rows(report: Report) -> list[list[str]]:
    ordered = sorted(report.causes.items(), key=lambda cause: -sum(cause[1].values()))
    return [[cause, *(count(tiers.get(name, 0)) for name in tier_names(report))] for cause, tiers in ordered]


def confidence_rows(report: Report) -> list[list[str]]:
    return [[f"{n / BINS:.1f} to {(n + 1) / BINS:.1f}", count(found)] for n, found in enumerate(report.confidences)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    shown = [head, *([visible(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    yield ""
    for number, row in enumerate(shown):
        first, *others = row
        yield "  ".join(
            [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        ).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)
