"""A report's figures in words, for terminal and page alike; empty or honest where there are none."""

from datetime import UTC, datetime

from tierserve.quality.report.figures import LEAST_PRICED, LINE, Money, Part, Report, Share


def heading(report: Report) -> str:
    key = "" if report.key is None else f" of key {report.key or '(none)'}"
    since = "the beginning" if report.since <= 0 else _when(report.since)
    return f"{count(report.all.requests)} requests{key}, {since} to {_when(report.until)} UTC"


def findings(report: Report) -> list[str]:
    """What an operator should know first, a sentence each."""
    whole = report.all
    if not whole.requests:
        return ["Nothing was decided in this time."]
    found = [_saving(whole.money, whole.requests)]
    if whole.large.count:
        found.append(f"{_against_line(whole.large)} of what was routed ended on the large tier.")
    if whole.escalated.count:
        found.append(f"{share(whole.escalated)} of the small tier's judged answers were escalated.")
    if whole.failed:
        found.append(f"{count(whole.failed)} requests were not answered, or broken off.")
    return found


def share(of: Share) -> str:
    if of.value is None or of.interval is None:
        return "-"
    low, high = of.interval
    return f"{100 * of.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def saving(money: Money) -> str:
    """With its sign: `+62.1 % (+60.9 to +63.3)`."""
    if money.saving is None:
        return "-"
    text = f"{100 * money.saving:+.1f} %"
    if money.interval is None:
        return f"{text} (too few)"
    return f"{text} ({100 * money.interval[0]:+.1f} to {100 * money.interval[1]:+.1f})"


def amount(value: float, money: Money | None = None) -> str:
    return "-" if money is not None and not money.priced else f"{value:.4g}"


def count(value: int) -> str:
    return f"{value:,}"


def seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def cells(part: Part) -> list[str]:
    """Of PART_HEAD."""
    money = part.money
    return [
        count(part.requests),
        "-" if part.large.value is None else f"{100 * part.large.value:.1f} %",
        "-" if part.escalated.value is None else f"{100 * part.escalated.value:.1f} %",
        count(part.tokens),
        amount(money.spent, money),
        amount(money.all_large, money),
        saving(money),
        count(part.failed),
    ]


PART_HEAD = ["requests", "large", "escalated", "tokens", "spent", "all large", "saving (95 %)", "failed"]


def _saving(money: Money, requests: int) -> str:
    if not money.priced:
        return "No request has a cost: set `cost:` in the node's configuration to see a saving."
    of = "" if money.priced == requests else f" ({count(money.priced)} of {count(requests)} requests have a cost)"
    if money.saving is None:
        return f"Spent {amount(money.spent)}; no tier answered, so there is nothing to compare with{of}."
    verb = "less" if money.saved >= 0 else "MORE"
    text = (
        f"Spent {amount(money.spent)} where the large tier alone would have cost {amount(money.all_large)}: "
        f"{amount(abs(money.saved))} {verb}, a saving of {saving(money)}{of}."
    )
    if money.interval is None:
        return f"{text} An interval needs {LEAST_PRICED} requests with a cost, {LEAST_PRICED - money.priced} more."
    if money.interval[0] < 0 < money.interval[1]:
        text += " It can't be told from none."
    return text


def _against_line(large: Share) -> str:
    assert large.interval is not None
    low, high = large.interval
    side = "above" if low > LINE else "below" if high < LINE else "not clearly on either side of"
    return f"{share(large)}, {side} the {100 * LINE:.0f} % line,"


def _when(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")
