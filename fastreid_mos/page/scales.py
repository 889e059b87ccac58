"""Axes of a chart: linear, logarithmic, and logarithmic with a place for zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("linear", "log", "log0")
# Share of a log0 axis that belongs to zero.
_ZERO = 0.1


@dataclass(frozen=True)
class Scale:
    """Where on an axis a value lies.

    Attributes:
        kind: ``linear``; ``log``, on which only values above 0 have a place; ``log0``, logarithmic with a place of its
            own for 0 at the low end.
        low, high: ends of the axis (of its logarithmic part).
    """

    kind: str
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], kind: str = "linear", pad: float = 0.0) -> Scale:
        """The axis that holds ``values``; ``pad`` is the share left free at either end.

        Raises:
            ValueError: a kind that there is not.
        """
        if kind not in KINDS:
            raise ValueError(f"kind of axis: one of {', '.join(KINDS)}, got {kind!r}")
        fit = [value for value in values if math.isfinite(value) and (kind == "linear" or value > 0)]
        if not fit:
            return cls(kind, *((0.0, 1.0) if kind == "linear" else (0.1, 1.0)))
        low, high = min(fit), max(fit)
        if kind != "linear":
            ratio = (high / low) ** pad if high > low else 2.0
            return cls(kind, low / ratio, high * ratio)
        # Values that differ by nothing but rounding are one value.
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            margin = 0.5 * abs(high) or 0.5
            return cls(kind, low - margin, high + margin)
        return cls(kind, low - pad * (high - low), high + pad * (high - low))

    def place(self, value: float) -> float | None:
        """0 at the low end, 1 at the high end; None for a value without a place."""
        if not math.isfinite(value):
            return None
        if self.kind == "linear":
            return (value - self.low) / (self.high - self.low)
        if value <= 0:
            return 0.0 if self.kind == "log0" and value == 0 else None
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return share if self.kind == "log" else _ZERO + (1 - _ZERO) * share

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """At most about ``count`` round values on the axis, and how they are written."""
        # matplotlib knows which values are round; its drawings are not used (see charts.py).
        from matplotlib.ticker import LogLocator, MaxNLocator

        even = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        values = list(even)
        if self.kind != "linear":
            for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                values = self._held(LogLocator(base=10, subs=subs, numticks=count + 2).tick_values(self.low, self.high))
                if len(values) >= 3:
                    break
            else:
                values = [value for value in even if value > 0]
        held = [(value, f"{round(value, 12):,.10g}") for value in self._held(values)]
        return [(0.0, "0"), *held] if self.kind == "log0" else held

    def _held(self, values: Iterable[float]) -> list[float]:
        margin = 1e-9 * (self.high - self.low)
        return [float(value) for value in values if self.low - margin <= value <= self.high + margin]
