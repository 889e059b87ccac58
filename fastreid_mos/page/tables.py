"""Tables of figures with their intervals, by protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from .rendering import interval, number, render

METRICS = ("mAP", "Rank-1")


class TableRow(NamedTuple):
    """One way of ranking."""

    name: str
    figures: Mapping[str, Any] | None  # by protocol, as a row of results.json; None: there is no such run
    note: str | Mapping[str, str] = ""  # what the row is; or by protocol
    own: bool = False  # whether it is what the page is about


def results_table(
    rows: Sequence[TableRow], protocols: Mapping[str, str], caption: str, metrics: Sequence[str] = METRICS
) -> Markup:
    """Rows under each protocol (name -> what is ranked in it), every figure with its interval in numbers and drawn."""
    parts = [row.figures[name] for row in rows if row.figures for name in protocols if row.figures.get(name)]
    # The round figure that every line of the table ends at.
    top = next((top for top in (10.0, 25.0, 50.0) if max(_numbers(parts, metrics), default=100.0) <= top), 100.0)
    groups = []
    for protocol, about in protocols.items():
        lines: list[dict[str, Any]] = []
        for row in rows:
            figures = (row.figures or {}).get(protocol)
            lines.append(
                {
                    "name": row.name,
                    "note": row.note if isinstance(row.note, str) else row.note.get(protocol, ""),
                    "own": row.own,
                    "absent": "not run" if row.figures is None else "not measured",
                    "cells": [_cell(figures, metric, 0.0, top) for metric in metrics] if figures else [],
                }
            )
        groups.append((protocol, about, lines))
    caption += f" Lines run from 0 to {top:g}."
    return render("results.html", groups=groups, metrics=metrics, caption=caption)


def difference_table(differences: Mapping[str, Any], caption: str, metrics: Sequence[str] = METRICS) -> Markup:
    """Figures of one row less those of another, by protocol, with the paired interval and what it says in words."""
    span = max([1.0, *map(abs, _numbers(differences.values(), metrics))])
    lines = {
        name: [_cell(row, metric, -span, span, signed=True) for metric in metrics] for name, row in differences.items()
    }
    return render("differences.html", lines=lines, metrics=metrics, caption=caption)


def _reading(pair: tuple[float, float] | None) -> str:
    """What the interval of a difference says, in words."""
    if pair is None:
        return "not known how sure"
    if pair[0] > 0:
        return "higher"
    return "lower" if pair[1] < 0 else "no difference shown"


def _numbers(rows: Iterable[Mapping[str, Any]], metrics: Sequence[str]) -> list[float]:
    """All figures and ends of intervals that there are."""
    parts = [(number(row.get(metric)), *(interval(row, metric) or ())) for row in rows for metric in metrics]
    return [end for part in parts for end in part if end is not None]


def _cell(row: Mapping[str, Any], metric: str, low: float, high: float, signed: bool = False) -> dict[str, Any] | None:
    """A figure with its interval, in numbers and as places on a rail from ``low`` to ``high``; None: no figure."""
    value, pair = number(row.get(metric)), interval(row, metric)
    if value is None:
        return None

    def text(figure: float) -> str:
        return f"{figure:+.1f}".replace("-", "\u2212") if signed else f"{figure:.1f}"

    def place(figure: float) -> float:
        return 4 + 122 * min(1.0, max(0.0, (figure - low) / (high - low)))

    return {
        "value": text(value),
        "interval": f"[{text(pair[0])}, {text(pair[1])}]" if pair else "no interval",
        "reading": _reading(pair) if signed else "",
        "rail": [place(end) for end in sorted({low, high, 0.0})],
        "span": [place(end) for end in pair or ()],
        "dot": place(value),
    }
