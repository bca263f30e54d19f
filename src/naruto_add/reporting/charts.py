"""Line charts as SVG. Their colours are CSS variables of the page, so that they follow its light or dark theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 10, 40
"""Margins for the tick labels and the names of the axes."""
MAX_POINTS = 400
NUM_TICKS = 5
DECADE = 10.0


@dataclass(frozen=True)
class Point:
    """A value, and an optional label that is drawn next to it."""

    x: float
    y: float
    label: str = ""


@dataclass(frozen=True)
class Series:
    """One line, and its name in the legend."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """Lines over one x axis."""

    title: str
    x_name: str
    series: Sequence[Series]
    log_x: bool
    y_name: str = ""
    """Empty if the lines are different quantities, which the legend names."""

    @property
    def svg(self) -> Markup:
        """The chart as an SVG element. Its lines have the CSS classes `line0`, `line1`, ..."""
        return _draw(self)


@dataclass(frozen=True)
class Axis:
    """The range of an axis and its ends in the picture."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool

    def place(self, value: float) -> float:
        """The position of the value in the picture."""
        low, high, position = (
            (_exponent(item) for item in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start_px + (position - low) / (high - low) * (self.end_px - self.start_px)


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS + 1 of the points: every n-th one, and always the last."""
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    return [*points[:-1:stride], *points[-1:]]


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high]."""
    step = _round_step((high - low) / NUM_TICKS)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, within [low, high]."""
    powers = range(math.floor(_exponent(low)), math.ceil(_exponent(high)) + 1)
    candidates = [factor * DECADE**power for power in powers for factor in (1, 2, 5)]
    return [value for value in candidates if low <= value <= high]


def _draw(chart: Chart) -> Markup:
    points = [point for series in chart.series for point in series.points]
    x = axis([point.x for point in points], LEFT, WIDTH - RIGHT, log=chart.log_x)
    y = axis([point.y for point in points], HEIGHT - BOTTOM, TOP, log=False)
    parts = [*_grid(x, y), *(part for index, series in enumerate(chart.series) for part in _line(series, index, x, y))]
    parts.append(
        Markup('<text class="name" x="{}" y="{}">{}</text>').format((LEFT + WIDTH) / 2, HEIGHT - 4, chart.x_name)
    )
    if chart.y_name:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            Markup('<text class="name" x="12" y="{at}" transform="rotate(-90 12 {at})">{}</text>').format(
                chart.y_name, at=middle
            )
        )
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, chart.title, Markup("").join(parts)
    )


def axis(values: Sequence[float], start_px: float, end_px: float, *, log: bool) -> Axis:
    """An axis that covers all values, with a margin at both ends."""
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.15, high * 1.3, start_px, end_px, log)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - margin, high + margin, start_px, end_px, log)


def _grid(x: Axis, y: Axis) -> list[Markup]:
    horizontal = [
        Markup('<line class="rule" x1="{}" x2="{}" y1="{at:.1f}" y2="{at:.1f}"/>').format(
            LEFT, WIDTH - RIGHT, at=y.place(value)
        )
        + Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, y.place(value) + 4, _number(value))
        for value in ticks(y.low, y.high)
    ]
    x_labels = [
        Markup('<text class="x" x="{:.1f}" y="{}">{}</text>').format(
            x.place(value), HEIGHT - BOTTOM + 17, _number(value)
        )
        for value in (log_ticks if x.log else ticks)(x.low, x.high)
    ]
    return [*horizontal, *x_labels]


def _line(series: Series, index: int, x: Axis, y: Axis) -> list[Markup]:
    positions = [(x.place(point.x), y.place(point.y)) for point in series.points]
    joined = " ".join(f"{left:.1f},{top:.1f}" for left, top in positions)
    parts = [Markup('<polyline class="line{}" points="{}"/>').format(index, joined)]
    for point, (left, top) in zip(series.points, positions, strict=True):
        if point.label:
            parts.append(Markup('<circle class="line{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(index, left, top))
            parts.append(Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(left + 6, top - 6, point.label))
    return parts


def _round_step(step: float) -> float:
    """The smallest number of 1, 2 and 5 times a power of ten that is not below `step`."""
    power = DECADE ** math.floor(_exponent(step))
    return next(factor * power for factor in (1, 2, 5, DECADE) if factor * power >= step * (1 - 1e-9))


def _exponent(value: float) -> float:
    return math.log10(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
