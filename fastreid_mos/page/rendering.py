"""The page's templates, and the file that it becomes. What is not markup already is escaped."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import MOSError
from ..files import atomic_write

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


def write_page(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a page, whole or not at all."""
    name = os.fspath(path)
    if os.path.isdir(name):
        raise MOSError(f"{name}: is a folder; give a file name for the page")
    try:
        with atomic_write(name, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise MOSError(f"{name}: the page cannot be written there ({error.strerror})") from None


def number(value: Any) -> float | None:
    """A finite number; None for null and NaN, of a figure that could not be measured, and for text."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def interval(row: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """The interval of a figure; None where there is none (no resamplings, one ship)."""
    low, high = map(number, row.get("intervals", {}).get(metric) or (None, None))
    return None if low is None or high is None else (low, high)
