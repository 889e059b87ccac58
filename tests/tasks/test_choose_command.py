"""mos choose on simulated ships: from runs to a line that predicts with the choice, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from fastreid_mos import load_cfg
from fastreid_mos.commands import main
from fastreid_mos.commands.choose import EXAMPLE
from fastreid_mos.data.datasets import HOSS
from fastreid_mos.data.holdout import hold_out
from fastreid_mos.modeling import build_checked_model
from fastreid_mos.tasks.labelled import as_task, at_most, labelled_items, ships_and_modalities, without_copies

DEBUG = str(Path(__file__).parents[2] / "configs/HOSS/demo/debug.yml")


@pytest.fixture(scope="module")
def runs(tiny_hoss, tmp_path_factory):
    """Folders of two runs that held out the same ships, and of one that held out others."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, held in (("a", 0, 0), ("b", 1, 0), ("c", 2, 1)):
        options = ["TEST.HOLDOUT.FRACTION", 0.6, "TEST.HOLDOUT.SEED", held]
        cfg = load_cfg(DEBUG, [*map(str, options)])
        kept, _ = hold_out(cfg, HOSS(root=tiny_hoss).train)
        cfg.MODEL.HEADS.NUM_CLASSES = ships = len({pid for _, pid, _ in kept})
        torch.manual_seed(seed)
        content = {"model": build_checked_model(cfg).state_dict(), "config": cfg.dump(), "num_classes": ships}
        (folder / name).mkdir()
        torch.save(content, folder / name / "model_final.pth")
    return folder


@pytest.fixture
def words(runs, tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    monkeypatch.chdir(tmp_path)
    return ["choose", "--runs", str(runs / "a"), str(runs / "b"), "--splits", "2", "--device", "cpu"]


@pytest.mark.slow
def test_from_runs_to_a_line_that_predicts(words, runs, capsys, tmp_path):
    assert main([*words, "--json", "choice.json"]) == 0
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "choice.json").read_text())
    inside, outside = content["gain"]["in_sample"]["value"], content["gain"]["cross_validated"]["value"]
    assert inside >= 0 and f"chosen on: {inside:+.1f} [" in text and f"2 folds: {outside:+.1f} [" in text
    assert "chips: ships that the training held out of HOSS" in text
    line = shlex.split(text.strip().splitlines()[-1])
    assert line[:4] == ["mos", "predict", "--task", "task.json"] and shlex.join(line) == content["command"]
    # The line is right as it stands, on a task.
    assert main(["simulate", "--layout", "list", "--ids", "12", "--output", "sim"]) == 0
    task = next((tmp_path / "sim").rglob("task.json"))
    swapped = [str(task) if word == "task.json" else "3" if word == "10" else word for word in line[1:]]
    assert main([*swapped, "--device", "cpu"]) == 0 and (tmp_path / "prediction.json").exists()
    # Again: from the features that are kept, with the same result, also of a run's best checkpoint.
    for name in "ab":
        shutil.copytree(runs / name, tmp_path / "output" / f"run_{name}")
    (tmp_path / "output/run_a/model_final.pth").rename(tmp_path / "output/run_a/model_best.pth")
    example = EXAMPLE.replace("5", "2").split()[1:]
    assert main([*example[:4], *example[5:], "--json", "choice.json", "--force"]) == 0  # without zoo:mos
    again = json.loads((tmp_path / "choice.json").read_text())
    assert again["gain"] == content["gain"] and "output/run_a/model_best.pth" in again["figures"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--splits", "1"], "--splits 1: must be a number, 2 or more"),
        (["--seed", "-1"], "--seed -1: must be a number, 0"),
        (["--weights", "O2S"], "--weights O2S"),
        (["--runs", "RUNS/a"], "a: is one alone"),
        (["--runs", "RUNS/a", "RUNS/a/model_final.pth"], "are the same weights; name them once"),
        (["--runs", "RUNS/a", "RUNS/none"], "none: no such folder or file"),
        (["--runs", "RUNS/a", "."], "--runs .: has no model_best.pth or model_final.pth"),
        (["--runs", "RUNS/a", "zoo:none"], "zoo:none"),
        (["--runs", "zoo:mos", "RUNS/a", "RUNS/c"], "did not hold out the same ships"),
        (["--runs", "RUNS/a", "cut.pth"], "cut.pth"),
        (["--chips", "nowhere"], "--chips nowhere: holds no HOSS/"),
        (["--chips", "cut.pth"], "--chips cut.pth: "),
        (["--chips", "nowhere", "--root", "."], "--chips nowhere: is no table"),
        (["--chips", "train:HOSS"], "a/model_final.pth was trained on "),
        (["--json", "cut.pth"], "--json cut.pth: exists already"),
        (["--features", "cut.pth"], "cut.pth"),
        (["--device", "cuda:77"], "--device"),
        (["--splits", "50", "--features", "/dev/null/x"], "--splits 50: "),  # before any feature
    ],
)
def test_wrong_words_are_one_line(words, runs, more, said, tmp_path, capsys):
    (tmp_path / "cut.pth").write_bytes((runs / "a/model_final.pth").read_bytes()[:999])
    hoss = os.environ["FASTREID_DATASETS"]
    more = [word.replace("RUNS", str(runs)).replace("train:HOSS", f"train:{hoss}") for word in more]
    assert main([*words, *more]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and said in line


def test_chips_of_a_table(tmp_path):
    """Those that are not of the split train, with the sizes that it gives; a task has them too."""
    for name in "abcd":
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 5, 3), np.uint8))
    rows = ["image_id,ship_id,modality,image_path,width,height,split,spacing"]
    splits = ("train", "test", "test", "test")
    rows += [f"{name},S{ship},optical,{name}.tif,20,{ship}00,{split},0.{ship}"
             for name, ship, split in zip("abcd", (1, 2, 2, 3), splits, strict=True)]  # fmt: skip
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    items, source = labelled_items(str(tmp_path / "labels.csv"), [])
    assert [Path(path).name for path, *_ in items] == ["b.tif", "c.tif", "d.tif"] and source.startswith(
        "test ships of "
    )
    ships, modalities = ships_and_modalities(items)
    assert ships[0] == ships[1] != ships[2] and modalities.tolist() == [0, 0, 0]
    sizes = [(chip.metres, chip.spacing) for chip in as_task(items, source).gallery]
    assert sizes == [((20, 200), 0.2), ((20, 200), 0.2), ((20, 300), 0.3)]


def test_copies_of_a_chip_and_too_many_chips(tmp_path):
    for name in ("query/1_RGB.tif", "gallery/1_RGB.tif", "gallery/2_RGB.tif", "more/2_RGB.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name if "2" in name else "same")
    items = [(str(path), int(path.name[0]), 0) for path in sorted(tmp_path.rglob("*.tif"))]
    items += [(items[0][0], 7, 0)]  # under another ship, which is no copy
    kept = without_copies(items)
    assert len(items) == 5 and sorted(item[1] for item in kept) == [1, 2, 2, 7]
    items = [(f"{ship}_{number}", ship, 0) for ship in range(10) for number in range(3)] + [
        (f"x{n}", -1, 0) for n in range(9)
    ]
    kept = at_most(items, seed=1, most=20)
    assert 17 < len(kept) <= 20 and all(sum(item[1] == ship for item in kept) in (0, 3) for ship in range(10))
    assert 0 < sum(item[1] < 0 for item in kept) < 9  # each distractor is drawn by itself
    assert kept != at_most(items, seed=2, most=20) and sorted(items) == at_most(items, 0, 39)
