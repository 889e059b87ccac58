"""A page in one file: heading, sections, style sheet; nothing in it is fetched from anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import MOSError
from ..files import atomic_write
from .markup import Html, join, tag
from .style import CSS

# A browser that obeys this fetches nothing and runs nothing, whatever a text in the page contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading.

    Attributes:
        title: the heading.
        parts: :class:`~fastreid_mos.page.markup.Html` as it stands; plain text becomes a paragraph.
    """

    title: str
    parts: Sequence[str]

    def render(self, anchor: str, stamp: str) -> Html:
        """The section as markup, ``stamp`` beside its heading."""
        heading = tag("h2", self.title, tag("span", stamp, class_="stamp") if stamp else None)
        return tag("section", heading, *(_paragraph(part) for part in self.parts), id=anchor)


@dataclass
class Page:
    """One self-contained page.

    Attributes:
        title: of the page.
        lead: what it is about; plain text becomes a paragraph.
        stamp: one word that must be seen, such as SIMULATED: in the window's title and beside every heading.
        banner: the stamp's sentence, which stays at the top of the window.
        facts: names and values under the lead.
        sections: in order.
        footer: the last line.
    """

    title: str
    lead: str = ""
    stamp: str = ""
    banner: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    footer: str = ""

    def render(self) -> str:
        """The whole file's text."""
        anchors = [f"part-{number}" for number in range(1, len(self.sections) + 1)]
        links = [
            tag("li", tag("a", part.title, href=f"#{anchor}"))
            for part, anchor in zip(self.sections, anchors, strict=True)
        ]
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", f"{self.stamp}: {self.title}" if self.stamp else self.title),
            tag("style", Html(CSS)),
        )
        banner = f"{self.stamp}: {self.banner}" if self.stamp and self.banner else self.stamp or self.banner
        body = tag(
            "body",
            tag("div", banner, class_="banner", role="note") if banner else None,
            tag(
                "header",
                tag("h1", self.title),
                tag("div", _paragraph(self.lead), class_="lead") if self.lead else None,
                facts_list(self.facts) if self.facts else None,
            ),
            tag("nav", tag("ul", *links), aria_label="Sections") if len(links) > 1 else None,
            tag(
                "main",
                *(part.render(anchor, self.stamp) for part, anchor in zip(self.sections, anchors, strict=True)),
            ),
            tag("footer", _paragraph(self.footer)) if self.footer else None,
        )
        return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"

    def write(self, path: str | os.PathLike[str]) -> int:
        """Write the page, whole or not at all.

        Returns:
            Its size in bytes.

        Raises:
            MOSError: the file cannot be written.
        """
        return write_page(path, self.render())


def write_page(path: str | os.PathLike[str], text: str) -> int:
    """Write a rendered page, whole or not at all; its size in bytes.

    Raises:
        MOSError: the file cannot be written.
    """
    content = text.encode("utf-8")
    name = os.fspath(path)
    if os.path.isdir(name):
        raise MOSError(f"{name}: is a folder; give a file name for the page")
    try:
        with atomic_write(name, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise MOSError(f"{name}: the page cannot be written there ({error.strerror})") from None
    return len(content)


def facts_list(facts: Mapping[str, object]) -> Html:
    """Names and values, one pair a line."""
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in facts.items()), class_="facts")


def _paragraph(part: str) -> Html:
    return part if isinstance(part, Html) else tag("p", part)
