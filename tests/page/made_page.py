"""What every page must keep to (balanced tags, nothing fetched, nothing run), and made-up figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "wbr"}
FETCHING = {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "source", "image", "use"}
ADDRESSES = {"src", "href", "xlink:href", "srcset", "poster", "data", "action", "background"}


class Checked(HTMLParser):
    """A page or a part of one; fails at what is wrong in it. ``text`` is the words between tags, without styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.stack, f"not closed: {self.stack}"
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        assert tag not in FETCHING and len(attrs) == len(dict(attrs)), (tag, attrs)
        for name, value in attrs:
            assert not name.startswith("on") and (name != "style" or "url(" not in value), (tag, name)
            assert name not in ADDRESSES or value.startswith(("data:image/", "#")), (tag, name, value[:80])
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "style":
            assert not re.search(r"url\(|@import|https?:", data)
        else:
            self.words.append(data)

    def all(self, tag, *classes):
        """Attributes of the elements of a kind and class."""
        found = [attrs for name, attrs in self.elements if name == tag]
        return [attrs for attrs in found if {*classes} <= {*attrs.get("class", "").split()}]


def checked_page(text):
    """A whole page, with what only a whole page has."""
    page = Checked(text)
    assert text.startswith("<!DOCTYPE html>") and ("html", {"lang": "en"}) in page.elements
    (policy,) = [attrs for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) and {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    return page


def made_row(value, low=None, high=None):
    """A row of results.json of which mAP and Rank-1 are the same."""
    return {"mAP": value, "Rank-1": value, "intervals": {"mAP": [low, high], "Rank-1": [low, high]}}
