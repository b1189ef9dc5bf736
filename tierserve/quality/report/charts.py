"""Charts as inline SVG: no library, no script. Colours are the page's, by class. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 640
_HEIGHT: Final = 220
_LEFT: Final = 46
_BOTTOM: Final = 26
_TOP: Final = 12
_LABELS: Final = 8  # as many as fit under the axis of a phone


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of the bars, `c0` to `c4`; a value for each label."""

    name: str
    values: Sequence[float]
    colour: str


@dataclass(frozen=True, slots=True)
class Line:
    """Across a chart: at a height, or, `upright`, at a place between 0 and 1 of its width."""

    at: float
    name: str
    upright: bool = False


def bars(title: str, labels: Sequence[str], stacked: Sequence[Series], unit: str = "", line: Line | None = None) -> str:
    """Stacked bars, from zero or, where values are negative, on both sides of it. Each bar says its values when it is
    pointed at."""
    totals = [sum(max(0.0, series.values[n]) for series in stacked) for n in range(len(labels))]
    lows = [sum(min(0.0, series.values[n]) for series in stacked) for n in range(len(labels))]
    top = max([*totals, line.at if line and not line.upright else 0.0]) or 1.0
    low = min([*lows, 0.0])
    high = top * 1.05

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    step = (_WIDTH - _LEFT) / max(1, len(labels))
    parts = [_axis(value, y(value), unit) for value in _ticks(low, top)]
    for n, label in enumerate(labels):
        parts.append(_bar(n, label, stacked, step, y, unit))
        if n % max(1, -(-len(labels) // _LABELS)) == 0:
            parts.append(f'<text x="{_LEFT + (n + 0.5) * step:.1f}" y="{_HEIGHT - 8}" class="x">{escape(label)}</text>')
    if line is not None:
        parts.append(_line(line, y))
    legend = "".join(
        f'<span><i class="{series.colour}"></i>{escape(series.name)}</span>' for series in stacked if series.name
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _bar(n: int, label: str, stacked: Sequence[Series], step: float, y: Callable[[float], float], unit: str) -> str:
    up = down = 0.0
    rects = []
    for series in stacked:
        value = series.values[n]
        if not value:
            continue
        start = up if value > 0 else down
        top, bottom = y(max(start, start + value)), y(min(start, start + value))
        rects.append(
            f'<rect x="{_LEFT + n * step + step * 0.1:.1f}" y="{top:.1f}" width="{step * 0.8:.1f}" '
            f'height="{max(bottom - top, 0.5):.1f}" class="{series.colour}"/>'
        )
        up, down = (start + value, down) if value > 0 else (up, start + value)
    said = ", ".join(f"{series.name} {series.values[n]:.4g}{unit}".strip() for series in stacked)
    return f"<g><title>{escape(f'{label}: {said}')}</title>{''.join(rects)}</g>"


def _axis(value: float, at: float, unit: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>'
        f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" class="y">{_short(value)}{escape(unit)}</text>'
    )


def _line(line: Line, y: Callable[[float], float]) -> str:
    if line.upright:
        x = _LEFT + line.at * (_WIDTH - _LEFT)
        place = f'x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
        anchor = "end" if line.at > 0.6 else "start"
        label = f'x="{x + (-5 if line.at > 0.6 else 5):.1f}" y="{_TOP + 10}" style="text-anchor:{anchor}"'
    else:
        place = f'x1="{_LEFT}" x2="{_WIDTH}" y1="{y(line.at):.1f}" y2="{y(line.at):.1f}"'
        label = f'x="{_WIDTH - 4}" y="{y(line.at) - 5:.1f}" style="text-anchor:end"'
    return f'<line {place} class="limit"/><text {label} class="limit">{escape(line.name)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About four round values between both, zero among them."""
    exponent = math.floor(math.log10((high - low) / 4))
    step = next(step for each in (1, 2, 5, 10) if (high - low) / (step := each * 10.0**exponent) <= 6)
    first = -int(-low / step) if low < 0 else 0
    return [n * step for n in range(first, int(high / step) + 1)]


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:.3g}"
