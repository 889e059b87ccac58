"""The data set on disk: HOSS's layout, names and formats; the same bytes for the same parameters, however made."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile

from fastreid_mos.data import read_chip
from fastreid_mos.errors import DatasetError
from fastreid_mos.sim import SimConfig, write_hoss, write_list, writer
from fastreid_mos.sim.cli import EXAMPLES, main

IDS = 5


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_hoss(tmp_path_factory.mktemp("sim") / "data", IDS, 11)


@pytest.mark.slow
def test_same_parameters_same_bytes_for_any_number_of_workers(written, tmp_path):
    assert files(write_hoss(tmp_path / "again", IDS, 11, workers=3)) == files(written)
    other = files(write_hoss(tmp_path / "other", IDS, 12))
    assert not [n for n, chip in files(written).items() if n.endswith(".tif") and other.get(n) == chip]


def test_more_identities_keep_the_ships_of_fewer():
    configs = SimConfig(IDS, 11), SimConfig(3 * IDS, 11)
    plans = [{(c.owner, c.number, c.sar, c.sequence.number): c for c in writer.plan(each)} for each in configs]
    common = [key for key in plans[0] if key in plans[1] and key[0][0] == 1]
    assert common
    for key in common[:4]:
        chips = [writer.render(each, chips[key]) for each, chips in zip(configs, plans, strict=True)]
        np.testing.assert_array_equal(*chips)


def test_layout_names_and_formats(written):
    held: dict[str, set[int]] = {}
    for path in (written / "HOSS").rglob("*.tif"):
        name = re.fullmatch(r"(\d{4}|-1)_(s\d\dc\d|\d{4})_(RGB|SAR)\.tif", path.name)
        held.setdefault(path.parent.name, set()).add(int(name[1]))
        with tifffile.TiffFile(path) as tif:
            (page,), pixels = tif.pages, tif.asarray()
            kind = (page.compression.name, int(page.predictor), page.dtype, page.samplesperpixel, page.photometric.name)
            rgb, sar = ("LZW", 2, np.uint8, 3, "RGB"), ("NONE", 1, np.float32, 1, "MINISBLACK")
            assert tif.byteorder == "<" and kind == (rgb if name[3] == "RGB" else sar)
        assert pixels.shape[0] > pixels.shape[1] and np.isfinite(pixels).all()
        assert tuple(read_chip(path).size) == pixels.shape[1::-1]
    assert held["query"] == held["bounding_box_test"] - {-1} != held["bounding_box_test"]
    assert not held["query"] & held["bounding_box_train"] and len(held["query"]) == round(0.4 * IDS)
    assert held["query"] | held["bounding_box_train"] == set(range(1, IDS + 1))
    content = json.loads((written / "sim.json").read_text())
    assert content.items() >= {"simulated": True, "complete": True, "version": writer.SIM_VERSION}.items()
    assert content["parameters"].items() >= {"num_ids": IDS, "seed": 11}.items()
    assert content["chips"] == {f.name: len(list(f.iterdir())) for f in (written / "HOSS").iterdir()}


def test_modalities_and_single_modality_identities():
    """Passes read RGB SAR RGB, or SAR RGB RGB; the share without SAR is exact on both sides of the split."""
    by_id: dict[int, list[str]] = {}
    chips = writer.plan(SimConfig(100, 5, single_modality_fraction=0.2))
    for c in chips:
        if c.owner[0] == 1:
            by_id.setdefault(int(c.name[:4]), []).append(c.name)
    patterns = {" ".join(re.search(r"c(\d_...)", n)[1] for n in names) for names in by_id.values()}
    assert patterns == {"1_RGB 2_SAR 3_RGB", "1_SAR 2_RGB 3_RGB", "1_RGB 3_RGB", "2_RGB 3_RGB"}
    tested = {int(c.name[:4]) for c in chips if c.folder == "query"}
    single = {pid for pid, names in by_id.items() if not any("SAR" in n for n in names)}
    assert (len(single & tested), len(single - tested)) == (8, 12)
    assert sum(c.name.startswith("-1") for c in chips) == round(0.6 * 40)
    assert sum(c.folder == "query" for c in chips) == len(tested) == 40
    none = {"test_fraction": 0.0, "single_modality_fraction": 0.0, "distractors_per_test_id": 0.0}
    chips = writer.plan(SimConfig(30, 1, chips_per_id=6, **none))
    assert len({c.name for c in chips}) == len(chips) == 180 and {c.folder for c in chips} == {"bounding_box_train"}
    assert sum(c.sar for c in chips) in range(80, 101)


def test_a_stopped_run_resumes_and_a_finished_set_is_left_alone(written, tmp_path, monkeypatch):
    output, made, real, last = tmp_path / "stopped", [], writer.render, 5

    def render(config, chip):
        if len(made) == last:
            raise KeyboardInterrupt
        made.append(chip.name)
        return real(config, chip)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DatasetError, match="No space left"):
        patch.setattr(writer, "_write_manifest", full)
        write_hoss(output, IDS, 11)
    monkeypatch.setattr(writer, "render", render)
    with pytest.raises(KeyboardInterrupt):
        write_hoss(output, IDS, 11)
    assert len(list((output / "HOSS").rglob("*.tif"))) == 5
    last = -1
    write_hoss(output, IDS, 11)
    assert files(output) == files(written)
    assert len(made) == len(set(made)), "a chip that was there already was drawn again"
    last = len(made)
    assert write_hoss(output, IDS, 11) == output and files(output) == files(written)


@pytest.mark.slow
def test_a_set_with_a_table_has_a_task_that_can_be_solved(tmp_path):
    output = write_list(tmp_path / "list", 14, 3, square=64, chips_per_id=3)
    labels = list(csv.DictReader((output / "labels.csv").read_text().splitlines()))
    task, truth = (json.loads((output / name).read_text()) for name in ("task.json", "truth.json"))
    chips = {str(path.relative_to(output)) for path in output.rglob("*.tif")}
    named = [row["image_path"] for part in (labels, task["queries"], task["gallery"]) for row in part]
    assert set(named) == chips and list(labels[0]) == ["image_id", "ship_id", "modality", "image_path"]
    for row in labels:
        assert row["image_path"] == f"{row['modality']}/{row['image_id']}.tif"
    ids = {row["image_id"]: row["modality"] for row in task["gallery"]}
    kinds = {row["query_id"]: row["query_type"] for row in task["queries"]}
    assert set(kinds.values()) == {"O2S", "S2O", "O2O"} and truth.keys() == kinds.keys()
    wanted = {"O2S": "sar", "S2O": "optical", "O2O": "optical"}
    assert all(found and {ids[i] for i in found} == {wanted[kinds[query]]} for query, found in truth.items())
    for path in chips:
        pixels = tifffile.imread(output / path)
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        assert not path.startswith("sar/") or (pixels == pixels[..., :1]).all()
    before = files(output)
    assert files(write_list(output, 14, 3, square=64, chips_per_id=3)) == before


@pytest.mark.slow
def test_the_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in EXAMPLES.splitlines():
        words = line.replace("40", "3").split()
        assert main(words[2:]) == 0 and (tmp_path / words[-1] / "sim.json").is_file()


def refused(capsys, *arguments) -> str:
    """The one line that the tool leaves with status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    return err.removeprefix("error: ")


