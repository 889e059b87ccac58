"""Tables: figures, intervals, and what is not there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from page_checking import Checked, made_row

from fastreid_mos.page import TableRow, difference_table, results_table
from fastreid_mos.page.tables import interval, number, reading


def test_figures_and_intervals_of_every_row_and_protocol():
    rows = [
        TableRow("random", {"O2S": made_row(2.04, 1.96, 3.0), "S2O": made_row(4.0, 3.0, 5.0)}, "by chance"),
        TableRow("MOS", {"O2S": made_row(61.25, 50.0, 71.26)}, {"O2S": "alpha 0.1"}, own=True),
        TableRow("TransOSS", None),
    ]
    found = Checked(results_table(rows, {"O2S": "10 queries", "S2O": "8 queries"}, "percent"))
    assert "2.0 [2.0, 3.0]" in found.text and "61.2 [50.0, 71.3]" in found.text
    assert found.text.count("not run") == 2 and found.text.count("not measured") == 1
    assert found.text.count("alpha 0.1") == 1 and found.text.count("by chance") == 2
    assert "10 queries" in found.text and "Lines run from 0 to 100." in found.text
    assert len(found.all("tr", "own")) == 2 and len(found.all("tbody")) == 2


def test_the_line_of_a_figure_lies_where_it_says():
    found = Checked(results_table([TableRow("a", {"O2S": made_row(20.0, 10.0, 40.0)})], {"O2S": ""}, "c", ["mAP"]))
    assert "Lines run from 0 to 50." in found.text
    rail, span, dot = found.all("line", "rail")[0], found.all("line", "span")[0], found.all("circle", "dot")[0]
    low, high = float(rail["x1"]), float(rail["x2"])
    for value, at in ((10, span["x1"]), (40, span["x2"]), (20, dot["cx"])):
        assert float(at) == pytest.approx(low + (high - low) * value / 50, abs=0.06)


@pytest.mark.parametrize(
    "pair", [None, [None, None], [1.0], "12", [float("nan"), 2.0], [1, "x"], {"low": 1}, [True, False]]
)
def test_an_interval_that_is_none_is_said_and_no_line_drawn(pair):
    row = {"mAP": 20.0, "intervals": {"mAP": pair}}
    assert interval(row, "mAP") is None and interval({"mAP": 1}, "mAP") is None and interval(None, "mAP") is None
    found = Checked(results_table([TableRow("a", {"O2S": row})], {"O2S": ""}, "c", ["mAP"]))
    assert "20.0 no interval" in found.text and not found.all("line", "span")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "12.0", True, [1]])
def test_a_figure_that_is_none_is_a_dash(value):
    assert number(value) is None
    found = Checked(results_table([TableRow("a", {"O2S": {"mAP": value}})], {"O2S": ""}, "c", ["mAP"]))
    assert "–" in found.text and not found.all("svg")


def test_numbers_of_numpy_are_numbers_and_those_too_large_are_none():
    assert number(np.float32(0.5)) == 0.5 and number(np.int64(3)) == 3.0 and number(10**400) is None


def test_nothing_to_tabulate_is_said():
    assert "no protocol with results" in Checked(results_table([], {"O2S": ""}, "c")).text
    assert "no protocol with results" in Checked(results_table([TableRow("a", {})], {}, "c")).text
    assert "not measured in one run" in Checked(difference_table({}, "c")).text
    assert "not measured in one run" in Checked(difference_table({"O2S": None}, "c")).text


def test_differences_carry_signs_and_what_they_say():
    rows = {"ALL": made_row(2.0, 0.5, 3.0), "O2S": made_row(-2.0, -3.0, -0.5), "S2O": made_row(0.2, -1.0, 1.0)}
    found = Checked(difference_table(rows, "c", ["mAP"]))
    assert "+2.0 [+0.5, +3.0] higher" in found.text
    assert "−2.0 [−3.0, −0.5] lower" in found.text
    assert "+0.2 [−1.0, +1.0] no difference shown" in found.text
    assert reading((0.0, 1.0)) == "no difference shown" and reading(None) == "not known how sure"
    middle = [float(line["x1"]) for line in found.all("line", "rail") if line["x1"] == line["x2"]]
    dots = [float(dot["cx"]) for dot in found.all("circle")]
    centre = sorted(middle)[len(middle) // 2]
    assert dots[0] > centre and dots[1] < centre and math.isclose(dots[0] - centre, centre - dots[1], abs_tol=0.11)


def test_names_are_escaped():
    row = TableRow("<b>", {"<i>": made_row(1.0, 0.5, 2.0)}, "<u>")
    text = results_table([row], {"<i>": "<s>"}, "<em>", ["mAP"])
    assert all(name in Checked(text).text for name in ("<b>", "<i>", "<u>", "<s>", "<em>"))
