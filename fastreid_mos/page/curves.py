"""Charts of a run's ``metrics.json`` and of the choice of alpha in ``results.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..errors import MOSError
from .charts import Series, binned, line_chart
from .rendering import number
from .tables import METRICS

Lines = Sequence[Mapping[str, Any]]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a ``metrics.json``, without a last one that a kill cut off; MOSError if there is none."""
    name, rows = os.fspath(path), []
    try:
        with open(name, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    continue
    except OSError as error:
        raise MOSError(f"{name}: cannot be read ({error.strerror})") from None
    return rows


def columns(lines: Lines) -> dict[str, list[tuple[float, float]]]:
    """By name the (iteration or step, value) of every line that has them as finite numbers, in order of the first."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        when = number(line.get("iteration", line.get("step")))
        for name, value in line.items():
            y = number(value)
            if when is not None and y is not None and name not in ("iteration", "step"):
                # A step written twice (a resumed run) counts as it was written last.
                found.setdefault(name, {})[when] = y
    return {name: sorted(values.items()) for name, values in found.items()}


def loss_chart(title: str, lines: Lines) -> Markup:
    """Every loss of a run, a name that begins or ends with ``loss``, against the iteration."""
    losses = {name: points for name, points in columns(lines).items() if re.search(r"(^|/)loss[^/]*$|loss$", name)}
    # The sum first: it is what is minimized.
    names = sorted(losses, key=lambda name: (not name.startswith("total"), name))
    series = [binned(name.replace("_", " "), losses[name]) for name in names]
    values = [y for points in losses.values() for _, y in points]
    log = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    note = ""
    if any(line.band for line in series):
        note = "Lines: means over stretches of the run; pale areas: smallest to largest value in each."
    label = "iteration" if any("iteration" in line for line in lines) else "step"
    return line_chart(series, title, label, "loss", y_scale="log" if log else "linear", note=note)


def learning_charts(title: str, lines: Lines) -> list[Markup]:
    """Figures on held-out training identities against the epoch, if any: a chart a metric, a line a protocol."""
    epochs = {line.get("iteration"): number(line.get("epoch")) for line in lines}
    found, charts = columns(lines), []
    splits = found.get("holdout/splits", [(0.0, 1.0)])[-1][1]
    for metric in METRICS:
        series, spread = [], []
        for name, points in found.items():
            parts = name.split("/")
            if parts[0] != "holdout" or parts[2:] != [metric]:
                continue
            done = [(epochs.get(when), y) for when, y in points]
            series.append(Series(parts[1], [(None if epoch is None else epoch + 1, y) for epoch, y in done]))
            if deviation := found.get(f"{name}_std"):
                spread.append(f"{parts[1]} {points[-1][1]:.1f} ± {deviation[-1][1]:.1f}")
        if series:
            note = "Held-out training identities; the test split is not looked at during training."
            if splits > 1 and spread:
                note += f" Means over {splits:g} splits; in the end, with the deviation over them: {', '.join(spread)}."
            charts.append(
                line_chart(series, f"{title}: {metric} while it learns", "epochs done", f"{metric}, %", note=note)
            )
    return charts


def alpha_chart(protocol: str, curve: Mapping[str, Any], alpha: float, k: int) -> Markup:
    """mAP against alpha by one of ``fusion.curves`` in results.json, a line for each K, the choice marked."""
    alphas, rows = curve["alphas"], dict(zip(curve["k"], curve["mAP"], strict=True))
    series = [Series(f"K = {k:g}", list(zip(alphas, row, strict=True))) for k, row in rows.items()]
    # k 0: no generated chip is used, and with alpha 0 all rows are the same.
    row = rows.get(k) or (next(iter(rows.values())) if alpha == 0 else [])
    height = number(dict(zip(alphas, row, strict=False)).get(alpha))
    words = "alpha 0: fusion not shown to help" if alpha == 0 else f"alpha {alpha:g}, K {k:g}"
    note = "On held-out training identities; alpha 0 is the unfused row."
    if height is None:
        note += f" Used: {words} (not on the curve)."
    return line_chart(
        series, f"{protocol}: mAP against alpha", "alpha", "mAP, %", x_scale="log0",
        chosen=None if height is None else (alpha, height, f"chosen: {words}"), note=note,
    )  # fmt: skip
