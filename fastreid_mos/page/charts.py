"""Line charts as SVG inside the page.

The drawing is our own and small: matplotlib's SVG was tried (23 kB a chart) and has its colours fixed in every element,
so that it stays white on a dark page, repeats its ids from chart to chart, and has no title or description for a screen
reader. Its choice of round tick values is used (scales.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .markup import Html, join, missing, tag
from .scales import Scale
from .tables import number

Point = tuple[float, float]

_WIDTH, _HEIGHT = 440.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 12.0, 22.0, 42.0
# Lines differ in dashes too, and in marks where the points are few.
_DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 4", "4 2", "1 5")
_COLOURS = 7
_MARKED = 40  # no more points than this get a mark each


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: in the legend.
        points: (x, y) in order of x; a point that is no finite number is left out and breaks the line.
        band: (x, low, high) of a pale area behind the line.
    """

    name: str
    points: Sequence[tuple[float | None, float | None]]
    band: Sequence[tuple[float, float, float]] = field(default_factory=tuple)


def binned(name: str, points: Sequence[Point], bins: int = 100) -> Series:
    """A long noisy curve as means over stretches of it, with the band from the smallest to the largest value in each.

    Args:
        name: of the series.
        points: (x, y) in order of x; those that are no finite numbers are left out.
        bins: stretches; a curve of no more points is left as it is.
    """
    fit = [(x, y) for x, y in points if number(x) is not None and number(y) is not None]
    if len(fit) <= bins:
        return Series(name, fit)
    edges = [len(fit) * i // bins for i in range(bins + 1)]
    parts = [fit[low:high] for low, high in zip(edges[:-1], edges[1:], strict=True)]
    middle = [sum(x for x, _ in part) / len(part) for part in parts]
    means = [(x, math.fsum(y for _, y in part) / len(part)) for x, part in zip(middle, parts, strict=True)]
    band = [(x, min(y for _, y in part), max(y for _, y in part)) for x, part in zip(middle, parts, strict=True)]
    return Series(name, means, band)


def line_chart(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    x_scale: str = "linear",
    y_scale: str = "linear",
    chosen: tuple[float, float, str] | None = None,
    note: str = "",
) -> Html:
    """A chart with axes, ticks, grid, legend, and a title and description for screen readers.

    Args:
        series: lines; none with a point that can be drawn gives a line of text that says so.
        title: above the chart.
        x_label, y_label: what the axes are, with units.
        x_scale, y_scale: ``linear``, ``log`` or ``log0`` (see :class:`~fastreid_mos.page.scales.Scale`).
        chosen: x, y and words of a point to be marked.
        note: below the chart.

    Returns:
        A ``figure``.
    """
    lines = [(line, _fit(line, x_scale, y_scale)) for line in series]
    drawn = [(line, points) for line, points in lines if any(point is not None for point in points)]
    head = tag("p", title, class_="name")
    if not drawn:
        return tag("figure", head, missing("Nothing to draw: there is no figure on record."), class_="chart")
    known = [point for _, points in drawn for point in points if point is not None]
    bands = [triple for line, _ in drawn for triple in line.band]
    heights = [y for _, y in known] + [y for _, low, high in bands for y in (low, high)]
    if chosen and (number(chosen[0]) is None or number(chosen[1]) is None):
        chosen = None
    x_axis = Scale.over([x for x, _ in known] + ([chosen[0]] if chosen else []), x_scale)
    y_axis = Scale.over(heights + ([chosen[1]] if chosen else []), y_scale, pad=0.06)
    frame = _Frame(x_axis, y_axis)
    left_out = sum(point is None for _, points in lines for point in points)
    words = [_in_words(line, points) for line, points in drawn]
    if chosen:
        words.append(f"Marked: {chosen[2]}.")
    parts: list[Html] = [tag("title", title), tag("desc", f"{x_label} across, {y_label} up. {' '.join(words)}")]
    parts += frame.axes(x_label, y_label)
    parts += [frame.line(line, points, place) for place, (line, points) in enumerate(drawn)]
    if chosen:
        parts += frame.mark(chosen)
    svg = tag("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label=title)
    legend = tag(
        "ul", *(_legend(line.name, place, len(points)) for place, (line, points) in enumerate(drawn)), class_="legend"
    )
    notes = [note] if note else []
    if left_out:
        notes.append(f"{left_out} value{'s' if left_out > 1 else ''} that cannot be drawn on these axes left out.")
    caption = tag("figcaption", " ".join(notes)) if notes else None
    return tag("figure", head, svg, legend if len(drawn) > 1 else None, caption, class_="chart")


def _fit(line: Series, x_scale: str, y_scale: str) -> list[Point | None]:
    """Points with a place on axes of these kinds, None for others."""
    anywhere = {kind: Scale(kind, 0.1, 1.0) for kind in (x_scale, y_scale)}
    fit: list[Point | None] = []
    for x, y in line.points:
        a, b = number(x), number(y)
        good = a is not None and b is not None
        if a is None or b is None or anywhere[x_scale].place(a) is None or anywhere[y_scale].place(b) is None:
            good = False
        fit.append((a, b) if good and a is not None and b is not None else None)
    return fit


def _in_words(line: Series, points: Sequence[Point | None]) -> str:
    known = [point for point in points if point is not None]
    values = [y for _, y in known]
    return (
        f"{line.name}: {len(known)} points, first {values[0]:.4g}, last {values[-1]:.4g}, "
        f"smallest {min(values):.4g}, largest {max(values):.4g}."
    )


class _Frame:
    """The plotting area and what is drawn in it."""

    def __init__(self, x_axis: Scale, y_axis: Scale) -> None:
        self.x_axis, self.y_axis = x_axis, y_axis

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (self.x_axis.place(value) or 0.0)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (self.y_axis.place(value) or 0.0)

    def axes(self, x_label: str, y_label: str) -> list[Html]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = []
        for value, text in self.y_axis.ticks():
            y = self.y(value)
            parts.append(tag("line", x1=f"{_LEFT:g}", x2=f"{right:g}", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
            parts.append(tag("text", text, x=f"{_LEFT - 6:g}", y=f"{y + 4:.1f}", text_anchor="end"))
        end = -math.inf
        for value, text in self.x_axis.ticks():
            x = self.x(value)
            parts.append(
                tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{bottom:g}", y2=f"{bottom + 5:g}", class_="axis")
            )
            # A tick whose text would touch the one before keeps its mark only.
            half = 3.6 * len(text)
            if x - half < end + 4:
                continue
            end = x + half
            parts.append(
                tag("text", text, x=f"{min(x, _WIDTH - half):.1f}", y=f"{bottom + 18:g}", text_anchor="middle")
            )
        if self.x_axis.kind == "log0":
            # Zero is not on the logarithmic part: the axis is broken after it.
            x = _LEFT + 0.05 * (_WIDTH - _LEFT - _RIGHT)
            parts.append(
                tag("path", d=f"M{x - 3:.1f} {bottom + 4:g}l3 -8M{x + 1:.1f} {bottom + 4:g}l3 -8", class_="axis")
            )
        parts.append(tag("line", x1=f"{_LEFT:g}", x2=f"{right:g}", y1=f"{bottom:g}", y2=f"{bottom:g}", class_="axis"))
        logs = [" (logarithmic)" if axis.kind != "linear" else "" for axis in (self.x_axis, self.y_axis)]
        parts.append(
            tag("text", x_label + logs[0], x=f"{(_LEFT + right) / 2:g}", y=f"{_HEIGHT - 6:g}", text_anchor="middle")
        )
        parts.append(tag("text", y_label + logs[1], x="4", y="13"))
        return parts

    def line(self, line: Series, points: Sequence[Point | None], place: int) -> Html:
        parts = []
        band = [(x, low, high) for x, low, high in line.band if self.y_axis.place(low) is not None]
        if band:
            upper = [f"{self.x(x):.1f} {self.y(high):.1f}" for x, _, high in band]
            lower = [f"{self.x(x):.1f} {self.y(low):.1f}" for x, low, _ in reversed(band)]
            parts.append(tag("path", d="M" + "L".join(upper + lower) + "Z", class_="band"))
        path, pen = "", "M"
        for point in points:
            if point is None:
                pen = "M"
                continue
            path += f"{pen}{self.x(point[0]):.1f} {self.y(point[1]):.1f}"
            pen = "L"
        parts.append(tag("path", d=path, class_="line", stroke_dasharray=_DASHES[place % len(_DASHES)] or None))
        if len(points) <= _MARKED:
            for point in points:
                if point is not None:
                    hint = tag("title", f"{line.name}: {point[0]:g}, {point[1]:.4g}")
                    parts.append(_shape(place, self.x(point[0]), self.y(point[1]), hint))
        return tag("g", *parts, class_=f"s{place % _COLOURS}")

    def mark(self, chosen: tuple[float, float, str]) -> list[Html]:
        x, y = self.x(chosen[0]), self.y(chosen[1])
        # The words stand in the free line above the area, near their point, right of the y axis's name.
        half = 3.8 * len(chosen[2])
        middle = max(half + 4, min(max(x, 130 + half), _WIDTH - half - 4))
        drop = {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "class_": "drop"}
        return [
            tag("line", y1=f"{_TOP - 4:g}", y2=f"{max(y - 8, _TOP - 4):.1f}", **drop),
            tag("line", y1=f"{y + 8:.1f}", y2=f"{_HEIGHT - _BOTTOM:g}", **drop),
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="8", class_="chosen"),
            tag("text", chosen[2], x=f"{middle:.1f}", y="13", class_="chosen-text", text_anchor="middle"),
        ]


def _shape(place: int, x: float, y: float, hint: Html | None = None) -> Html:
    kind = place % 5
    if kind == 0:
        return tag("circle", hint, cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.2", class_="mark")
    if kind == 1:
        return tag("rect", hint, x=f"{x - 3:.1f}", y=f"{y - 3:.1f}", width="6", height="6", class_="mark")
    if kind == 2:
        return tag("path", hint, d=f"M{x:.1f} {y - 4:.1f}l4 7h-8z", class_="mark")
    if kind == 3:
        return tag("path", hint, d=f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z", class_="mark")
    return tag("path", hint, d=f"M{x:.1f} {y + 4:.1f}l4 -7h-8z", class_="mark")


def _legend(name: str, place: int, points: int) -> Html:
    swatch = [tag("path", d="M0 6H34", class_="line", stroke_dasharray=_DASHES[place % len(_DASHES)] or None)]
    if points <= _MARKED:
        swatch.append(_shape(place, 17, 6))
    picture = tag("svg", *swatch, viewBox="0 0 34 12", class_=f"s{place % _COLOURS}", aria_hidden="true")
    return tag("li", join(picture, name))
