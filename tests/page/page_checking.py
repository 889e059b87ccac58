"""What every page must keep to (balanced tags, nothing fetched, nothing run), and made-up figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "wbr"}
FETCHING = {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "source", "image", "use"}
ADDRESSES = {"src", "href", "xlink:href", "srcset", "poster", "data", "action", "background"}


class Checked(HTMLParser):
    """Parses a page or a part of one and fails at what is wrong in it.

    ``elements`` are (tag, attributes) in order, ``text`` the words between tags, style sheets left out.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"not closed: {self.stack}"
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"{tag}: an attribute twice: {attrs}"
        assert tag not in FETCHING, f"an element that fetches or runs: {tag}"
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag}: runs code: {name}"
            if name in ADDRESSES:
                assert value.startswith(("data:image/", "#")), f"{tag}: {name} points outside: {value[:80]}"
            assert name != "style" or "url(" not in value
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "style":
            assert not re.search(r"url\(|@import|https?:", data)
        else:
            self.words.append(data)

    def all(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        """Attributes of the elements of a kind and class."""
        found = [attrs for name, attrs in self.elements if name == tag]
        return [attrs for attrs in found if not class_ or class_ in (attrs.get("class") or "").split()]


def checked_page(text: str) -> Checked:
    """A whole page, with what only a whole page has."""
    page = Checked(text)
    assert text.startswith("<!DOCTYPE html>") and ("html", {"lang": "en"}) in page.elements
    policies = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) and {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    return page


def made_row(value, low=None, high=None):
    """A row of results.json of which mAP and Rank-1 are the same."""
    return {"mAP": value, "Rank-1": value, "intervals": {"mAP": [low, high], "Rank-1": [low, high]}}
