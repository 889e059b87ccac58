"""What an evaluation leaves behind: results.json, the CSV of ranks, the table in the log."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import report, summarize_splits
from fastreid_mos.evaluation.pictures import read_top_lists
from fastreid_mos.evaluation.report import simulation_of


class HOSS:
    """A data set by that name."""

    def __init__(self, split):
        self.query, self.gallery = split.paths[: split.num_query], split.paths[split.num_query :]


def evaluate(split, folder, **settings):
    settings = {"seed": 3, "weights": "start.pth", "bootstrap_samples": 50, **settings}
    results = split.run(split.evaluator(str(folder), HOSS(split), **settings))
    return results, json.loads((folder / "results.json").read_text())


def ranks_of(folder):
    with open(folder / "query_ranks.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def log(caplog):
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        yield caplog


def test_results_hold_what_was_returned_and_how(split, tmp_path, log):
    split.ids[0] = 777
    results, content = evaluate(split, tmp_path, rerank=(5, 2, 0.3))
    optical = int((split.modalities == 0).sum())
    for key, value in {
        "dataset": "HOSS", "split": "test", "simulated": False, "seed": 3,
        "model": {"MODEL.WEIGHTS": "start.pth", "last_checkpoint": ""},
        "chips": {"query": 24, "gallery": len(split.ids) - 24, "optical": optical, "sar": len(split.ids) - optical,
                  "distractors": 6},
    }.items():  # fmt: skip
        assert content[key] == value, key
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
    low, high = values["intervals"]["mAP"]
    assert f"{values['mAP']:.1f} [{low:.1f}, {high:.1f}]" in log.text and "HOSS, test split, chips:" in log.text
    assert "S2O: model above size-only: mAP" in log.text and "SIMULATED" not in log.text
    split.run(split.evaluator(split="held-out"))
    assert "held-out training identities" in log.text
    # No resamplings are null in JSON and absent in the log.
    _, content = evaluate(split, tmp_path / "none", bootstrap_samples=0)
    assert content["protocols"]["ALL"]["model"]["intervals"]["mAP"] == [None, None] and "nan" not in log.text
    # The same input gives the same files.
    evaluate(split, tmp_path / "again", rerank=(5, 2, 0.3))
    again = files_of(tmp_path / "again")
    assert set(again) == {"results.json", "query_ranks.csv"}
    assert all((tmp_path / name).read_bytes() == written for name, written in again.items())


def moved(split, root):
    return split.changed(paths=tuple(path.replace("/data", str(root)) for path in split.paths))


def test_simulated_data_and_the_last_checkpoint_of_the_run_are_put_on_record(split, tmp_path, log):
    (tmp_path / "sim.json").write_text('{"simulated": true, "version": 1}')
    (tmp_path / "last_checkpoint").write_text("model_final.pth\n")
    for weights, last in (("", "model_final.pth"), ("start.pth", "")):
        _, content = evaluate(moved(split, tmp_path), tmp_path / "out", run_folder=str(tmp_path), weights=weights)
        assert content["model"] == {"MODEL.WEIGHTS": weights, "last_checkpoint": last}
    assert content["simulated"] is True and content["simulation"]["version"] == 1 and "SIMULATED" in log.text


@pytest.mark.parametrize("linked", ["HOSS", "HOSS/query", "HOSS/query/{}"])
def test_simulated_data_behind_a_link_is_called_so(split, tmp_path, linked):
    """The whole data set, one of its folders, or single chips among real ones; or links out of the simulated folder."""
    made = tmp_path / "made"
    chips = [Path(path) for path in moved(split, made).paths]
    for chip in chips:
        chip.parent.mkdir(parents=True, exist_ok=True)
        chip.touch()
    (made / "sim.json").write_text('{"simulated": true}')
    link = linked.format(chips[1].name)  # not the first chip
    (tmp_path / "data" / link).parent.mkdir(parents=True)
    (tmp_path / "data" / link).symlink_to(made / link)
    assert simulation_of(moved(split, tmp_path / "data").paths) == {"simulated": True}
    (made / "sim.json").unlink()
    (tmp_path / "data/sim.json").write_text("{cut off")
    assert simulation_of(moved(split, tmp_path / "data").paths) == {"simulated": True}
    assert simulation_of(moved(split, made).paths) is None


def test_ranks_by_query(split, tmp_path, odd_words):
    split.ids[0] = 777
    paths = [path.replace("_q0_", f"_{odd_words[n % len(odd_words)]}_") for n, path in enumerate(split.paths)]
    assert len({*paths} - {*split.paths}) == 24
    results, _ = evaluate(split.changed(paths=tuple(paths)), tmp_path)
    rows = ranks_of(tmp_path)
    assert [row["query"] for row in rows if row["protocol"] == "ALL"] == paths[:24]
    assert {row for row, *_ in read_top_lists(tmp_path / "query_ranks.csv", "ALL", 24)} == set(paths[1:24])
    assert (rows[0]["identity"], rows[0]["matches"], rows[0]["match_1"]) == ("777", "0", "0")
    assert rows[0]["first_rank"] == rows[0]["AP"] == ""
    for name, figures in results.items():
        own = [row for row in rows if row["protocol"] == name and row["first_rank"]]
        assert len(own) == (23 if name == "ALL" else 11 if name == "O2S" else 12)
        assert 100 * np.mean([float(row["AP"]) for row in own]) == pytest.approx(figures["mAP"], abs=1e-3)
        hits = [int(row["first_rank"]) == 1 for row in own]
        assert 100 * np.mean(hits) == pytest.approx(figures["Rank-1"]) and hits == [
            row["match_1"] == "1" for row in own
        ]
        for row in own:
            # Names begin with the identity; the match marks tell whether it is the query's.
            for rank in range(1, 11):
                same = row[f"top_{rank}"].split("/")[4].startswith(f"{int(row['identity']):04d}_")
                assert same == (row[f"match_{rank}"] == "1")


@pytest.mark.parametrize("identity", [999, -1])
def test_unknown_ships_are_ranked_though_nothing_can_be_measured(split, tmp_path, log, identity):
    nearest = split.run(split.evaluator(str(tmp_path))) and [row["top_1"] for row in ranks_of(tmp_path)]
    split.ids[: split.num_query] = identity
    results, content = evaluate(split, tmp_path)
    assert results == content["protocols"] == {} and list(content["left_out"]) == ["ALL", "O2S", "S2O"]
    assert "nothing to measure" in log.text and str(tmp_path / "query_ranks.csv") in log.text
    rows = ranks_of(tmp_path)
    assert [row["top_1"] for row in rows] == nearest
    assert {(row["first_rank"], row["AP"], row["matches"], row["match_1"]) for row in rows} == {("", "", "0", "0")}
    with pytest.raises(MOSError, match="TEST.HOLDOUT"):
        summarize_splits([results])


def test_a_write_that_fails_leaves_the_earlier_file(split, tmp_path, monkeypatch):
    evaluate(split, tmp_path)
    before = files_of(tmp_path)

    def fails(content, stream, **options):
        stream.write('{"half": ')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.json, "dump", fails)
    with pytest.raises(MOSError, match="No space left on device") as caught:
        evaluate(split, tmp_path)
    assert str(tmp_path) in str(caught.value) and files_of(tmp_path) == before
