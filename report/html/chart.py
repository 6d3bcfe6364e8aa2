"""Charts as inline SVG: loss curves and codebook use. The page's style sheet colours them, so they follow dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ..draw.ticks import tick_label, ticks

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 24  # margins around the plot
MAX_DOTS = 1_000  # of a scatter plot
MAX_POINTS = 240  # more are averaged: a line needs no more points than it has pixels


@dataclass(frozen=True)
class Series:
    """A line: `steps` and `values`, both (n,); values that are not finite are gaps."""

    name: str
    steps: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray

    @property
    def last(self) -> float | None:
        """The last finite value, or None."""
        finite = np.asarray(self.values, np.float64)
        finite = finite[np.isfinite(finite)]
        return float(finite[-1]) if finite.size else None


def thin(steps: np.ndarray, values: np.ndarray, points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal runs of points, (n,) -> (<= points,) each; a run with a gap in it is a gap."""
    if steps.size <= points:
        return steps, values
    edges = np.linspace(0, steps.size, points + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, steps.size))
    return np.add.reduceat(steps, edges) / sizes, np.add.reduceat(values, edges) / sizes


def line_chart(series: Sequence[Series], *, label: str, chance: float | None = None) -> Markup:
    """Lines over steps; `chance` is a dashed level (the loss of a uniform guess); `label` says it all in words.

    The classes line-0, line-1, ... colour the series; a series of one point is a dot. Axes span all finite points. An
    empty chart says so.
    """
    lines = []
    for one in series:
        steps, values = np.asarray(one.steps, np.float64), np.asarray(one.values, np.float64)
        if steps.shape != values.shape or steps.ndim != 1:
            raise ValueError(f"{one.name}: steps and values are (n,) each, got {steps.shape} and {values.shape}")
        lines.append(thin(steps, values))
    all_steps = np.concatenate([steps[np.isfinite(values)] for steps, values in lines] or [np.zeros(0)])
    levels = np.concatenate([values[np.isfinite(values)] for _, values in lines] or [np.zeros(0)])
    if not levels.size:
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no finite points", "middle")], label)
    levels = levels if chance is None else np.append(levels, chance)
    margin = max(float(np.ptp(levels)) * 0.05, 1e-3)
    low, high = float(levels.min()) - margin, float(levels.max()) + margin
    axes = _Axes(float(all_steps.min()), float(all_steps.max()), low, high)
    parts = axes.draw()
    if chance is not None:
        parts.append(_level(axes.y(chance), "chance"))
    for i, (steps, values) in enumerate(lines):
        parts.extend(_line(axes, steps, values, i))
    return _svg(parts, label)


def scatter_chart(points: Sequence[tuple[float, float]], *, label: str) -> Markup:
    """Points (true, answered) in equal axes, with the line on which answers are true; `label` says it all in words."""
    found = np.asarray(points, np.float64).reshape(-1, 2)
    found = found[np.isfinite(found).all(axis=1)]
    if not found.size:
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no finite points", "middle")], label)
    margin = max(float(np.ptp(found)) * 0.05, 1e-9)
    low, high = float(found.min()) - margin, float(found.max()) + margin
    axes = _Axes(low, high, low, high)
    ends = [f"{one:.1f}" for one in (axes.x(low), axes.y(low), axes.x(high), axes.y(high))]
    parts = [*axes.draw(), Markup('<line class="chance" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(*ends)]
    dot = Markup('<circle class="dot-1" cx="{:.1f}" cy="{:.1f}" r="2"/>')
    parts += [dot.format(axes.x(true), axes.y(answered)) for true, answered in found[:MAX_DOTS]]
    return _svg(parts, label)


@dataclass(frozen=True)
class _Axes:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_low) / max(self.x_high - self.x_low, 1e-12)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y_low) / (self.y_high - self.y_low)

    def draw(self) -> list[Markup]:
        parts = []
        for value in ticks(self.y_low, self.y_high):
            parts += [_level(self.y(value), "grid"), _text(LEFT - 5, self.y(value) + 3.5, tick_label(value), "end")]
        for value in ticks(self.x_low, self.x_high, 3):
            # A label at the very edge leans inwards, or it would be cut.
            x = self.x(value)
            parts.append(_text(x, HEIGHT - 7, tick_label(value), "end" if x > WIDTH - RIGHT - 12 else "middle"))
        return parts


def _line(axes: _Axes, steps: np.ndarray, values: np.ndarray, index: int) -> list[Markup]:
    parts = []
    gaps = np.flatnonzero(~np.isfinite(values))
    for run in np.split(np.arange(steps.size), gaps):
        run = run[np.isfinite(values[run])]
        if run.size == 1:
            point = Markup('<circle class="dot-{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>')
            parts.append(point.format(index, axes.x(steps[run[0]]), axes.y(values[run[0]])))
        elif run.size:
            points = " ".join(f"{axes.x(steps[i]):.1f},{axes.y(values[i]):.1f}" for i in run)
            parts.append(Markup('<polyline class="line-{}" points="{}"/>').format(index, points))
    return parts


def usage_chart(counts: np.ndarray, *, label: str) -> Markup:
    """How often each code of a codebook is used: counts (vocabulary,), sorted, on a logarithmic scale.

    Even use is a flat line at the dashed level; codes that are never used leave the right end empty.
    """
    ordered = np.sort(np.asarray(counts, np.float64))[::-1]
    used = ordered[ordered > 0]
    if not used.size:
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no tokens", "middle")], label)
    top = max(1.0, math.ceil(math.log10(used[0])))
    axes = _Axes(0, ordered.size, 0.0, top)
    parts = []
    for power in range(int(top) + 1):
        parts += [_level(axes.y(power), "grid"), _text(LEFT - 5, axes.y(power) + 3.5, tick_label(10.0**power), "end")]
    ranks = np.unique(np.linspace(0, used.size - 1, min(used.size, MAX_POINTS)).astype(int))
    outline = [(0, 0.0), (0, math.log10(used[0])), *((rank + 1, math.log10(used[rank])) for rank in ranks)]
    outline.append((used.size, 0.0))
    points = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in outline)
    parts.append(Markup('<polygon class="area" points="{}"/>').format(points))
    parts.append(_level(axes.y(max(0.0, math.log10(ordered.sum() / ordered.size))), "chance"))
    parts.append(_text(LEFT, HEIGHT - 7, "most used", "start"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 7, f"{ordered.size:,} codes", "end"))
    return _svg(parts, label)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(anchor, x, y, text)


def _level(y: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(style, LEFT, WIDTH - RIGHT, y, y)


def _svg(parts: Sequence[Markup], label: str) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return head + Markup("").join(parts) + Markup("</svg>")


def histogram_chart(edges: Sequence[float], counts: Sequence[float], *, label: str) -> Markup:
    """Bars of counts (n,) between edges (n + 1,), ascending."""
    heights = np.asarray(counts, np.float64)
    if not heights.size or not heights.sum():
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no values", "middle")], label)
    axes = _Axes(float(edges[0]), float(edges[-1]), 0.0, float(heights.max() / heights.sum()) * 1.05)
    parts = axes.draw()
    for low, high, share in zip(edges, edges[1:], heights / heights.sum(), strict=False):
        corners = ((low, 0.0), (low, share), (high, share), (high, 0.0))
        points = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in corners)
        parts.append(Markup('<polygon class="area" points="{}"/>').format(points))
    return _svg(parts, label)