def test_arguments_out_of_range(tmp_path, capsys):
    for words in (
        "--ids 0", "--ids 3 --seed -1", "--ids 3 --distractors-per-test-id nan", "--ids 3 --workers 0",
        "--ids 3 --square 64", "--ids 3 --layout list --square -1",
    ):  # fmt: skip
        line = refused(capsys, *words.split(), "--output", tmp_path / "out")
        assert line.startswith(f"{words.split()[-2]}: ") and not (tmp_path / "out").exists()


def test_output_that_is_not_its_own_or_cannot_be_written(written, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for number, (name, text) in enumerate([("sim.json", "["), ("sim.json", '{"version": 1}'), ("thesis.txt", "mine")]):
        (folder := tmp_path / str(number)).mkdir()
        (folder / name).write_text(text)
        assert re.match(f"{folder}.*{name}", refused(capsys, "--ids", 2, "--output", folder))
        assert files(folder) == {name: text.encode()}
    for output, word in ((tmp_path / "file", tmp_path / "file"), (written, "sim.json"), ("", "output")):
        assert str(word) in refused(capsys, "--ids", 2, "--output", output)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_killed_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writer, "encode", lambda pixels: os.kill(os.getpid(), signal.SIGKILL))
    line = refused(capsys, "--ids", 30, "--output", tmp_path / "out", "--workers", 2)
    assert line.startswith(f"{tmp_path / 'out'}: ") and "--workers" in line


def test_ctrl_c_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writer, "render", Mock(side_effect=KeyboardInterrupt))
    assert main(["--ids", "3", "--output", str(tmp_path / "ships")]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"
