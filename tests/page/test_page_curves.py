"""Charts of what a run leaves behind."""

from __future__ import annotations

import json

import pytest
from page_checking import Checked

from fastreid_mos.errors import MOSError
from fastreid_mos.page import alpha_charts, learning_charts, loss_chart, read_metrics
from fastreid_mos.page.curves import columns


def test_metrics_with_a_line_cut_off_by_a_kill(tmp_path):
    lines = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n[1]\n{"step": 2, "lo')
    assert read_metrics(tmp_path / "metrics.json") == lines
    (tmp_path / "empty.json").write_text("")
    for name, words in (("empty.json", "holds no line of figures"), ("none.json", "cannot be read"), ("", "cannot be")):
        with pytest.raises(MOSError, match=words):
            read_metrics(tmp_path / name)


def test_steps_written_twice_count_as_written_last():
    lines = [{"step": 1, "loss": 5.0}, {"step": 0, "loss": 9.0}, {"step": 1, "loss": 4.0}, {"loss": 1.0}]
    assert columns([*lines, {"step": 2, "loss": None}]) == {"loss": [(0.0, 9.0), (1.0, 4.0)]}


def test_losses_are_found_by_their_names_and_nothing_else():
    lines = [
        {"iteration": n, "epoch": 0, "total_loss": 9.0, "loss_cls": 6.0, "loss_cmal": 3.0, "lr": 0.1, "time": 0.2}
        for n in range(3)
    ]
    found = Checked(loss_chart("MOS", lines))
    assert [name in found.text for name in ("total loss", "loss cls", "loss cmal", "lr", "time")] == [True] * 3 + [
        False
    ] * 2
    assert len(found.all("li")) == 3 and "iteration across" in found.text
    bridge = Checked(loss_chart("bridge", [{"step": n, "loss": 1.0 / (n + 1), "lr": 1e-4} for n in range(500)]))
    assert "step across" in bridge.text and "loss (logarithmic)" in bridge.text and len(bridge.all("path", "band")) == 1
    assert "Nothing to draw" in Checked(loss_chart("none", [])).text


def test_learning_curves_are_by_epoch_and_only_of_held_out_identities():
    lines = []
    for n in range(6):
        line = {"iteration": n, "epoch": n // 2, "loss": 1.0, "O2S/mAP": 99.0}
        if n % 2:
            line |= {"holdout/O2S/mAP": 10.0 + n, "holdout/S2O/mAP": 5.0 + n, "holdout/O2S/mAP_std": 1.0}
            line["holdout/splits"] = 3
        lines.append(line)
    (chart,) = learning_charts("MOS", lines)
    found = Checked(chart)
    assert "O2S: 3 points, first 11, last 15" in found.text and "S2O: 3 points" in found.text and "99" not in found.text
    assert "O2S: 1, 11" in found.text and "O2S: 3, 15" in found.text  # epochs done, mAP
    assert "Means over 3 splits; in the end, with the deviation over them: O2S 15.0 ± 1.0." in found.text
    assert learning_charts("MOS", lines, ["Rank-1"]) == [] and learning_charts("MOS", []) == []


def _ring(chart):
    (ring,) = chart.all("circle", "chosen")
    return float(ring["cx"]), float(ring["cy"])


def test_the_chosen_alpha_is_marked_on_the_line_of_its_k(results):
    first, second = (Checked(chart) for chart in alpha_charts(results["fusion"]))
    assert "chosen: alpha 0.1, K 2" in first.text and "chosen: alpha 0: fusion not shown to help" in second.text
    squares = first.all("rect", "mark")  # K = 2 is the second line
    x, y = _ring(first)
    assert (float(squares[1]["x"]) + 3, float(squares[1]["y"]) + 3) == (pytest.approx(x), pytest.approx(y))
    dots = second.all("circle", "mark")
    assert _ring(second) == (pytest.approx(float(dots[0]["cx"])), pytest.approx(float(dots[0]["cy"])))


def test_one_alpha_for_all_and_one_beside_the_curve(results):
    fusion = {**results["fusion"], "alpha": 0.1, "k": 1}
    assert all("chosen: alpha 0.1, K 1" in Checked(chart).text for chart in alpha_charts(fusion))
    charts = [Checked(chart) for chart in alpha_charts({**fusion, "alpha": 0.02})]
    assert all("Used: alpha 0.02, K 1 (not on the curve)." in chart.text for chart in charts)
    assert not any(chart.all("circle", "chosen") for chart in charts)


def test_where_nothing_was_chosen_the_page_says_so():
    assert "no fused test" in Checked(alpha_charts(None)[0]).text
    (chart,) = alpha_charts({"alpha": {"O2S": 0.02}, "curves": {}})
    assert "not chosen but given (O2S 0.02)" in Checked(chart).text
    assert "given (0.02)" in Checked(alpha_charts({"alpha": 0.02})[0]).text
    assert "not on record" in Checked(alpha_charts({"curves": None})[0]).text


@pytest.mark.parametrize(
    "curve",
    [None, {}, {"alphas": [0, 1], "k": [1], "mAP": [[1.0]]}, {"alphas": [0], "k": [1, 2], "mAP": [[1.0]]},
     {"alphas": ["x"], "k": [1], "mAP": [[1.0]]}, {"alphas": [], "k": [], "mAP": []}],
)  # fmt: skip
def test_a_curve_that_cannot_be_read_is_said(curve):
    (chart,) = alpha_charts({"alpha": 0.1, "curves": {"O2S": curve}})
    assert "cannot be read" in Checked(chart).text


def test_points_that_were_not_measured_are_left_out_of_the_curve():
    curve = {"alphas": [0.0, 0.1, 1.0], "k": [1], "mAP": [[40.0, None, 30.0]]}
    found = Checked(alpha_charts({"alpha": 0.1, "k": 1, "curves": {"O2S": curve}})[0])
    assert len(found.all("circle", "mark")) == 2 and not found.all("circle", "chosen")
