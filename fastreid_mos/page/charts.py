"""Line charts as SVG inside the page.

matplotlib's SVG (23 kB a chart) stays white on a dark page, repeats its ids from chart to chart, and has no title or
description for a screen reader; only its choice of round tick values is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from .rendering import number, render

Point = tuple[float, float]

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 440.0, 54.0, 428.0, 22.0, 238.0
# Lines differ in one of as many colours, in dashes too, and in marks where the points are few.
_DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 4", "4 2", "1 5")
_MARKED = 40  # no more points than this get a mark each
_SHAPES = 5
# Share of a log0 axis that belongs to zero.
_ZERO = 0.1


class Series(NamedTuple):
    """A line: its name in the legend, its points in order of x (None and NaN break it), (x, low, high) of its band."""

    name: str
    points: Sequence[tuple[float | None, float | None]]
    band: Sequence[tuple[float, float, float]] = ()


def binned(name: str, points: Sequence[Point], bins: int = 100) -> Series:
    """A curve of over ``bins`` points as means over stretches, with the band from smallest to largest value in each."""
    if len(points) <= bins:
        return Series(name, points)
    edges = [len(points) * i // bins for i in range(bins + 1)]
    means, band = [], []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        xs, ys = zip(*points[low:high], strict=True)
        middle = sum(xs) / len(xs)
        means.append((middle, math.fsum(ys) / len(ys)))
        band.append((middle, min(ys), max(ys)))
    return Series(name, means, band)


class Scale(NamedTuple):
    """An axis: ``linear``; ``log``, for values above 0; or ``log0``, logarithmic with 0 apart at the low end."""

    kind: str
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], kind: str = "linear", pad: float = 0.0) -> Scale:
        """The axis that holds ``values``; ``pad`` is the share left free at either end."""
        fit = [value for value in values if kind == "linear" or value > 0]
        low, high = (min(fit), max(fit)) if fit else (0.1, 1.0)
        if kind != "linear":
            ratio = (high / low) ** pad if high > low else 2.0
            return cls(kind, low / ratio, high * ratio)
        # Values that differ by nothing but rounding are one value.
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            margin = 0.5 * abs(high) or 0.5
            return cls(kind, low - margin, high + margin)
        return cls(kind, low - pad * (high - low), high + pad * (high - low))

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.kind == "linear":
            return (value - self.low) / (self.high - self.low)
        if value == 0:
            return 0.0
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return share if self.kind == "log" else _ZERO + (1 - _ZERO) * share

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """At most about ``count`` round values on the axis, and how they are written."""
        # matplotlib knows which values are round.
        from matplotlib.ticker import LogLocator, MaxNLocator

        even = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        values = self._on_axis(value for value in even if self.kind == "linear" or value > 0)
        if self.kind != "linear":
            for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                found = LogLocator(base=10, subs=subs, numticks=count + 2).tick_values(self.low, self.high)
                if len(self._on_axis(found)) >= 3:
                    values = self._on_axis(found)
                    break
        ticks = [(value, f"{round(value, 12):,.10g}") for value in values]
        return [(0.0, "0"), *ticks] if self.kind == "log0" else ticks

    def _on_axis(self, values: Iterable[float]) -> list[float]:
        margin = 1e-9 * (self.high - self.low)
        return [float(value) for value in values if self.low - margin <= value <= self.high + margin]


def line_chart(
    series: Sequence[Series], title: str, x_label: str, y_label: str, x_scale: str = "linear", y_scale: str = "linear",
    chosen: tuple[float, float, str] | None = None, note: str = "",
) -> Markup:  # fmt: skip
    """A figure with axes, ticks, grid, legend, and a title and description for screen readers.

    Scales are kinds of :class:`Scale`; ``chosen`` are x, y and words of a point to be marked.
    """
    fitted = [[_fit(point, x_scale, y_scale) for point in line.points] for line in series]
    lines = [(line, points) for line, points in zip(series, fitted, strict=True) if any(points)]
    known = [point for points in fitted for point in points if point] + ([chosen[:2]] if chosen else [])
    x_axis = Scale.over([x for x, _ in known], x_scale)
    bands = [end for line, _ in lines for _, *ends in line.band for end in ends]
    y_axis = Scale.over([y for _, y in known] + bands, y_scale, pad=0.06)

    def place(x: float, y: float) -> Point:
        return _LEFT + (_RIGHT - _LEFT) * x_axis.share(x), _BOTTOM - (_BOTTOM - _TOP) * y_axis.share(y)

    left_out = sum(point is None for points in fitted for point in points)
    if left_out:
        note += f" {left_out} value{'s' if left_out > 1 else ''} that cannot be drawn on these axes left out."
    words = [_in_words(line.name, [point for point in points if point]) for line, points in lines]
    return render(
        "chart.html",
        title=title,
        words=" ".join([f"{x_label} across, {y_label} up.", *words, *([f"Marked: {chosen[2]}."] if chosen else [])]),
        lines=[_drawn(index, line, points, place) for index, (line, points) in enumerate(lines)],
        x_ticks=_spaced([(place(value, 0)[0], text) for value, text in x_axis.ticks()]),
        y_ticks=[(place(0, value)[1], text) for value, text in y_axis.ticks()],
        x_label=x_label + ("" if x_scale == "linear" else " (logarithmic)"),
        y_label=y_label + ("" if y_scale == "linear" else " (logarithmic)"),
        # Zero is not on the logarithmic part: the axis is broken after it.
        break_at=_LEFT + _ZERO / 2 * (_RIGHT - _LEFT) if x_scale == "log0" else None,
        chosen=_chosen(place(*chosen[:2]), chosen[2]) if chosen else None,
        note=note.strip(),
    )


def _fit(point: tuple[float | None, float | None], x_scale: str, y_scale: str) -> Point | None:
    """The point, if it has a place on axes of these kinds."""
    x, y = map(number, point)
    if x is None or y is None:
        return None
    fits = (kind == "linear" or value > 0 or (kind == "log0" and value == 0)
            for kind, value in ((x_scale, x), (y_scale, y)))  # fmt: skip
    return (x, y) if all(fits) else None


def _in_words(name: str, points: Sequence[Point]) -> str:
    values = [y for _, y in points]
    return (
        f"{name}: {len(points)} points, first {values[0]:.4g}, last {values[-1]:.4g}, "
        f"smallest {min(values):.4g}, largest {max(values):.4g}."
    )


def _drawn(index: int, line: Series, points: Sequence[Point | None], place: Any) -> dict[str, Any]:
    """What the template needs of a line."""
    path, marks, pen = "", [], "M"
    for point in points:
        if point is not None:
            x, y = place(*point)
            path += f"{pen}{x:.1f} {y:.1f}"
            marks.append((x, y, f"{line.name}: {point[0]:g}, {point[1]:.4g}"))
        pen = "M" if point is None else "L"
    edge = [(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)]
    return {
        "name": line.name,
        "colour": index % len(_DASHES),
        "shape": index % _SHAPES,
        "dashes": _DASHES[index % len(_DASHES)],
        "path": path,
        "marks": marks if len(points) <= _MARKED else [],
        "band": "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in edge)),
    }


def _spaced(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, float, str]]:
    """For each tick its x, and the x of its text: a tick whose text would touch the one before keeps its mark only."""
    spaced, end = [], -math.inf
    for x, text in ticks:
        half = 3.6 * len(text)
        clear = x - half >= end + 4
        spaced.append((x, min(x, _WIDTH - half), text if clear else ""))
        end = x + half if clear else end
    return spaced


def _chosen(point: Point, words: str) -> dict[str, Any]:
    """The mark of a point; its words stand in the free line above the area, near it, right of the y axis's name."""
    half = 3.8 * len(words)
    middle = max(half + 4, min(max(point[0], 130 + half), _WIDTH - half - 4))
    return {"x": point[0], "y": point[1], "words": words, "middle": middle}
