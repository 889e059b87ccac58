"""The page's templates. What is not markup already is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["px"] = lambda length: f"{length:.1f}"


def render(template: str, **values: Any) -> Markup:
    """A template of ``templates/`` with these values, as markup."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def number(value: Any) -> float | None:
    """A finite number; None for null and NaN, of a figure that could not be measured, and for text."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def interval(row: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """The interval of a figure; None where there is none (no resamplings, one ship)."""
    low, high = map(number, row.get("intervals", {}).get(metric) or (None, None))
    return None if low is None or high is None else (low, high)
