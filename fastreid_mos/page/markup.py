"""HTML elements as text: what is not marked as markup is escaped."""

from __future__ import annotations

import html
import re
from typing import Any

# HTML knows no control characters; lone surrogates (file names that are no UTF-8) cannot be written; the characters
# that turn the direction of writing would let a file name rearrange the text around it.
_UNFIT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_VOID = frozenset(("br", "hr", "img", "meta"))


class Html(str):
    """Text that is markup already and is put into a page as it stands."""

    __slots__ = ()


def markup(value: object) -> Html:
    """``value`` as markup: :class:`Html` as it stands, anything else escaped (also for use inside quotes)."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNFIT.sub("\ufffd", str(value)), quote=True))


def tag(name: str, /, *content: object, **attributes: Any) -> Html:
    """One element, HTML or SVG.

    Args:
        name: of the element.
        content: each part by :func:`markup`; None is left out.
        attributes: their values escaped; None and False leave one out, True writes its name alone. ``class_`` is
            ``class``, other underscores are hyphens (``stroke_width``).
    """
    text = f"<{name}"
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        # Html inside an attribute would end at the first quote: always escaped here.
        text += f" {key}" if value is True else f' {key}="{markup(str(value))}"'
    if name in _VOID:
        return Html(text + ">")
    return Html(f"{text}>{join(*content)}</{name}>")


def join(*content: object) -> Html:
    """Parts one after another, each by :func:`markup`; None is left out."""
    return Html("".join(markup(part) for part in content if part is not None))


def missing(text: object) -> Html:
    """A line in the place of what is not there."""
    return tag("p", text, class_="missing")
