"""Charts of a run's ``metrics.json`` and of the choice of alpha in ``results.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MOSError
from .charts import Series, binned, line_chart
from .markup import Html, missing, tag
from .tables import METRICS, number

Lines = Sequence[Mapping[str, Any]]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a ``metrics.json``, one JSON object a line; a last line that a kill cut off is passed over.

    Raises:
        MOSError: the file is missing or cannot be read, or holds no such line.
    """
    name = os.fspath(path)
    rows = []
    try:
        with open(name, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    rows.append(row)
    except OSError as error:
        raise MOSError(f"{name}: cannot be read ({error.strerror})") from None
    if not rows:
        raise MOSError(f"{name}: holds no line of figures as a training writes them")
    return rows


def columns(lines: Lines) -> dict[str, list[tuple[float, float]]]:
    """By name the (iteration or step, value) of every line that has them as finite numbers, in order of the first."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        when = number(line.get("iteration", line.get("step")))
        if when is None:
            continue
        for name, value in line.items():
            y = number(value)
            if y is not None and name not in ("iteration", "step"):
                # A step written twice (a run that went on after a kill) counts as it was written last.
                found.setdefault(name, {})[when] = y
    return {name: sorted(values.items()) for name, values in found.items()}


def loss_chart(title: str, lines: Lines) -> Html:
    """Every loss of a run against the iteration: mean of each stretch, and the band from smallest to largest in it.

    Args:
        title: above the chart.
        lines: of its ``metrics.json``; what is drawn are the names that begin with ``loss`` or end with ``loss``.
    """
    losses = {name: points for name, points in columns(lines).items() if _is_loss(name)}
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


def _is_loss(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith("loss") or last.endswith("loss")


def learning_charts(title: str, lines: Lines, metrics: Sequence[str] = METRICS) -> list[Html]:
    """Figures on held-out training identities against the epoch, one chart a metric with a line a protocol.

    Args:
        title: the run's name.
        lines: of its ``metrics.json``, the names ``holdout/<protocol>/<metric>``.
        metrics: those to be drawn.

    Returns:
        The charts; none where the run tested on no held-out identities.
    """
    epochs = {number(line.get("iteration")): number(line.get("epoch")) for line in lines}
    found, charts = columns(lines), []
    splits = found.get("holdout/splits", [(0.0, 1.0)])[-1][1]
    for metric in metrics:
        series, spread = [], []
        for name, points in found.items():
            parts = name.split("/")
            if parts[0] != "holdout" or len(parts) != 3 or parts[2] != metric:
                continue
            series.append(Series(parts[1], [(_epoch(epochs, when), value) for when, value in points]))
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


def _epoch(epochs: Mapping[float | None, float | None], when: float) -> float | None:
    epoch = epochs.get(when)
    return None if epoch is None else epoch + 1


def alpha_charts(fusion: Mapping[str, Any] | None) -> list[Html]:
    """How the weight of the generated features was chosen: mAP against alpha, a line for each K, the choice marked.

    Args:
        fusion: the part ``fusion`` of results.json: ``curves`` by protocol with ``alphas``, ``k`` and ``mAP`` (a row
            for each k), ``alpha`` and ``k`` by protocol or one for all.

    Returns:
        A chart a protocol; a line of text where nothing was chosen.
    """
    if not isinstance(fusion, Mapping):
        return [missing("No alpha curve: there is no fused test.")]
    curves = fusion.get("curves")
    if not isinstance(curves, Mapping) or not curves:
        return [missing(f"No alpha curve: alpha was not chosen but given ({_given(fusion)}).")]
    return [_alpha_chart(str(name), curve, fusion) for name, curve in curves.items()]


def _given(fusion: Mapping[str, Any]) -> str:
    alpha = fusion.get("alpha")
    if isinstance(alpha, Mapping):
        return ", ".join(f"{name} {value}" for name, value in alpha.items())
    return str(alpha) if number(alpha) is not None else "its value is not on record"


def _alpha_chart(protocol: str, curve: Any, fusion: Mapping[str, Any]) -> Html:
    title = f"{protocol}: mAP against alpha"
    table = _table(curve)
    if table is None:
        return tag(
            "figure", tag("p", title, class_="name"), missing("The curve on record cannot be read."), class_="chart"
        )
    alphas, ks, rows = table
    series = [Series(f"K = {k:g}", list(zip(alphas, row, strict=True))) for k, row in zip(ks, rows, strict=True)]
    alpha, k = _of(fusion.get("alpha"), protocol), _of(fusion.get("k"), protocol)
    chosen = None
    note = "On held-out training identities; alpha 0 is the unfused row."
    if alpha is not None:
        if k in ks:
            row = dict(zip(alphas, rows[ks.index(k)], strict=True))
        else:  # k 0: no sample is used, where every row is the same
            row = dict(zip(alphas, rows[0], strict=True)) if alpha == 0 else {}
        height = row.get(alpha)
        words = "alpha 0: fusion not shown to help" if alpha == 0 else f"alpha {alpha:g}" + (f", K {k:g}" if k else "")
        if height is not None:
            chosen = (alpha, height, f"chosen: {words}")
        else:
            note += f" Used: {words} (not on the curve)."
    kind = "log0" if 0.0 in alphas else "log" if all(value > 0 for value in alphas) else "linear"
    return line_chart(series, title, "alpha", "mAP, %", x_scale=kind, chosen=chosen, note=note)


def _table(curve: Any) -> tuple[list[float], list[float], list[list[float | None]]] | None:
    """alphas, k and the mAP, a row for each k; None if they do not fit together."""
    if not isinstance(curve, Mapping):
        return None
    lists = [curve.get(name) for name in ("alphas", "k", "mAP")]
    if not all(isinstance(part, Sequence) and not isinstance(part, str) for part in lists):
        return None
    alphas, ks = ([number(value) for value in part or ()] for part in lists[:2])
    rows = [[number(value) for value in row] for row in lists[2] or () if isinstance(row, Sequence)]
    good_alphas = [value for value in alphas if value is not None]
    good_ks = [value for value in ks if value is not None]
    if not rows or len(good_alphas) != len(alphas) or len(good_ks) != len(ks):
        return None
    if len(rows) != len(ks) or any(len(row) != len(alphas) for row in rows):
        return None
    return good_alphas, good_ks, rows


def _of(value: Any, protocol: str) -> float | None:
    return number(value.get(protocol)) if isinstance(value, Mapping) else number(value)
