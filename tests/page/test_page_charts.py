"""Charts: axes that hold the data, lines where the figures are, and words for those who do not see them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from page_checking import Checked

from fastreid_mos.page import Series, binned, line_chart
from fastreid_mos.page.scales import Scale


@pytest.mark.parametrize("kind", ["linear", "log", "log0"])
@pytest.mark.parametrize("low, high", [(1e-8, 3e-8), (0.01, 1.0), (0.9, 1.1), (1, 1e6), (123.4, 123.5), (7, 7)])
def test_ticks_lie_on_the_axis_and_in_order(kind, low, high):
    axis = Scale.over([low, high], kind, pad=0.05)
    ticks = axis.ticks()
    values = [value for value, _ in ticks]
    assert 2 <= len(ticks) <= 9 and values == sorted(set(values))
    places = [axis.place(value) for value in values]
    assert all(place is not None and -1e-6 <= place <= 1 + 1e-6 for place in places)
    assert len({text for _, text in ticks}) == len(ticks)
    for value, text in ticks:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_places_of_values():
    assert Scale("linear", 0, 10).place(2.5) == 0.25
    assert Scale("log", 0.01, 1).place(0.1) == pytest.approx(0.5)
    assert Scale("log", 0.01, 1).place(0) is None and Scale("log0", 0.01, 1).place(-1) is None
    zero = Scale("log0", 0.01, 1)
    assert zero.place(0) == 0 and 0 < zero.place(0.01) < zero.place(0.1) < zero.place(1) == 1
    assert Scale("linear", 0, 1).place(math.nan) is None
    with pytest.raises(ValueError, match="kind of axis: one of linear, log, log0, got 'sqrt'"):
        Scale.over([1], "sqrt")


def _ends(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_lines_go_through_their_figures():
    found = Checked(line_chart([Series("a", [(0, 0.0), (5, 10.0), (10, 5.0)])], "T", "step", "loss"))
    (path,) = [attrs["d"] for attrs in found.all("path", "line")]
    points = _ends(path)
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.06)
    # Up is up: the largest figure has the smallest y, and half of it lies half way.
    assert points[2][1] == pytest.approx((points[0][1] + points[1][1]) / 2, abs=0.06) and points[1][1] < points[0][1]
    assert len(found.all("circle", "mark")) == 3


def test_a_chart_says_in_words_what_it_shows():
    found = Checked(line_chart([Series("a", [(0, 3.0), (1, 2.0)]), Series("b", [(0, 1.0)])], "T", "step", "loss"))
    assert found.all("svg")[0]["role"] == "img" and found.all("svg")[0]["aria-label"] == "T"
    assert "a: 2 points, first 3, last 2, smallest 2, largest 3." in found.text
    assert len(found.all("title")) >= 1 and len(found.all("desc")) == 1 and len(found.all("ul", "legend")) == 1


def test_figures_that_are_none_break_the_line_and_are_counted():
    points = [(0, 1.0), (1, None), (2, math.nan), (3, 2.0), (None, 3.0), (5, "x"), (6, 4.0)]
    found = Checked(line_chart([Series("a", points)], "T", "step", "loss"))
    (path,) = [attrs["d"] for attrs in found.all("path", "line")]
    assert path.count("M") == 3 and len(_ends(path)) == 3
    assert "4 values that cannot be drawn on these axes left out." in found.text


def test_a_logarithmic_axis_leaves_out_what_has_no_place():
    found = Checked(line_chart([Series("a", [(0, 0.0), (1, 10.0), (2, 1000.0)])], "T", "s", "loss", y_scale="log"))
    assert len(found.all("circle", "mark")) == 2 and "1 value that cannot be drawn" in found.text
    assert "loss (logarithmic)" in found.text


@pytest.mark.parametrize("series", [[], [Series("a", [])], [Series("a", [(1, None), (2, math.inf)])]])
def test_nothing_to_draw_is_said(series):
    found = Checked(line_chart(series, "T", "step", "loss"))
    assert "Nothing to draw" in found.text and not found.all("svg")


def test_one_point_and_equal_points_are_drawn():
    for points in ([(3, 0.0)], [(0, 5.0), (1, 5.0)], [(0, -1e300), (1, 1e300)], [(0, 1e-320), (1, 2e-320)]):
        found = Checked(line_chart([Series("a", points)], "T", "step", "loss"))
        assert len(found.all("circle", "mark")) == len(points)
        assert "nan" not in str(found.elements) and "inf" not in str(found.elements)


def test_more_lines_than_colours():
    found = Checked(line_chart([Series(f"<{n}>", [(0, n), (1, n + 1)]) for n in range(12)], "T", "x", "y"))
    assert len(found.all("li")) == 12 and "<11>" in found.text


def test_binned_curves_keep_their_mean_and_their_extremes():
    values = np.random.default_rng(0).normal(5, 1, 1234)
    line = binned("a", list(enumerate(values.tolist())), bins=50)
    assert len(line.points) == len(line.band) == 50
    assert np.mean([y for _, y in line.points]) == pytest.approx(values.mean(), abs=0.01)
    assert min(low for _, low, _ in line.band) == values.min() and max(high for *_, high in line.band) == values.max()
    assert all(low <= y <= high for (_, y), (_, low, high) in zip(line.points, line.band, strict=True))
    short = binned("a", [(0, 1.0), (1, math.nan), (2, 3.0)])
    assert list(short.points) == [(0, 1.0), (2, 3.0)] and not short.band
    found = Checked(line_chart([line], "T", "x", "y"))
    assert len(found.all("path", "band")) == 1
