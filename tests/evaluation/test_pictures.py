"""Pictures of top lists: what is drawn where, and what is refused."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastreid_mos.errors import ChipError, MOSError
from fastreid_mos.evaluation.pictures import PLAIN, RIGHT, WRONG, draw_top_lists, read_top_lists

BLUE, WHITE = (10, 20, 230), (255, 255, 255)
BORDER = 106 * 202 - 96 * 192  # pixels
DRAW_RANKS = Path(__file__).parents[2] / "tools/draw_ranks.py"


@pytest.fixture
def chips(tmp_path):
    """A blue optical chip with one white pixel and a SAR one with a bright half."""
    optical, sar = tmp_path / "1_a_RGB.tif", tmp_path / "1_b_SAR.tif"
    image = Image.new("RGB", (20, 40), BLUE)
    image.putpixel((0, 0), WHITE)
    image.save(optical)
    pixels = np.full((60, 30), 0.5, np.float32)
    pixels[:, 15:], pixels[0] = 3.0, 0.0
    tifffile.imwrite(sar, pixels)
    return str(optical), str(sar)


def count(picture, colour):
    return int((np.asarray(Image.open(picture)) == np.array(colour, np.uint8)).all(axis=2).sum())


def test_right_and_wrong_are_marked_in_colour_and_in_shape(chips, tmp_path):
    optical, sar = chips
    rows = [(optical, [sar, optical, optical], [True, False, False]), (sar, [optical], [True])]
    picture = tmp_path / "new" / "top.png"
    draw_top_lists(picture, rows, "title")
    borders = count(picture, RIGHT), count(picture, WRONG)
    # Two right and two wrong ones: their borders are alike, a tick and a cross are a few dozen pixels.
    assert min(borders) > 2 * 5 * 2 * (96 + 192) and 0 < abs(borders[0] - borders[1]) < 200
    # The blue chip stands there four times, scaled to the height of its cell; half of the two SAR chips is white.
    assert 0.98 * 4 * 96 * 192 < count(picture, BLUE) < 4 * 96 * 192 and count(picture, WHITE) > 2 * 40 * 190
    draw_top_lists(picture, [(optical, [optical], [None])])
    assert count(picture, RIGHT) == count(picture, WRONG) == 0
    # Beside the two borders a few pixels of the labels' soft edges.
    assert 0 <= count(picture, PLAIN) - 2 * BORDER < 100


def test_refuses_and_writes_nothing(chips, tmp_path):
    optical, sar = chips
    broken = tmp_path / "2_c_RGB.tif"
    broken.write_bytes(b"no picture")
    for rows, error, words in (
        ([], ValueError, "^rows"),
        ([(optical, [optical, sar], [True])], ValueError, "zip"),
        ([(optical, [str(broken)], [True])], ChipError, "2_c_RGB.tif"),
    ):
        with pytest.raises(error, match=words):
            draw_top_lists(tmp_path / "top.png", rows)
    assert not (tmp_path / "top.png").exists()


def test_tool_draws_a_run_with_an_unknown_ship(split, chips, tmp_path, capsys):
    split.ids[0] = 777
    run = tmp_path / "run"
    split.changed(paths=tuple(chips[kind] for kind in split.modalities)).run(split.evaluator(str(run)))
    main, picture = runpy.run_path(str(DRAW_RANKS))["main"], run / "top5.png"
    assert main([str(run), "--protocol", "O2S", "--count", "12"]) == 0 and str(picture) in capsys.readouterr().out
    # Twelve queries, and what was found for the one unknown.
    assert Image.open(picture).height > 12 * 200 and 0 <= count(picture, PLAIN) - (12 + 5) * BORDER < 500
    before = picture.read_bytes()
    for arguments, words in (([], str(picture)), (["--protocol", "X2Y", "--force"], "ALL, O2S, S2O")):
        status, error = main([str(run), *arguments]), capsys.readouterr().err
        assert status == 2 and words in error and error.count("\n") == 1 and picture.read_bytes() == before
    assert main([str(run), "--count", "1", "--force"]) == 0 and picture.read_bytes() != before


def test_rows_come_from_the_ranks_of_an_evaluation(split, tmp_path):
    split.ids[0] = 777  # without a match: not drawn
    split.run(split.evaluator(str(tmp_path)))
    ranks = tmp_path / "query_ranks.csv"
    rows = read_top_lists(ranks, "O2S", count=100, top=5)
    assert len(rows) == 11 and split.paths[0] not in [query for query, _, _ in rows]
    for query, gallery, match in rows:
        assert len(gallery) == len(match) == 5 and all(path.endswith("SAR.tif") for path in gallery)
        assert match == [path.split("/")[-1][:4] == query.split("/")[-1][:4] for path in gallery]
    assert len(read_top_lists(ranks, "ALL", count=3, top=2)) == 3
    every = read_top_lists(ranks, "O2S", count=100, unmatched=True)
    assert every[0][0] == split.paths[0] and every[0][2] == [None] * 5 and every[1:] == rows
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, protocol in (("query_ranks.csv", "O2O"), ("absent.csv", "ALL"), ("other.csv", "ALL")):
        with pytest.raises(MOSError, match=name):
            read_top_lists(tmp_path / name, protocol)
