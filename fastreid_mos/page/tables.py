"""Tables of figures with their intervals, by protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .markup import Html, join, missing, tag

METRICS = ("mAP", "Rank-1")
_WIDTH, _HEIGHT = 130.0, 14.0


@dataclass(frozen=True)
class TableRow:
    """One way of ranking.

    Attributes:
        name: of the row.
        figures: by protocol, as a row of results.json: metric -> percent, and ``intervals``: metric -> [low, high].
            None: there is no such run.
        note: what the row is; or by protocol.
        own: whether it is what the page is about.
    """

    name: str
    figures: Mapping[str, Any] | None
    note: str | Mapping[str, str] = ""
    own: bool = False


def number(value: Any) -> float | None:
    """A finite number, or None for what is none (null, text, NaN, truth values)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def interval(row: Any, metric: str) -> tuple[float, float] | None:
    """The interval of a figure, or None where there is none (no resamplings, one ship)."""
    pairs = row.get("intervals") if isinstance(row, Mapping) else None
    pair = pairs.get(metric) if isinstance(pairs, Mapping) else None
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
        return None
    low, high = number(pair[0]), number(pair[1])
    return None if low is None or high is None else (low, high)


def results_table(
    rows: Sequence[TableRow],
    protocols: Mapping[str, str],
    caption: str,
    metrics: Sequence[str] = METRICS,
) -> Html:
    """Rows under each protocol, every figure with its 95 % interval as numbers and as a line.

    Args:
        rows: the same for every protocol; a figure that is not there is a dash, a row without a run says so.
        protocols: name -> what is ranked in it.
        caption: above the table.
        metrics: its columns.
    """
    if not rows or not protocols:
        return missing("No figures: there is no protocol with results.")
    head = tag(
        "thead",
        tag("tr", tag("th", "Ranked by", scope="col"), *(tag("th", f"{name}, %", scope="col") for name in metrics)),
    )
    top = _top(rows, protocols, metrics)
    bodies = []
    for protocol, about in protocols.items():
        group = tag(
            "tr", tag("th", protocol, tag("span", about), colspan=len(metrics) + 1, scope="rowgroup"), class_="group"
        )
        lines = [_line(row, protocol, metrics, top) for row in rows]
        bodies.append(tag("tbody", group, *lines))
    above = tag("caption", caption, f" Lines run from 0 to {top:g}.")
    return tag("div", tag("table", above, head, *bodies), class_="scroll")


def _top(rows: Sequence[TableRow], protocols: Mapping[str, str], metrics: Sequence[str]) -> float:
    """The round figure that every line of the table ends at."""
    found = [row.figures.get(name) for row in rows if isinstance(row.figures, Mapping) for name in protocols]
    parts = [part for part in found if isinstance(part, Mapping)]
    ends = [number(part.get(metric)) or 0.0 for part in parts for metric in metrics]
    ends += [pair[1] for part in parts for metric in metrics if (pair := interval(part, metric))]
    return next((top for top in (10.0, 25.0, 50.0) if max(ends, default=100.0) <= top), 100.0)


def _line(row: TableRow, protocol: str, metrics: Sequence[str], top: float) -> Html:
    note = row.note if isinstance(row.note, str) else row.note.get(protocol, "")
    head = tag("th", row.name, tag("small", note) if note else None, scope="row")
    figures = row.figures.get(protocol) if isinstance(row.figures, Mapping) else None
    if not isinstance(figures, Mapping):
        text = "not run" if row.figures is None else "not measured"
        return tag(
            "tr",
            head,
            tag("td", tag("span", text, class_="note"), colspan=len(metrics)),
            class_="own" if row.own else None,
        )
    return tag(
        "tr", head, *(tag("td", _figure(figures, name, top)) for name in metrics), class_="own" if row.own else None
    )


def _figure(figures: Mapping[str, Any], metric: str, top: float) -> Html:
    value, pair = number(figures.get(metric)), interval(figures, metric)
    if value is None:
        return tag("b", "–")
    text = f"[{pair[0]:.1f}, {pair[1]:.1f}]" if pair else "no interval"
    return join(tag("b", f"{value:.1f}"), " ", tag("span", text, class_="interval"), " ", _whisker(value, pair, 0, top))


def difference_table(differences: Mapping[str, Any], caption: str, metrics: Sequence[str] = METRICS) -> Html:
    """Figures of one row less those of another, by protocol, with the paired interval and what it says in words.

    Args:
        differences: by protocol a row as of ``fused_above``; None where there is none.
        caption: above the table.
        metrics: its columns.
    """
    known = {name: row for name, row in differences.items() if isinstance(row, Mapping)}
    if not known:
        return missing("No differences: unfused and fused rows were not measured in one run.")
    values = [
        abs(x)
        for row in known.values()
        for name in metrics
        for x in (number(row.get(name)), *(interval(row, name) or ()))
        if x is not None
    ]
    span = max([1.0, *values])
    head = tag(
        "thead",
        tag("tr", tag("th", "Protocol", scope="col"), *(tag("th", f"{name}, points", scope="col") for name in metrics)),
    )
    lines = [
        tag("tr", tag("th", name, scope="row"), *(tag("td", _difference(row, metric, span)) for metric in metrics))
        for name, row in known.items()
    ]
    return tag("div", tag("table", tag("caption", caption), head, tag("tbody", *lines)), class_="scroll")


def _difference(row: Mapping[str, Any], metric: str, span: float) -> Html:
    value, pair = number(row.get(metric)), interval(row, metric)
    if value is None:
        return tag("b", "–")
    text = f"[{_signed(pair[0])}, {_signed(pair[1])}]" if pair else "no interval"
    return join(
        tag("b", _signed(value)), " ", tag("span", text, class_="interval"), " ", _whisker(value, pair, -span, span),
        " ", tag("small", reading(pair), class_="note"),
    )  # fmt: skip


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\u2212")


def reading(pair: tuple[float, float] | None) -> str:
    """What the interval of a difference says, in words."""
    if pair is None:
        return "not known how sure"
    if pair[0] > 0:
        return "higher"
    return "lower" if pair[1] < 0 else "no difference shown"


def _whisker(value: float, pair: tuple[float, float] | None, low: float, high: float) -> Html:
    """A value and its interval on a rail from ``low`` to ``high``; the numbers beside it say the same."""

    def place(x: float) -> str:
        return f"{4 + (_WIDTH - 8) * min(1.0, max(0.0, (x - low) / (high - low))):.1f}"

    middle = f"{_HEIGHT / 2:g}"
    parts = [tag("line", x1=place(low), x2=place(high), y1=middle, y2=middle, class_="rail")]
    for end in sorted({low, high, 0.0}):
        parts.append(tag("line", x1=place(end), x2=place(end), y1="3", y2="11", class_="rail"))
    if pair:
        parts.append(tag("line", x1=place(pair[0]), x2=place(pair[1]), y1=middle, y2=middle, class_="span"))
    parts.append(tag("circle", cx=place(value), cy=middle, r="3.5", class_="dot"))
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="whisker", aria_hidden="true")
