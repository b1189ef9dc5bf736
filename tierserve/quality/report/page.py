"""A report as one HTML file: nothing is loaded from elsewhere, nothing runs in it, and all text is escaped."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from tierserve import __version__
from tierserve.quality.report.charts import Line, Series, bars
from tierserve.quality.report.figures import BINS, LINE, Report
from tierserve.quality.report.tables import TIER_HEAD, cause_rows, tier_names, tier_rows
from tierserve.quality.report.words import PART_HEAD, cells, count, findings, heading

# Keys and days in a table; the rest is in --json.
_MOST_ROWS: Final = 100
_NO_CODE: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5d6670; --page: #fff; --rule: #d9dee3;
  --c0: #2f7d6d; --c1: #c8632b; --c2: #8b96a1; --limit: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --dim: #9aa4ae; --page: #14181c; --rule: #323a42;
  --c0: #4fb39c; --c1: #e58a52; --c2: #6d7883; --limit: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2.5rem 0 .5rem }
.dim, figcaption { color: var(--dim) }
ul { padding-left: 1.2rem } li { margin: .3rem 0; max-width: 46rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem }
figure { margin: 0; min-width: 0 } svg { width: 100%; height: auto; display: block }
svg text { font-size: 12px; fill: var(--dim) } svg .x { text-anchor: middle } svg .y { text-anchor: end }
svg .grid { stroke: var(--rule) } svg line.limit { stroke: var(--limit); stroke-dasharray: 5 4 }
svg text.limit { fill: var(--limit) }
.c0 { fill: var(--c0); background: var(--c0) } .c1 { fill: var(--c1); background: var(--c1) }
.c2 { fill: var(--c2); background: var(--c2) }
.legend span { margin-right: 1rem; font-size: .85rem; color: var(--dim) }
.legend i { display: inline-block; width: .7rem; height: .7rem; margin-right: .35rem; border-radius: 2px }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule) }
th { color: var(--dim); font-weight: 600 } th:first-child, td:first-child { text-align: left }
"""


def page(report: Report) -> str:
    """The whole file."""
    body = "\n".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="content-security-policy" content="{_NO_CODE}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tierserve: {escape(heading(report))}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    yield f'<h1>What tierserve did</h1><p class="dim">{escape(heading(report))}</p>'
    yield "<ul>" + "".join(f"<li>{escape(finding)}</li>" for finding in findings(report)) + "</ul>"
    if report.all.requests:
        yield f'<div class="charts">{"".join(_charts(report))}</div>'
        yield _table("By tier", TIER_HEAD, tier_rows(report))
        yield _table("Why", ["cause", *tier_names(report)], cause_rows(report))
        yield _table("How it ended", ["ended", "requests"], [[s, count(n)] for s, n in report.statuses.most_common()])
        yield _table("By day (UTC)", ["day", *PART_HEAD], [[day, *cells(part)] for day, part in report.days.items()])
        yield _table(
            "By key", ["key", *PART_HEAD], [[key or "(none)", *cells(part)] for key, part in report.keys.items()]
        )
    yield (
        '<p class="dim">large: of what the router had a choice in, with escalations. escalated: of the small tier\'s '
        "answers that were judged. saving: against the large tier alone, with a 95 % interval (normal approximation of "
        f"a ratio). tierserve {escape(__version__)}</p>"
    )


def _charts(report: Report) -> Iterator[str]:
    days = list(report.days)
    parts = list(report.days.values())
    # How many ended on each tier, of what was routed, and what was not.
    large = [part.large.part for part in parts]
    small = [part.large.count - part.large.part for part in parts]
    others = [part.requests - part.large.count for part in parts]
    yield bars(
        "Requests a day",
        [day[5:] for day in days],
        [
            Series("routed, small", small, "c0"),
            Series("routed, large", large, "c1"),
            Series("forced, or not answered", others, "c2"),
        ],
    )
    yield bars(
        "Large tier's share of what was routed",
        [day[5:] for day in days],
        [Series("", [100 * (part.large.value or 0) for part in parts], "c1")],
        " %",
        Line(100 * LINE, f"{100 * LINE:.0f} %"),
    )
    if report.all.money.priced:
        yield bars(
            "Saved a day, against the large tier alone",
            [day[5:] for day in days],
            [Series("", [part.money.saved for part in parts], "c0")],
        )
    if any(report.scores):
        threshold = report.threshold
        yield bars(
            "Scores of prompts",
            [f"{n}-{n + 1}" for n in range(BINS)],
            [Series("", report.scores, "c0")],
            line=Line(threshold / 10, f"threshold {threshold:g}", upright=True) if threshold is not None else None,
        )
    if any(report.confidences):
        yield bars(
            "Confidence in the small tier's answers",
            [f"{n / BINS:.1f}" for n in range(BINS)],
            [Series("", report.confidences, "c0")],
        )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown, left = rows[-_MOST_ROWS:] if title.startswith("By day") else rows[:_MOST_ROWS], len(rows) - _MOST_ROWS
    return (
        f"<h2>{escape(title)}</h2>"
        f'<div class="scroll"><table><thead><tr>{_cells("th", head)}</tr></thead><tbody>'
        + "".join(f"<tr>{_cells('td', row)}</tr>" for row in shown)
        + "</tbody></table></div>"
        + (f'<p class="dim">{left} more rows are in <code>--json</code>.</p>' if left > 0 else "")
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
