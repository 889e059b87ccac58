"""A task of a few chips, written by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from made_task import chip, image, query


@pytest.fixture
def made(tmp_path):
    """A task file ``path`` with the images, its ``content``, and ``write(content)``.

    Four optical and five SAR gallery chips; a query of each type. The O2O query is a gallery chip by another path, the
    S2S one a copy of a gallery chip.
    """
    for number in range(4):
        chip(tmp_path / f"gallery/o{number}.tif", "optical", number)
    for number in range(5):
        chip(tmp_path / f"gallery/s{number}.tif", "sar", 10 + number)
    chip(tmp_path / "query/q1_RGB.tif", "optical", 20)
    chip(tmp_path / "query/q2.tif", "sar", 21)
    (tmp_path / "query/q4.tif").write_bytes((tmp_path / "gallery/s3.tif").read_bytes())
    queries = [
        query("q1", "query/q1_RGB.tif"),
        query("q2", "query/q2.tif", " s2o "),
        query("q3", "query/../gallery/o2.tif", "O2O"),
        query("q4", "query/q4.tif", "S2S"),
        query("q5", "query/q1_RGB.tif", "ALL"),
    ]
    gallery = [image(f"o{n}", f"gallery/o{n}.tif", "optical") for n in range(4)]
    gallery += [image(f"s{n}", f"gallery/s{n}.tif", ("SAR", "sar", "radar", "VV", "s")[n]) for n in range(5)]
    made = SimpleNamespace(path=tmp_path / "task.json", content={"queries": queries, "gallery": gallery})

    def write(content):
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        made.path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return made.path

    made.write = write
    write(made.content)
    return made
