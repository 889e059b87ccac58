"""Trained and tested on a table of square chips, without query folders: what is said, written, resumed."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
import torch

from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator
from fastreid_mos.evaluation.evaluator import model_figures


@pytest.fixture(scope="module")
def ships(tmp_path_factory):
    """Nine ships, one square chip of each modality for each."""
    folder, rng = tmp_path_factory.mktemp("ships") / "ships", np.random.default_rng(0)
    folder.mkdir()
    rows = ["image_id,ship_id,modality,image_path"]
    for number in range(18):
        pixels = rng.integers(0, 255, (32, 32, 1), np.uint8).repeat(3, axis=2)
        tifffile.imwrite(folder / f"{number}.tif", pixels)
        rows.append(f"{number},ship {number // 2},{('optical', 'sar')[number % 2]},{number}.tif")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.slow
def test_a_run_on_a_table(ships, tmp_path, call, refused):
    lists = ["DATASETS.CHIPLISTS.ships.CSV", ships / "labels.csv", "DATASETS.TESTS", "ships,"]
    lists += ["OUTPUT_DIR", tmp_path / "r"]
    words = [*lists, "DATASETS.NAMES", "ships,", "TEST.HOLDOUT.FRACTION", "0.3", "TEST.HOLDOUT.SPLITS", "2"]
    words += ["SOLVER.MAX_EPOCH", "2", "SOLVER.CHECKPOINT_PERIOD", "1"]
    # Trained whole, there is nothing to test on, which the log says.
    assert call(*lists, "DATASETS.NAMES", "ships,", "TEST.HOLDOUT.FRACTION", 0, "SOLVER.MAX_EPOCH", 1) == 0
    log = (tmp_path / "r/log.txt").read_text()
    assert "give it a column split" in log and not (tmp_path / "r/results.json").exists()
    shutil.rmtree(tmp_path / "r")
    assert call(*words) == 0
    log = (tmp_path / "r/log.txt").read_text()
    assert log.count("CMAL: each of the") == 1 and log.count("size-only") == 1  # in the line on square chips
    results, draws = (json.loads((tmp_path / "r" / name).read_text()) for name in ("results.json", "draws.json"))
    assert results["dataset"] == "ships" and results["split"] == "held-out"
    # Of two draws the log has the first in full: after each of two epochs, and at the end.
    assert log.count("| ranked by") == 3
    chosen = [json.loads(line) for line in (tmp_path / "r/metrics.json").open() if "holdout/ALL" in line][-1]
    assert chosen["holdout/ALL/mAP"] == pytest.approx(draws["model"]["ALL"]["mAP"])
    assert draws["draws"] == 2 and draws["model"].keys() == results["protocols"].keys() == {"ALL", "O2S", "S2O"}
    assert all(
        {"model", "random"} == {*row} & {"model", "random", "size-only"} for row in results["protocols"].values()
    )
    names = {row["identity"] for row in csv.DictReader((tmp_path / "r/query_ranks.csv").open())}
    assert names < {row["ship_id"] for row in csv.DictReader((ships / "labels.csv").open())} and len(names) > 1
    # The data may be moved before a resume; what is trained on may not change.
    (tmp_path / "r/results.json").unlink()
    (tmp_path / "r/last_checkpoint").write_text("model_0000.pth")
    moved = shutil.copytree(ships, tmp_path / "moved")
    text = (moved / "labels.csv").read_text()
    (moved / "fewer.csv").write_text(text[: text.index("\n10,")])
    assert "heads.weight" in refused("--resume", *words, "DATASETS.CHIPLISTS.ships.CSV", moved / "fewer.csv")
    assert call("--resume", *words, "DATASETS.CHIPLISTS.ships.CSV", moved / "labels.csv") == 0
    assert json.loads((tmp_path / "r/results.json").read_text())["protocols"] == results["protocols"]
    # Not trained on, all its ships are tested.
    weights = ["MODEL.WEIGHTS", tmp_path / "r/model_final.pth", "DATASETS.CHIPLISTS.port.CSV", moved / "labels.csv"]
    assert call("--eval-only", *words, *weights, "DATASETS.TESTS", "port,", "OUTPUT_DIR", tmp_path / "port") == 0
    results = json.loads((tmp_path / "port/results.json").read_text())
    assert results["split"] == "test" and sum(results["chips"][side] for side in ("query", "gallery")) == 18


def test_figures_of_a_draw_are_the_evaluators():
    rng = np.random.default_rng(0)
    evaluator = FusionReidEvaluator(6, EvalSettings(random_draws=2, bootstrap_samples=0))
    ids, kinds = torch.tensor([0, 1, 2, 0, 1, 2] * 3), torch.tensor([0, 1] * 9)
    inputs = {"targets": ids, "camids": kinds, "modalities": kinds, "metres": torch.ones(18, 2)}
    evaluator.reset()
    evaluator.process({**inputs, "img_paths": [f"{n}" for n in range(18)]}, torch.from_numpy(rng.normal(size=(18, 4))))
    expected = evaluator.evaluate()
    found = model_figures(evaluator.chips, evaluator.settings)
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert found[name] == pytest.approx(row)
    again = evaluator.chips.dealt([f"{n}" for n in range(6, 18)], [f"{n}" for n in range(6)])
    assert again.num_query == 12 and again.ids.tolist() == [*ids[6:].tolist(), *ids[:6].tolist()]
    np.testing.assert_array_equal(again.features[12:], evaluator.chips.features[:6])
