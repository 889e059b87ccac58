"""Charts: axes that hold the data, lines where the figures are, and words for those who do not see them."""

from __future__ import annotations

import json
import math
import re

import pytest
from made_page import Checked

from fastreid_mos.errors import MOSError
from fastreid_mos.page import read_metrics
from fastreid_mos.page.charts import Scale, Series, binned, line_chart
from fastreid_mos.page.curves import alpha_chart, learning_charts, loss_chart


@pytest.mark.parametrize("kind", ["linear", "log", "log0"])
@pytest.mark.parametrize("low, high", [(1e-8, 3e-8), (0.01, 1.0), (1, 1e6), (123.4, 123.5), (7, 7)])
def test_ticks_and_values_lie_on_the_axis_and_in_order(kind, low, high):
    axis = Scale.over([low, high], kind, pad=0.05)
    values, texts = zip(*axis.ticks(), strict=True)
    assert 2 <= len(values) <= 9 and sorted(set(values)) == list(values)
    assert all(-1e-6 <= axis.share(value) <= 1 + 1e-6 for value in values)
    assert [float(text.replace(",", "")) for text in texts] == pytest.approx(values, rel=1e-6, abs=1e-12)
    assert Scale("linear", 0, 10).share(2.5) == 0.25 and Scale("log", 0.01, 1).share(0.1) == pytest.approx(0.5)
    zero = [Scale("log0", 0.01, 1).share(value) for value in (0, 0.01, 0.1, 1)]
    assert zero == sorted(set(zero)) and (zero[0], zero[-1]) == (0, 1)


def drawn(*points, **options):
    """The chart of some lines, and where the points of the first one lie."""
    lines = [Series(f"<{number}>", line) for number, line in enumerate(points)]
    found = Checked(line_chart(lines, "T", "step", "loss", **options))
    paths = [attrs["d"] for attrs in found.all("path", "line")]
    return found, [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", (paths or [""])[0])]


def test_lines_go_through_their_figures_and_are_told_in_words():
    found, (a, b, c) = drawn([(0, 0.0), (5, 10.0), (10, 5.0)], [(0, 1)])
    assert a[0] < b[0] < c[0] and b[0] == pytest.approx((a[0] + c[0]) / 2, abs=0.06)
    # Up is up: the largest figure has the smallest y, and half of it lies half way.
    assert b[1] < a[1] and c[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.06)
    assert "<0>: 3 points, first 0, last 5, smallest 0, largest 10." in found.text


def test_figures_that_are_none_break_the_line_and_are_counted():
    found, points = drawn([(0, 1.0), (1, None), (2, math.nan), (3, 2.0), (None, 3.0), (5, math.inf), (6, 4.0)])
    assert len(points) == found.all("path", "line")[0]["d"].count("M") == 3 and "4 values that cannot" in found.text
    found, points = drawn([(0, 0.0), (1, 10.0), (2, 1000.0)], y_scale="log")
    assert len(points) == 2 and "1 value that cannot" in found.text and "loss (logarithmic)" in found.text
    assert "Nothing to draw" in drawn([(1, None), (2, math.inf)])[0].text
    for few in ([(3, 0.0)], [(0, 5.0), (1, 5.0)], [(0, -1e300), (1, 1e300)]):
        found, points = drawn(few)
        assert len(points) == len(few) and not re.search("nan|inf", str(found.elements))


def test_binned_curves_keep_their_mean_and_their_extremes():
    line = binned("a", [(0, 1.0), (1, 3.0), (2, 5.0), (3, 5.0), (4, 8.0)], bins=2)
    assert line.points == [(0.5, 2), (3, 6)] and line.band == [(0.5, 1, 3), (3, 5, 8)]


def test_losses_and_learning_curves_of_metrics_that_a_kill_cut_off(tmp_path):
    line = {"epoch": 0, "total_loss": 9.0, "loss_cls": 6.0, "lr": 0.1, "test/O2S/mAP": 99.0}
    lines = [{"iteration": n, **line, "epoch": n // 2} for n in range(6)]
    for n in (1, 3, 5):
        held = {"O2S/mAP": 10.0 + n, "S2O/mAP": 5.0 + n, "O2S/mAP_std": 1, "splits": 3}
        lines[n].update({f"holdout/{name}": value for name, value in held.items()})
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 6, "lo')
    assert read_metrics(tmp_path / "metrics.json") == lines
    with pytest.raises(MOSError, match="none.json"):
        read_metrics(tmp_path / "none.json")
    losses, (chart,) = Checked(loss_chart("MOS", lines)), learning_charts("MOS", lines)
    assert re.findall("([a-z ]+): 6 points", losses.text) == [" total loss", " loss cls"] and len(losses.all("li")) == 2
    # By epoch, and only of held-out identities.
    learning = Checked(chart).text
    for words in ("O2S: 3 points, first 11, last 15", "S2O: 3 points", "O2S: 1, 11", "O2S: 3, 15", "O2S 15.0 ± 1.0."):
        assert words in learning, words
    assert "99" not in learning and learning_charts("MOS", []) == []
    bridge = Checked(loss_chart("bridge", [{"step": n, "loss": 1.0 / (n + 1), "lr": 1e-4} for n in range(500)]))
    assert "step across" in bridge.text and "loss (logarithmic)" in bridge.text and len(bridge.all("path", "band")) == 1
    # A step written twice counts as written last, and what has no step or figure is left out.
    lines = [{"step": 1, "loss": 5.0}, {"step": 0, "loss": 9.0}, {"step": 1, "loss": 4.0}, {"loss": 1.0}]
    assert "loss: 2 points, first 9, last 4" in loss_chart("resumed", [*lines, {"step": 2, "loss": None}])


def test_the_chosen_alpha_is_marked_on_the_line_of_its_k(results):
    curve = results["fusion"]["curves"]["O2S"]
    found = Checked(alpha_chart("O2S", curve, 0.1, 2))
    (ring,), mark = found.all("circle", "chosen"), found.all("rect", "mark")[1]
    assert [float(ring["cx"]), float(ring["cy"])] == pytest.approx([float(mark["x"]) + 3, float(mark["y"]) + 3])
    found = Checked(alpha_chart("O2S", curve, 0.0, 0))
    (ring,), mark = found.all("circle", "chosen"), found.all("circle", "mark")[0]
    assert "chosen: alpha 0: fusion not shown" in found.text and (ring["cx"], ring["cy"]) == (mark["cx"], mark["cy"])
    # An alpha that was not measured is not marked.
    found = Checked(alpha_chart("O2S", curve, 0.02, 1))
    assert "Used: alpha 0.02, K 1" in found.text and not found.all("circle", "chosen")
