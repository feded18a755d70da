"""Small charts as inline SVG. Colours come from the page's style sheet, so that they follow its
light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 36
COLORS = 8
DASHES = 3
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) by x under a name; `color` counts palette entries; `band` is (x, low, high)
    around the line.

    `faint` points are drawn thin behind it, such as the raw values of a smoothed line.
    """

    name: str
    color: int
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    faint: tuple[tuple[float, float], ...] = ()
    markers: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over a common x axis. `stacked`: the lines are shares that are piled up to 1."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    percent: bool = False
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> str:
        return _short(
            _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)
        )

    def y(self, value: float) -> str:
        return _short(
            HEIGHT
            - _BOTTOM
            - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - _TOP - _BOTTOM)
        )


def line_style(color: int) -> str:
    """CSS classes of a palette entry: where the colours begin again, the lines are dashed."""
    return f"c{color % COLORS} d{color // COLORS % DASHES}"


def svg(chart: Chart) -> str:
    """The chart as one SVG element; equal charts give equal text. Every text in it is escaped."""
    frame = _frame(chart)
    drawn = (
        _areas(chart, frame)
        if chart.stacked
        else "".join(_line(line, frame) for line in chart.lines)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">'
        f"{_axes(chart, frame)}{drawn}</svg>"
    )


def smooth(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Mean over a centred window of about a tenth of the points (at least 1), cut at both ends."""
    half = max(0, round(len(points) / 20))
    out = []
    for index, (x, _) in enumerate(points):
        window = points[max(0, index - half) : index + half + 1]
        out.append((x, sum(y for _, y in window) / len(window)))
    return tuple(out)


def _frame(chart: Chart) -> _Frame:
    xs = [x for line in chart.lines for x, _ in line.points]
    if chart.stacked:
        return _Frame(*_spread(min(xs), max(xs)), 0.0, 1.0)
    ys = [y for line in chart.lines for _, y in (*line.points, *line.faint)]
    ys += [edge for line in chart.lines for _, low, high in line.band for edge in (low, high)]
    step = _tick_step(min(0.0, *ys), max(ys))
    return _Frame(
        *_spread(min(xs), max(xs)),
        math.floor(min(0.0, *ys) / step) * step,
        max(step, math.ceil(max(ys) / step - 1e-9) * step),
    )


def _spread(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _tick_step(low: float, high: float) -> float:
    rough = (high - low if high > low else 1.0) / 4  # nothing but zeros: an axis up to 1
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough * 0.999)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    step = max(1.0, _tick_step(low, high)) if whole else _tick_step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]


def _axes(chart: Chart, frame: _Frame) -> str:
    parts = []
    bottom = HEIGHT - _BOTTOM
    for value in _ticks(frame.y_low, frame.y_high):
        label = f"{value * 100:.4g}%" if chart.percent or chart.stacked else f"{value:.4g}"
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y}" dy=".32em" '
            f'text-anchor="end">{label}</text>'
        )
    for value in _ticks(frame.x_low, frame.x_high, whole=True):
        parts.append(
            f'<text class="tick" x="{frame.x(value)}" y="{bottom + 15}" '
            f'text-anchor="middle">{value:.6g}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    )
    middle = _short((_LEFT + WIDTH - _RIGHT) / 2)
    parts.append(
        f'<text class="tick" x="{middle}" y="{HEIGHT - 5}" '
        f'text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    return "".join(parts)


def _line(line: Line, frame: _Frame) -> str:
    parts = [f'<g class="{line_style(line.color)}"><title>{escape(line.name)}</title>']
    if line.band:
        edge = [(x, high) for x, _, high in line.band] + [
            (x, low) for x, low, _ in reversed(line.band)
        ]
        parts.append(f'<polygon class="band" points="{_path(edge, frame)}"/>')
    if line.faint:
        parts.append(f'<polyline class="faint" points="{_path(line.faint, frame)}"/>')
    parts.append(f'<polyline class="line" points="{_path(line.points, frame)}"/>')
    if line.markers or len(line.points) == 1:
        parts += [
            f'<circle r="3" cx="{frame.x(x)}" '
            f'cy="{frame.y(y)}"><title>{escape(f"{line.name}: {y:.4g} at {x:g}")}'
            "</title></circle>"
            for x, y in line.points
        ]
    return "".join([*parts, "</g>"])


def _areas(chart: Chart, frame: _Frame) -> str:
    parts = []
    floor = {x: 0.0 for line in chart.lines for x, _ in line.points}
    for line in chart.lines:
        top = {x: floor[x] + y for x, y in line.points}
        edge = list(top.items()) + [(x, floor[x]) for x in reversed(top)]
        title = f"<title>{escape(line.name)}</title>"
        parts.append(
            f'<polygon class="area k{line.color}" points="{_path(edge, frame)}">{title}</polygon>'
        )
        floor |= top
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], frame: _Frame) -> str:
    return " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.1f}"
