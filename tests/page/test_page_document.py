"""Markup and the page around it."""

from __future__ import annotations

import os

import pytest
from page_checking import Checked, checked_page

from fastreid_mos.errors import MOSError
from fastreid_mos.page import Html, Page, Section, join, markup, missing, tag, write_page

HOSTILE = "</style></title><script>alert('1')</script>\"onload=\"x"


def test_text_is_escaped_and_markup_is_not():
    assert markup("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert tag("p", Html("<b>x</b>"), "<i>", None, 3) == "<p><b>x</b>&lt;i&gt;3</p>"
    # Markup in an attribute would end it at its first quote.
    assert tag("a", title=Html('"x"')) == '<a title="&quot;x&quot;"></a>'
    assert tag("p", class_="a", stroke_width=2, hidden=True, id=None, lang=False) == (
        '<p class="a" stroke-width="2" hidden></p>'
    )
    assert isinstance(join("a", tag("br")), Html)


def test_names_that_are_no_text_are_shown_and_can_be_written(tmp_path):
    name = os.fsdecode(b"ship\xff\x00\x1b.tif") + "\u202egnp.exe"
    page = Page("Ships", sections=[Section("Chips", [name, missing(name)])])
    assert write_page(tmp_path / "page.html", page.render()) == (tmp_path / "page.html").stat().st_size
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "\u202e" not in text and "\x00" not in text and "ship\ufffd\ufffd\ufffd.tif\ufffdgnp.exe" in text


def test_a_stamp_stands_in_the_title_the_banner_and_at_every_heading():
    page = Page("Ships", "a < b", "SIMULATED", "not real", {"seed": 3}, [Section("One", ["text"]), Section("Two", [])])
    found = checked_page(page.render())
    assert "<title>SIMULATED: Ships</title>" in page.render()
    assert len(found.all("span", "stamp")) == len(found.all("h2")) == 2
    assert "SIMULATED: not real" in found.text and "a < b" in found.text and "seed3" in found.text.replace(" ", "")
    plain = checked_page(Page("Ships", sections=[Section("One", ["text"])]).render())
    assert not plain.all("span", "stamp") and not plain.all("div", "banner")


def test_hostile_words_anywhere_stay_words():
    page = Page(HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, [Section(HOSTILE, [HOSTILE])] * 2, HOSTILE)
    found = checked_page(page.render())
    assert found.text.count("<script>alert('1')</script>") >= 8


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    page = Page("New", sections=[Section("One", ["x"])])
    with pytest.raises(MOSError, match="is a folder; give a file name"):
        page.write(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MOSError, match="page cannot be written there"):
        page.write(tmp_path / "file" / "page.html")
    target = tmp_path / "page.html"
    target.write_text("earlier")

    class Broken(str):
        def encode(self, *_):
            raise MemoryError

    with pytest.raises(MemoryError):
        write_page(target, Broken("x"))
    assert target.read_text() == "earlier"
    assert page.write(target) == target.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "page.html"]


def test_the_checker_of_these_tests_finds_what_it_is_for():
    for bad in ("<p><b></p></b>", "<p>", "<img src='https://x/y.png'>", "<script></script>", "<p onclick='x'></p>",
                "<style>a{background:url(x)}</style>", "<a href='javascript:x'></a>"):  # fmt: skip
        with pytest.raises(AssertionError):
            Checked(bad)
