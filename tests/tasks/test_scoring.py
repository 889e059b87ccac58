"""Scores of ranked lists, by hand, against the evaluator's, and the one line for what cannot be scored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_task import image, query

from fastreid_mos.commands import main
from fastreid_mos.commands.score import EXAMPLE
from fastreid_mos.evaluation import rank_metrics
from fastreid_mos.evaluation.figures import bootstrap_intervals
from fastreid_mos.tasks import read_task, write_scores
from fastreid_mos.tasks.scoring import average_precisions, score, weighted_total

# Of the task of conftest.py: q3 is o2 itself, q4 a copy of s3. q2 has a right image, of the wrong modality.
LISTS = {"q1": ["s1", "s0", "s4"], "q2": ["o0", "o1"], "q3": ["o1", "o3", "o0"], "q4": ["s0", "s1"], "q5": ["s0", "o1"]}
TRUTH = {
    "q1": ["s0", "s4", "o3"],
    "q2": ["s1"],
    "q3": ["o2", "o0"],
    "q4": [],
    "q5": ["s0", "o1", "s2", "far"],
    "other": ["s1"],
}


@pytest.fixture
def files(made, tmp_path):
    """Words of the command line, with the files of a task, its lists and its truth."""
    words = ["score", "--task", str(made.path)]
    for name, content in (("prediction", LISTS), ("truth", TRUTH)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        words += [f"--{name}", str(path)]
    return words


def test_figures_by_hand(made):
    found = score(read_task(made.path), LISTS, TRUTH)
    assert (found.top, found.depth) == (3, 3)
    means = {
        kind: {name: mean / 100 for name, (mean, *_) in one.figures().items()} for kind, one in found.types.items()
    }
    # q1: ranks 2 and 3 of two right ones. q3: rank 3 of one, o2 being the query itself, and its list is whole. q5: the
    # first two of three.
    assert means["O2S"] == pytest.approx({"Rank-1": 0, "mAP@3": (1 / 2 + 2 / 3) / 2})
    assert means["O2O"] == pytest.approx({"Rank-1": 0, "mAP@3": 1 / 3, "mAP": 1 / 3})
    assert means["ALL"] == pytest.approx({"Rank-1": 1, "mAP@3": 2 / 3})
    assert means["S2O"] == means["S2S"] == {}
    assert (found.types["S2O"].no_match, found.types["S2S"].no_truth) == (["q2"], ["q4"])
    shares = {"O2S": 0.45 / 0.55, "O2O": 0.1 / 0.55}
    assert found.weights == pytest.approx(shares)
    total = sum(share * (means[kind]["Rank-1"] + means[kind]["mAP@3"]) / 2 for kind, share in shares.items())
    assert found.total()[0] / 100 == pytest.approx(total)
    notes = "\n".join(found.notes)
    for words in ("optical gallery, not counted: 1 of 1: 'q2'", "missing in the truth, not counted: 1 of 1: 'q4'",
                  "fewer than 3, what they lack counts as not found: 3 of 5: 'q2'", "does not have: 1 of 6: 'other'",
                  "gallery does not have: 1 of 9: 'far'", "without S2O", "ALL: not in the total"):  # fmt: skip
        assert words in notes, words
    # A copy of the query is not to be found, also where the truth has it; a list of all that there are is not short.
    task, copy = read_task(made.path), {**TRUTH, "q4": ["s3", "s0"]}
    every = {**LISTS, "q2": [f"o{n}" for n in range(4)], "q5": [chip.id for chip in task.gallery]}
    found = score(task, every, copy, own={"q4": {"s3"}})
    assert found.types["S2S"].figures()["mAP@9"][0] == 100
    assert any("with fewer than 9, " in note and note.endswith(": 2 of 5: 'q1', 'q4'") for note in found.notes)


def test_cut_at_top_the_rest_of_a_list_counts_nothing(made):
    found = score(read_task(made.path), LISTS, TRUTH, top=2, weights={"O2S": 2.0, "ALL": 6.0})
    figures = {kind: one.figures() for kind, one in found.types.items()}
    # Of q5's three right ones two could be among two.
    assert figures["ALL"]["mAP@2"][0] == 100 and figures["O2S"]["mAP@2"][0] == pytest.approx(25)
    assert figures["O2S"]["mAP@3"][0] == pytest.approx(100 * 7 / 12)  # down to the end of the lists
    assert found.weights == {"O2S": 0.25, "ALL": 0.75}
    assert found.total()[0] == pytest.approx(0.25 * 12.5 + 75)


def test_whole_lists_give_the_mAP_of_the_evaluator():
    rng = np.random.default_rng(0)
    distances, ids, gallery = rng.random((9, 20)), rng.integers(0, 4, 9), rng.integers(0, 4, 20)
    order = np.argsort(distances, axis=1)
    hits = gallery[order] == ids[:, None]
    ranks = np.sort(np.where(hits, 1.0 + np.arange(20), np.inf), axis=1)
    np.testing.assert_allclose(
        average_precisions(ranks, hits.sum(axis=1)), rank_metrics(distances, ids, gallery).ap, atol=1e-12
    )


def test_intervals_are_over_ships_and_the_total_of_one_type_has_its_own(tmp_path):
    # Queries 0 to 5 ask in pairs for the same image, so they are three ships; 6 to 11 are six.
    rng = np.random.default_rng(1)
    task = {"queries": [query(f"q{n}", f"q{n}.tif") for n in range(12)],
            "gallery": [image(f"s{n}", f"s{n}.tif") for n in range(12)]}  # fmt: skip
    (tmp_path / "task.json").write_text(json.dumps(task))
    truth = {f"q{n}": [f"s{n - n % 2 if n < 6 else n}"] for n in range(12)}
    lists = {f"q{n}": [f"s{one}" for one in rng.permutation(12)[: 11 + (n == 7)]] for n in range(12)}
    found = score(read_task(tmp_path / "task.json", images=False), lists, truth, weights={"O2S": 1.0})
    one = found.types["O2S"]
    assert len(np.unique(one.ships)) == 9 == found.as_dict()["types"]["O2S"]["ships"]
    assert list(one.values) == ["Rank-1", "mAP@10", "mAP@12"]  # one list is whole, the others are not
    half = (one.values["Rank-1"] + one.values["mAP@10"]) / 2
    wanted, first = (
        100 * bootstrap_intervals(values[:, None], one.ships, 1000)[0] for values in (half, one.values["Rank-1"])
    )
    assert one.figures()["Rank-1"][1:] == pytest.approx((*first,))
    assert found.total() == pytest.approx((100 * half.mean(), *wanted))


def test_interval_of_a_total_covers_the_true_one():
    rng, covered = np.random.default_rng(3), 0
    for _ in range(100):
        values, ships = {}, {}
        for number, (kind, mean) in enumerate({"O2S": 0.3, "O2O": 0.7}.items()):
            ship = rng.integers(0, 40, 60 - 30 * number)
            values[kind] = mean + rng.normal(0, 0.1, 40)[ship] + rng.normal(0, 0.1, len(ship))
            ships[kind] = ship + 100 * number
        _, low, high = weighted_total(values, ships, {"O2S": 0.5, "O2O": 0.5})
        covered += low <= 0.5 <= high
    assert 88 <= covered <= 99
    same = weighted_total({"O2S": np.full(3, 0.1), "S2O": np.full(3, 0.7)}, {"O2S": np.arange(3), "S2O": np.arange(3)},
                          {"O2S": 0.3, "S2O": 0.7})  # fmt: skip
    assert same.value == same.low == same.high
    few = {"O2S": np.array([1.0, 1, 1, 0.5]), "S2O": np.ones(3)}
    ships = {"O2S": np.array([0, 0, 0, 1]), "S2O": np.array([2, 2, 3])}
    assert weighted_total(few, ships, {"O2S": 0.9, "S2O": 0.1}).high == 1  # no total is above all that can be


def test_the_example(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(EXAMPLE.split()[1:]) == 0


def test_the_command_prints_and_writes_what_it_finds(files, tmp_path, capsys):
    out = tmp_path / "figures/score.json"
    assert main([*files, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| O2S" in text and "note: S2O: without a match" in text and "0.818 O2S + 0.182 O2O" in text
    content = json.loads(out.read_text())
    assert content["types"]["S2O"]["queries_without_match"] == ["q2"] and content["total_interval"][0] >= 0
    assert f"total {content['total']:.1f}" in text and content["types"]["O2S"]["mAP@3"] == pytest.approx(58.3, abs=0.1)
    write_scores(
        table := tmp_path / "prediction.csv", LISTS, {id_: range(0, -len(one), -1) for id_, one in LISTS.items()}
    )
    assert main([*files, "--weights", "all=1", "--top", "1", "--prediction", str(table)]) == 0
    assert "total 100.0: 1 ALL, of (Rank-1 + mAP@1) / 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--top", "4"], "--top 4: the lists are 3 deep"),
        (["--top", "0"], "--top 0"),
        (["--weights", "S2O=1"], "--weights: S2O: no query of that type counts"),
        (["--weights", "O2S"], "--weights O2S: 'O2S'"),
        (["--weights", "O2S=-1"], "'O2S=-1'"),
        (["--weights", "O2S=inf"], "'O2S=inf'"),
        (["--weights", "O2S=1,o2s=1"], "'o2s=1'"),
        (["--weights", "X2S=1"], "'X2S=1'"),
        (["--weights", "O2S=0"], "all are 0"),
        (["--truth", "none.json"], "none.json: no such file"),
        (["--json", "/dev/null/x/score.json"], "--json /dev/null/x/score.json: cannot be made there"),
        (["--json", "TRUTH"], "which is read"),
        (["--json", "TRUTH", "--force"], "which is read"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(files, words, said, mos_refuses):
    assert said in mos_refuses(*files, *(files[-1] if word == "TRUTH" else word for word in words))


def test_a_type_with_weight_0_needs_no_query_that_counts(files):
    assert main([*files, "--weights", "O2S=1,S2O=0"]) == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("truth", {"q1": ["x"], "q2": ["s0"]}, "truth.json: has no right image for any query"),
        ("truth", {}, "truth.json: holds no queries"),
        ("truth", [["q1", "s0"]], "truth.json: holds no object"),
        ("truth", {"q1": "s0"}, "truth.json: query 'q1' has no list"),
        ("truth", {"q1": [0.5]}, "truth.json: query 'q1' has no list"),
        ("truth", {"q3": ["o2"]}, "has no right image for any query"),  # the query's own image
        ("prediction", {**LISTS, "q1": ["s1", "s1"]}, "'q1': has 's1' more than once"),
        ("prediction", {**LISTS, "q1": ["o1"]}, "'o1' is not sar"),
        ("prediction", {name: [] for name in LISTS}, "prediction.json: every list is empty"),
        ("prediction", {"q1": ["s1"]}, "prediction.json: 4 of 5 queries have no list"),
        ("prediction", {**LISTS, "q3": ["o2"]}, "has its own image"),
    ],
)
def test_what_cannot_be_scored_is_one_line_with_the_file(files, tmp_path, name, content, said, mos_refuses):
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert said in mos_refuses(*files)
