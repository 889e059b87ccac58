"""What an evaluation leaves behind: results.json, the CSV of ranks, the table in the log."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator, report
from fastreid_mos.evaluation.pictures import read_top_lists
from fastreid_mos.evaluation.report import simulation_of


class HOSS:
    """A data set by that name."""

    def __init__(self, split):
        self.query, self.gallery = split.paths[: split.num_query], split.paths[split.num_query :]


def evaluate(split, folder, **settings):
    made = FusionReidEvaluator(
        num_query=split.num_query,
        settings=EvalSettings(seed=3, weights="start.pth", **settings),
        output_dir=str(folder),
        dataset=HOSS(split),
    )
    return split.run(made), json.loads((folder / "results.json").read_text())


def test_results_hold_what_was_returned_and_how(split, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("model_final.pth")
    split.ids[0] = 777
    results, content = evaluate(split, tmp_path / "out", run_folder=str(tmp_path / "run"), rerank=(5, 2, 0.3))
    assert content["dataset"] == "HOSS" and content["split"] == "test" and content["simulated"] is False
    assert content["seed"] == 3 and "over ships" in content["unit"]
    assert content["model"] == {"MODEL.WEIGHTS": "start.pth", "last_checkpoint": ""}
    assert content["settings"]["rerank"] == [5, 2, 0.3] and content["settings"]["bootstrap_samples"] == 1000
    optical = int((split.modalities == 0).sum())
    assert content["chips"] == {
        "query": 24, "gallery": len(split.ids) - 24, "optical": optical, "sar": len(split.ids) - optical,
        "distractors": 6,
    }  # fmt: skip
    part = content["protocols"]["O2S"]
    assert (part["queries"], part["queries_valid"], part["queries_without_match"]) == (12, 11, 1)
    for name, figures in results.items():
        for row in ("model", "size-only", "random"):
            values = content["protocols"][name][row]
            assert set(values) == {*figures, "intervals"} and set(values["intervals"]) == set(figures)
        assert {key: content["protocols"][name]["model"][key] for key in figures} == figures
        assert len(content["protocols"][name]["rank1_wilson"]) == 2


def test_the_same_input_gives_the_same_files(split, tmp_path):
    for folder in ("a", "b"):
        evaluate(split, tmp_path / folder)
    for name in ("results.json", "query_ranks.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("content", ['{"simulated": true, "version": 1}', "{cut off"])
def test_simulated_data_is_called_so(split, tmp_path, caplog, content):
    root = tmp_path / "data"
    root.mkdir()
    (root / "sim.json").write_text(content)
    moved = split.changed(paths=tuple(path.replace("/data", str(root)) for path in split.paths))
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        _, results = evaluate(moved, tmp_path / "out")
    assert results["simulated"] is True and results["simulation"]["simulated"] is True
    assert "SIMULATED" in caplog.text


@pytest.mark.parametrize("linked", ["HOSS", "HOSS/query", "HOSS/query/{}"])
def test_simulated_data_behind_a_link_is_called_so(split, tmp_path, linked):
    """The whole data set, one of its folders, or single chips among real ones."""
    made = tmp_path / "made"
    chips = [Path(path.replace("/data", str(made))) for path in split.paths]
    for chip in chips:
        chip.parent.mkdir(parents=True, exist_ok=True)
        chip.touch()
    (made / "sim.json").write_text('{"simulated": true}')
    link = linked.format(chips[1].name)  # not the first chip
    (tmp_path / "data" / link).parent.mkdir(parents=True)
    (tmp_path / "data" / link).symlink_to(made / link)
    moved = split.changed(paths=tuple(path.replace("/data", str(tmp_path / "data")) for path in split.paths))
    _, results = evaluate(moved, tmp_path / "out")
    assert results["simulated"] is True and results["simulation"] == {"simulated": True}


def test_log_says_split_data_set_and_intervals(split, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        results, content = evaluate(split, tmp_path)
        FusionReidEvaluator(num_query=split.num_query, split="held-out").reset()
        split.run(FusionReidEvaluator(num_query=split.num_query, split="held-out"))
    assert "HOSS, test split, chips: percent [95 % interval over ships]" in caplog.text
    assert "held-out training identities" in caplog.text and "SIMULATED" not in caplog.text
    values = content["protocols"]["S2O"]["model"]
    low, high = values["intervals"]["mAP"]
    assert f"{values['mAP']:.1f} [{low:.1f}, {high:.1f}]" in caplog.text
    assert "S2O: model above size-only: mAP" in caplog.text


def test_ranks_by_query(split, tmp_path):
    split.ids[0] = 777
    results, _ = evaluate(split, tmp_path)
    with open(tmp_path / "query_ranks.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [sum(row["protocol"] == name for row in rows) for name in ("ALL", "O2S", "S2O")] == [24, 12, 12]
    first = rows[0]
    assert first["query"] == split.paths[0] and first["identity"] == "777" and first["matches"] == "0"
    assert first["first_rank"] == first["AP"] == "" and first["match_1"] == "0"
    for name, figures in results.items():
        own = [row for row in rows if row["protocol"] == name and row["first_rank"]]
        assert 100 * np.mean([float(row["AP"]) for row in own]) == pytest.approx(figures["mAP"], abs=1e-3)
        hits = [int(row["first_rank"]) == 1 for row in own]
        assert 100 * np.mean(hits) == pytest.approx(figures["Rank-1"])
        for row, hit in zip(own, hits, strict=True):
            assert hit == (row["match_1"] == "1")
            # Names begin with the identity; the match marks say whether it is the query's.
            for place in range(1, 11):
                same = row[f"top_{place}"].split("/")[-1].split("_")[0].lstrip("0")
                assert (same == row["identity"].lstrip("0")) == (row[f"match_{place}"] == "1")


def test_odd_names_come_back_from_the_files(split, tmp_path, odd_words):
    paths = [path.replace("_q0_", f"_{odd_words[n % len(odd_words)]}_") for n, path in enumerate(split.paths)]
    assert len({*paths} - {*split.paths}) == 24
    _, content = evaluate(split.changed(paths=tuple(paths)), tmp_path)
    with open(tmp_path / "query_ranks.csv", encoding="utf-8", newline="") as stream:
        assert [row["query"] for row in csv.DictReader(stream) if row["protocol"] == "ALL"] == paths[:24]
    assert {row for row, *_ in read_top_lists(tmp_path / "query_ranks.csv", "ALL", 24)} == set(paths[:24])


def test_a_write_that_fails_leaves_the_earlier_file(split, tmp_path, monkeypatch):
    evaluate(split, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*args, **kwargs):
        args[1].write('{"half": ')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.json, "dump", fails)
    with pytest.raises(MOSError, match="the results cannot be written there .No space left on device"):
        evaluate(split, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_resamplings_are_null_in_json_and_absent_in_the_log(split, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        _, content = evaluate(split, tmp_path, bootstrap_samples=0)
    assert content["protocols"]["ALL"]["model"]["intervals"]["mAP"] == [None, None]
    assert "nan" not in caplog.text


def test_simulated_data_that_links_out_of_its_folder_is_called_so(tmp_path):
    folder = tmp_path / "HOSS/query"
    folder.mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a.tif").touch()
    (tmp_path / "HOSS/sim.json").write_text('{"simulated": true}')
    (folder / "a.tif").symlink_to(tmp_path / "store/a.tif")
    assert simulation_of([str(folder / "a.tif")]) == {"simulated": True}
