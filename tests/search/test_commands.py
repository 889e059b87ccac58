"""mos index and mos search from the command line, with zoo:mos on simulated chips."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid_mos.commands import main
from fastreid_mos.commands.index import EXAMPLE as INDEX
from fastreid_mos.commands.search import EXAMPLE as SEARCH


@pytest.fixture(scope="module")
def here(tiny_hoss, tmp_path_factory):
    """A folder with port/ and its index, made by the example of mos index."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "port").mkdir()
    for kind, count in (("RGB", 6), ("SAR", 5)):
        chips = sorted(tiny_hoss.rglob(f"*_{kind}.tif"))[: 2 * count : 2]
        for number, path in enumerate(chips, 12):
            shutil.copy(path, folder / f"port/{number}_{kind}.tif")
    shutil.copy(folder / "port/12_RGB.tif", folder / "port/99_RGB.tif")  # the same file twice
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(INDEX.split()[1:]) == 0
    return folder


def error(capsys, words):
    capsys.readouterr()
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("chips:")]
    return line


@pytest.mark.slow
def test_the_examples_find_chips_and_write_a_page(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    capsys.readouterr()
    assert main(SEARCH.split()[1:]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 5 and all(re.search(r" sar .*_SAR\.tif$", line) for line in lines[3:])
    page = Path("output/found.html").read_text()
    alts = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)"', page)
    assert len(alts) == page.count("<img") == 6 and "12_RGB" in alts[0] and all("SAR" in alt for alt in alts[1:])
    assert not re.search(r"(src|href)=.(?!data:|#)", page) and SEARCH in page

    assert main(["search", "port/12_RGB.tif", "port/13_SAR.tif", "--index", "output/port", "--json", "-k", "100"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    names = [[Path(chip["path"]).name for chip in found["chips"]] for found in (first, second)]
    assert len(names[0]) == 10 and not {"12_RGB.tif", "99_RGB.tif"} & {*names[0]}  # itself, and its copy
    assert len(names[1]) == 11 and "13_SAR.tif" not in names[1]
    for found in (first, second):
        cosines = [chip["cosine"] for chip in found["chips"]]
        assert cosines == sorted(cosines, reverse=True) and {chip["rank"] for chip in found["chips"]} == {
            *range(1, len(cosines) + 1)
        }
        assert all(0 < chip["probability"] < 1 for chip in found["chips"])

    assert main(["search", "port/12_RGB.tif", "--index", "output/port", "--json", "-k", "3"]) == 0
    assert [Path(chip["path"]).name for chip in json.loads(capsys.readouterr().out)[0]["chips"]] == names[0][:3]

    assert main(["search", "port/12_RGB.tif", "--index", "output/port", "--json", "-k", "2", "--keep-self"]) == 0
    found = json.loads(capsys.readouterr().out)[0]["chips"]
    assert {Path(chip["path"]).name for chip in found} == {"12_RGB.tif", "99_RGB.tif"}
    assert all(chip["itself"] and chip["cosine"] > 0.9999 for chip in found)


@pytest.mark.slow
def test_wrong_input_is_one_line(here, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(here)
    (tmp_path / "page").mkdir()
    grey = tmp_path / "grey.png"
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(20, 10)).save(grey)
    search = ["search", "port/12_RGB.tif", "--index", "output/port"]
    for words, expected in [
        (["search", "port/none.tif", "--index", "output/port"], "port/none.tif: no such file"),
        (["search", "port/12_RGB.tif", "--index", "output"], "is no index; make one with: mos index"),
        (["search", "port/12_RGB.tif", "--index", "http://x"], "neither a folder nor"),
        (["search", str(grey), "--index", "output/port"], "grey.png: neither its name .*; give --query-modality"),
        (
            ["index", str(grey), "--index", str(tmp_path / "one")],
            "grey.png: neither its name .*; give --modality; none of 1",
        ),
        ([*search, "-k", "0"], "-k 0: at least 1"),
        ([*search, "--max-length-difference", "-1"], "--max-length-difference -1.0: a share"),
        ([*search, "--html", str(tmp_path / "page")], "--html .*: is a folder"),
        ([*search, "--html", "port/13_SAR.tif"], "--html port/13_SAR.tif: holds something other"),
        ([*search, "--weights", "zoo:none"], "zoo:none: the zoo has no such weights"),
        (["index", "port", "--index", "port"], "--index .*port: holds other files"),
        (["index", "none", "--index", str(tmp_path / "new")], "none: no such file or folder"),
        (["index", "port", "--index", "output/port", "--weights", "none.pth"], "none.pth: "),
    ]:
        assert re.search(expected, error(capsys, words)), words
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_other_weights_are_refused(here, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(here)
    shutil.copytree("output/port", tmp_path / "other")
    other = str(tmp_path / "other")
    with sqlite3.connect(tmp_path / "other/chips.sqlite") as connection:
        connection.execute("UPDATE state SET weights_id = ?", ("ab" * 32,))
    connection.close()
    search = ["search", "port/12_RGB.tif", "--index", other, "-k", "1"]
    assert main(search) == 0 and main(["index", "port", "--index", other]) == 0  # they give its chips its features
    file = tmp_path / "other/features-1.f32"
    file.write_bytes(np.fromfile(file, "<f4")[::-1].tobytes())
    assert "is of other weights (zoo:mos, SHA-256 abababababab...) than zoo:mos" in error(capsys, search)
    assert "is of other weights" in error(capsys, ["index", "port", "--index", other])
    assert main([*search, "--force"]) == 0
    with sqlite3.connect(tmp_path / "other/chips.sqlite") as connection:
        connection.execute("UPDATE state SET dim = 10, rows = 1")
    connection.close()
    assert "is of other weights" in error(capsys, [*search, "--force"])
