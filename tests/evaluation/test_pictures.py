"""Pictures of top lists: what is drawn where, and what is refused."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastreid_mos.data import sar_denoise
from fastreid_mos.errors import ChipError, MOSError
from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator
from fastreid_mos.evaluation.pictures import PLAIN, RIGHT, WRONG, draw_top_lists, read_top_lists

BLUE = (10, 20, 230)
BORDER = 106 * 202 - 96 * 192  # pixels


@pytest.fixture
def chips(tmp_path):
    """A blue optical chip with one white pixel and a SAR one with a bright half."""
    optical, sar = tmp_path / "1_a_RGB.tif", tmp_path / "1_b_SAR.tif"
    image = Image.new("RGB", (20, 40), BLUE)
    image.putpixel((0, 0), (255, 255, 255))
    image.save(optical)
    pixels = np.full((60, 30), 0.5, np.float32)
    pixels[:, 15:] = 3.0
    pixels[0] = 0.0
    tifffile.imwrite(sar, pixels)
    return str(optical), str(sar)


def count(picture, colour):
    return int((picture == np.array(colour, np.uint8)).all(axis=2).sum())


def test_right_and_wrong_are_marked(chips, tmp_path):
    optical, sar = chips
    path = tmp_path / "new" / "top.png"
    draw_top_lists(path, [(optical, [sar, optical, optical], [True, False, False]), (sar, [optical], [True])], "title")
    picture = np.asarray(Image.open(path))
    borders = count(picture, RIGHT), count(picture, WRONG)
    # Two right and two wrong ones: their borders are alike, a tick and a cross are a few dozen pixels.
    assert min(borders) > 2 * 5 * 2 * (96 + 192) and abs(borders[0] - borders[1]) < 200
    # The blue chip stands there four times, scaled to the height of its cell.
    assert 0.98 * 4 * 96 * 192 < count(picture, BLUE) < 4 * 96 * 192
    grey = int(sar_denoise(tifffile.imread(sar))[30, 20, 0])
    assert grey == 255 and count(picture, (255, 255, 255)) > 2 * 40 * 190


def test_marks_differ_in_shape_not_only_in_colour(chips, tmp_path):
    optical, _ = chips
    marks = []
    for right, colour in ((True, RIGHT), (False, WRONG)):
        draw_top_lists(tmp_path / "one.png", [(optical, [optical], [right])])
        picture = (np.asarray(Image.open(tmp_path / "one.png")) == np.array(colour, np.uint8)).all(axis=2)
        marks.append(picture[picture.any(axis=1).argmax() + 192 + 2 * 5 :])
    assert marks[0].any() and marks[1].any() and not np.array_equal(*marks)


def test_neither_right_nor_wrong_is_grey_without_a_mark(chips, tmp_path):
    optical, _ = chips
    draw_top_lists(tmp_path / "one.png", [(optical, [optical], [None])])
    picture = np.asarray(Image.open(tmp_path / "one.png"))
    assert count(picture, RIGHT) == count(picture, WRONG) == 0
    # Beside the two borders a few pixels of the labels' soft edges.
    assert 0 <= count(picture, PLAIN) - 2 * BORDER < 100


def test_tool_draws_a_run_with_an_unknown_ship(split, chips, tmp_path, capsys):
    tool = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "draw_ranks.py"))

    def draw_ranks(*arguments):
        return tool["main"]([*map(str, arguments)]), *capsys.readouterr()

    split.ids[0] = 777
    files = tuple(chips[kind] for kind in split.modalities)
    run = tmp_path / "run"
    made = FusionReidEvaluator(
        num_query=split.num_query, settings=EvalSettings(bootstrap_samples=0), output_dir=str(run)
    )
    split.changed(paths=files).run(made)
    status, said, error = draw_ranks(run, "--protocol", "O2S", "--count", 12)
    assert (status, error) == (0, "") and str(run / "top5.png") in said
    picture = np.asarray(Image.open(run / "top5.png"))
    assert picture.shape[0] > 12 * 200
    # Twelve queries, and what was found for the one unknown.
    assert 0 <= count(picture, PLAIN) - (12 + 5) * BORDER < 500
    before = (run / "top5.png").read_bytes()
    status, _, error = draw_ranks(run, "--protocol", "ALL", "--count", 1)
    assert status == 2 and "exists already" in error and error.count("\n") == 1
    assert (run / "top5.png").read_bytes() == before
    status, _, error = draw_ranks(run, "--protocol", "X2Y", "--force")
    assert status == 2 and "holds no query of protocol X2Y (protocols in it: ALL, O2S, S2O)" in error
    assert draw_ranks(run, "--count", 1, "--force")[0] == 0 and (run / "top5.png").read_bytes() != before


def test_refuses_and_writes_nothing(chips, tmp_path):
    optical, sar = chips
    path = tmp_path / "top.png"
    with pytest.raises(MOSError, match="there is no query to draw"):
        draw_top_lists(path, [])
    with pytest.raises(MOSError, match="2 gallery chips but 1 marks"):
        draw_top_lists(path, [(optical, [optical, sar], [True])])
    broken = tmp_path / "2_c_RGB.tif"
    broken.write_bytes(b"no picture")
    with pytest.raises(ChipError, match="2_c_RGB.tif"):
        draw_top_lists(path, [(optical, [str(broken)], [True])])
    assert not path.exists()


def test_rows_come_from_the_ranks_of_an_evaluation(split, tmp_path):
    split.ids[0] = 777  # without a match: not drawn
    made = FusionReidEvaluator(
        num_query=split.num_query, settings=EvalSettings(bootstrap_samples=10), output_dir=str(tmp_path)
    )
    split.run(made)
    rows = read_top_lists(tmp_path / "query_ranks.csv", "O2S", count=100, top=5)
    assert len(rows) == 11 and split.paths[0] not in [query for query, _, _ in rows]
    for query, gallery, match in rows:
        assert len(gallery) == len(match) == 5
        for path, right in zip(gallery, match, strict=True):
            assert path.endswith("SAR.tif") and right == (path.split("/")[-1][:4] == query.split("/")[-1][:4])
    assert len(read_top_lists(tmp_path / "query_ranks.csv", "ALL", count=3, top=2)) == 3
    every = read_top_lists(tmp_path / "query_ranks.csv", "O2S", count=100, unmatched=True)
    assert len(every) == 12 and every[0][0] == split.paths[0] and every[0][2] == [None] * 5 and every[1:] == rows
    with pytest.raises(MOSError, match="holds no query of protocol O2O"):
        read_top_lists(tmp_path / "query_ranks.csv", "O2O")
    with pytest.raises(MOSError, match="absent.csv: cannot be read"):
        read_top_lists(tmp_path / "absent.csv", "ALL")
    with open(tmp_path / "other.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["a", "b"], [1, 2]])
    with pytest.raises(MOSError, match="is no table of ranks"):
        read_top_lists(tmp_path / "other.csv", "ALL")
