"""What an evaluation leaves behind: results.json, the CSV of ranks, the table in the log, pictures of the top lists."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
from PIL import Image

from fastreid_mos.errors import ChipError, MOSError
from fastreid_mos.evaluation.pictures import PLAIN, RIGHT, WRONG, draw_top_lists, read_top_lists
from fastreid_mos.evaluation.report import simulation_of
from tools.draw_ranks import main as draw_ranks

BLUE, BORDER = (10, 20, 230), 106 * 202 - 96 * 192  # pixels of a border


def evaluate(split, folder, **settings):
    settings = {"seed": 3, "weights": "start.pth", "bootstrap_samples": 50, **settings}
    results = split.run(split.evaluator(str(folder), **settings))
    return results, json.loads((folder / "results.json").read_text())


def ranks_of(folder):
    return list(csv.DictReader((folder / "query_ranks.csv").open(encoding="utf-8", newline="")))


def test_results_hold_what_was_returned_and_how(split, tmp_path, caplog):
    split.ids[0] = 777
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        results, content = evaluate(split, tmp_path, rerank=(5, 2, 0.3))
    chips = {"query": 24, "gallery": 54, "optical": 39, "sar": 39, "distractors": 6}
    assert content["chips"] == chips and (content["simulated"], content["seed"]) == (False, 3)
    assert content["settings"]["rerank"] == [5, 2, 0.3] and content["settings"]["bootstrap_samples"] == 50
    part = content["protocols"]["O2S"]
    assert (part["queries"], part["queries_valid"], part["queries_without_match"]) == (12, 11, 1)
    for name, figures in results.items():
        part = content["protocols"][name]
        for row in ("model", "size-only", "random"):
            assert set(part[row]) == {*figures, "intervals"} and set(part[row]["intervals"]) == set(figures)
        assert {key: part["model"][key] for key in figures} == figures and len(part["rank1_wilson"]) == 2
    # The table in the log has the same figures.
    values = content["protocols"]["S2O"]["model"]
    assert "{mAP:.1f} [{intervals[mAP][0]:.1f}, {intervals[mAP][1]:.1f}]".format(**values) in caplog.text
    # No resamplings are null in JSON. The same input gives the same files.
    _, none = evaluate(split, tmp_path / "none", bootstrap_samples=0)
    assert none["protocols"]["ALL"]["model"]["intervals"]["mAP"] == [None, None]
    assert evaluate(split, tmp_path / "again", rerank=(5, 2, 0.3)) == (results, content)
    assert ranks_of(tmp_path / "again") == ranks_of(tmp_path)
    (tmp_path / "again/results.json").unlink()
    (tmp_path / "again/results.json").mkdir()
    with pytest.raises(MOSError, match=str(tmp_path / "again")):
        split.run(split.evaluator(str(tmp_path / "again")))


def test_simulated_data_and_the_last_checkpoint_of_the_run_are_put_on_record(split, tmp_path):
    (tmp_path / "sim.json").write_text('{"simulated": true}')
    (tmp_path / "last_checkpoint").write_text("model_final.pth\n")
    moved = split.changed(paths=tuple(path.replace("/data", str(tmp_path)) for path in split.paths))
    for weights, last in (("", "model_final.pth"), ("start.pth", "")):
        _, content = evaluate(moved, tmp_path / "out", run_folder=str(tmp_path), weights=weights)
        assert content["model"] == {"MODEL.WEIGHTS": weights, "last_checkpoint": last} and content["simulated"] is True


@pytest.mark.parametrize("linked", ["HOSS", "HOSS/query/2_b_SAR.tif"])
def test_simulated_data_behind_a_link_is_called_so(tmp_path, linked):
    """The whole data set, or single chips among real ones; or links out of the simulated folder."""
    made, data = tmp_path / "made", tmp_path / "data"
    link = data / linked
    for folder in (made / "HOSS/query", link.parent):
        folder.mkdir(parents=True)
    link.symlink_to(made / linked)
    paths = [str(data / "HOSS/query" / name) for name in ("1_a_RGB.tif", "2_b_SAR.tif")]
    (made / "sim.json").write_text('{"simulated": true}')
    assert simulation_of(paths) == {"simulated": True}
    (made / "sim.json").rename(data / "sim.json").write_text("{cut off")
    assert simulation_of(paths) == {"simulated": True} and simulation_of([str(made / "HOSS/query/1_a_RGB.tif")]) is None


def test_ranks_by_query(split, tmp_path, odd_words):
    split.ids[0] = 777
    paths = [path.replace("_q0_", f"_{odd_words[n % len(odd_words)]}_") for n, path in enumerate(split.paths)]
    results, _ = evaluate(split.changed(paths=tuple(paths)), tmp_path)
    rows, file = ranks_of(tmp_path), tmp_path / "query_ranks.csv"
    assert (rows[0]["identity"], rows[0]["matches"], rows[0]["AP"]) == ("777", "0", "")
    for name, figures in results.items():
        own = [row for row in rows if row["protocol"] == name and row["first_rank"]]
        assert 100 * np.mean([float(row["AP"]) for row in own]) == pytest.approx(figures["mAP"], abs=1e-3)
        assert 100 * np.mean([row["first_rank"] == "1" for row in own]) == pytest.approx(figures["Rank-1"])
        listed = read_top_lists(file, name, count=100, top=10)[1]
        assert len(listed) == len(own) == {"ALL": 23, "O2S": 11, "S2O": 12}[name]
        for query, gallery, match in listed:
            # Names begin with the identity; the match marks tell whether it is the query's.
            assert match == [path.split("/")[4][:4] == query.split("/")[4][:4] for path in gallery]
    first, every = read_top_lists(file, "O2S", count=100, top=10, unmatched=True)
    assert first == "O2S" and read_top_lists(file)[0] == rows[0]["protocol"]
    assert every[0][0] == paths[0] and every[0][2] == [None] * 10 and len(every) == 12
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, protocol in (("query_ranks.csv", "O2O"), ("absent.csv", "ALL"), ("other.csv", "ALL")):
        with pytest.raises(MOSError, match=name):
            read_top_lists(tmp_path / name, protocol)


@pytest.mark.parametrize("identity", [999, -1])
def test_unknown_ships_are_ranked_though_nothing_can_be_measured(split, tmp_path, identity):
    nearest = split.run(split.evaluator(str(tmp_path))) and [row["top_1"] for row in ranks_of(tmp_path)]
    split.ids[: split.num_query] = identity
    results, content = evaluate(split, tmp_path)
    assert results == content["protocols"] == {} and list(content["left_out"]) == ["ALL", "O2S", "S2O"]
    rows = ranks_of(tmp_path)
    assert [row["top_1"] for row in rows] == nearest
    assert {(row["first_rank"], row["AP"], row["matches"], row["match_1"]) for row in rows} == {("", "", "0", "0")}


def test_right_and_wrong_are_marked_in_colour_and_in_shape(split, tmp_path, capsys):
    def count(colour):
        return int((np.asarray(Image.open(picture)) == np.array(colour, np.uint8)).all(axis=2).sum())

    chip, bad, run = str(tmp_path / "1_a_RGB.tif"), tmp_path / "2_c_RGB.tif", tmp_path / "run"
    image, picture = Image.new("RGB", (20, 40), BLUE), tmp_path / "new/top.png"
    image.putpixel((0, 0), (255, 255, 255))
    image.save(chip)
    draw_top_lists(picture, [(chip, [chip] * 3, [True, False, None]), (chip, [chip], [True])], "title")
    right, wrong = count(RIGHT) - 2 * BORDER, count(WRONG) - BORDER
    # A tick and a cross are a few dozen pixels. The chips stand there at the height of their cells.
    assert 0 < right < 200 and 0 < wrong < 200 and right != 2 * wrong
    assert abs(count(PLAIN) - 3 * BORDER) < 200 and 0.98 * 6 * 96 * 192 < count(BLUE) < 6 * 96 * 192
    bad.write_bytes(b"no picture")
    with pytest.raises(ChipError, match=bad.name):
        draw_top_lists(tmp_path / "top.png", [(chip, [str(bad)], [True])])
    # The tool draws an unknown ship's, too, and replaces no file.
    split.ids[0] = 777
    split.changed(paths=(chip,) * len(split.ids)).run(split.evaluator(str(run)))
    picture = run / "top5.png"
    assert draw_ranks([str(run), "--protocol", "O2S", "--count", "12"]) == 0 and str(picture) in capsys.readouterr().out
    assert 0 <= count(PLAIN) - (12 + 5) * BORDER < 500
    assert draw_ranks([str(run)]) == 2 and str(picture) in capsys.readouterr().err
