"""Charts: axes that hold the data, lines where the figures are, and words for those who do not see them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from page_checking import Checked

from fastreid_mos.errors import MOSError
from fastreid_mos.page import read_metrics
from fastreid_mos.page.charts import Scale, Series, binned, line_chart
from fastreid_mos.page.curves import alpha_chart, columns, learning_charts, loss_chart


@pytest.mark.parametrize("kind", ["linear", "log", "log0"])
@pytest.mark.parametrize("low, high", [(1e-8, 3e-8), (0.01, 1.0), (0.9, 1.1), (1, 1e6), (123.4, 123.5), (7, 7)])
def test_ticks_lie_on_the_axis_and_in_order(kind, low, high):
    axis = Scale.over([low, high], kind, pad=0.05)
    ticks = axis.ticks()
    values = [value for value, _ in ticks]
    assert 2 <= len(ticks) <= 9 and values == sorted(set(values)) and len({text for _, text in ticks}) == len(ticks)
    assert all(-1e-6 <= axis.share(value) <= 1 + 1e-6 for value in values)
    for value, text in ticks:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_shares_of_values():
    assert Scale("linear", 0, 10).share(2.5) == 0.25 and Scale("log", 0.01, 1).share(0.1) == pytest.approx(0.5)
    zero = Scale("log0", 0.01, 1)
    assert zero.share(0) == 0 and 0 < zero.share(0.01) < zero.share(0.1) < zero.share(1) == 1


def drawn(*points, **options):
    lines = [Series("ab"[number], line) for number, line in enumerate(points)]
    return Checked(line_chart(lines, "T", "step", "loss", **options))


def ends(found):
    (path,) = [attrs["d"] for attrs in found.all("path", "line")]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)], path.count("M")


def test_lines_go_through_their_figures():
    found = drawn([(0, 0.0), (5, 10.0), (10, 5.0)])
    (a, b, c), _ = ends(found)
    assert a[0] < b[0] < c[0] and b[0] == pytest.approx((a[0] + c[0]) / 2, abs=0.06)
    # Up is up: the largest figure has the smallest y, and half of it lies half way.
    assert b[1] < a[1] and c[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.06)
    assert len(found.all("circle", "mark")) == 3


def test_a_chart_has_words_for_what_it_shows():
    found = drawn([(0, 3.0), (1, 2.0)], [(0, 1.0)])
    assert found.all("svg")[0]["role"] == "img" and found.all("svg")[0]["aria-label"] == "T"
    assert "a: 2 points, first 3, last 2, smallest 2, largest 3." in found.text
    assert found.all("title") and len(found.all("desc")) == len(found.all("ul", "legend")) == 1


def test_figures_that_are_none_break_the_line_and_are_counted():
    found = drawn([(0, 1.0), (1, None), (2, math.nan), (3, 2.0), (None, 3.0), (5, math.inf), (6, 4.0)])
    points, pieces = ends(found)
    assert pieces == len(points) == 3 and "4 values that cannot be drawn" in found.text
    found = drawn([(0, 0.0), (1, 10.0), (2, 1000.0)], y_scale="log")
    assert len(found.all("circle", "mark")) == 2 and "1 value that cannot be drawn" in found.text
    assert "loss (logarithmic)" in found.text


@pytest.mark.parametrize("lines", [[], [[]], [[(1, None), (2, math.inf)]]])
def test_nothing_to_draw_is_written(lines):
    found = drawn(*lines)
    assert "Nothing to draw" in found.text and not found.all("svg")


@pytest.mark.parametrize(
    "points", [[(3, 0.0)], [(0, 5.0), (1, 5.0)], [(0, -1e300), (1, 1e300)], [(0, 1e-320), (1, 2e-320)]]
)
def test_one_point_and_equal_points_are_drawn(points):
    found = drawn(points)
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
    assert len(Checked(line_chart([line], "T", "x", "y")).all("path", "band")) == 1


def test_metrics_with_a_line_cut_off_by_a_kill(tmp_path):
    lines = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2, "lo')
    assert read_metrics(tmp_path / "metrics.json") == lines
    (tmp_path / "empty.json").write_text("")
    for name in ("empty.json", "none.json"):
        with pytest.raises(MOSError, match=name):
            read_metrics(tmp_path / name)


def test_steps_written_twice_count_as_written_last():
    lines = [{"step": 1, "loss": 5.0}, {"step": 0, "loss": 9.0}, {"step": 1, "loss": 4.0}, {"loss": 1.0}]
    assert columns([*lines, {"step": 2, "loss": None}]) == {"loss": [(0.0, 9.0), (1.0, 4.0)]}


def test_losses_are_found_by_their_names_and_nothing_else():
    line = {"epoch": 0, "total_loss": 9.0, "loss_cls": 6.0, "loss_cmal": 3.0, "lr": 0.1, "time": 0.2}
    found = Checked(loss_chart("MOS", [{"iteration": n, **line} for n in range(3)]))
    assert all(name in found.text for name in ("total loss", "loss cls", "loss cmal", "iteration across"))
    assert len(found.all("li")) == 3 and "lr" not in found.text
    bridge = Checked(loss_chart("bridge", [{"step": n, "loss": 1.0 / (n + 1), "lr": 1e-4} for n in range(500)]))
    assert "step across" in bridge.text and "loss (logarithmic)" in bridge.text and len(bridge.all("path", "band")) == 1


def test_learning_curves_are_by_epoch_and_only_of_held_out_identities():
    lines = [{"iteration": n, "epoch": n // 2, "loss": 1.0, "O2S/mAP": 99.0} for n in range(6)]
    for line in lines[1::2]:
        n = line["iteration"]
        line |= {"holdout/O2S/mAP": 10.0 + n, "holdout/S2O/mAP": 5.0 + n, "holdout/O2S/mAP_std": 1, "holdout/splits": 3}
    (chart,) = learning_charts("MOS", lines)
    found = Checked(chart)
    for words in ("O2S: 3 points, first 11, last 15", "S2O: 3 points", "O2S: 1, 11", "O2S: 3, 15", "O2S 15.0 ± 1.0."):
        assert words in found.text, words
    assert "99" not in found.text and learning_charts("MOS", []) == []


CURVE = {"alphas": [0.0, 0.1, 1.0], "k": [1, 2], "mAP": [[40.0, 41.0, 30.0], [40.0, 43.5, 20.0]]}


@pytest.mark.parametrize(
    ("alpha", "k", "words", "tag", "point"),
    [(0.1, 2, "chosen: alpha 0.1, K 2", "rect", 1), (0.0, 0, "chosen: alpha 0: fusion not shown", "circle", 0)],
)
def test_the_chosen_alpha_is_marked_on_the_line_of_its_k(alpha, k, words, tag, point):
    found = Checked(alpha_chart("O2S", CURVE, alpha, k))
    (ring,) = found.all("circle", "chosen")
    mark = found.all(tag, "mark")[point]
    x, y = (float(mark["x"]) + 3, float(mark["y"]) + 3) if tag == "rect" else (float(mark["cx"]), float(mark["cy"]))
    assert words in found.text and (float(ring["cx"]), float(ring["cy"])) == (pytest.approx(x), pytest.approx(y))


def test_an_alpha_that_was_not_measured_is_not_marked():
    for alpha, curve in ((0.02, CURVE), (0.1, {**CURVE, "k": [1], "mAP": [[40.0, None, 30.0]]})):
        found = Checked(alpha_chart("O2S", curve, alpha, 1))
        assert f"Used: alpha {alpha}, K 1" in found.text and not found.all("circle", "chosen")
