"""Several models in one ranking: by hand, in the evaluator's row, and from the checkpoints of two runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastreid_mos.data import HOSS
from fastreid_mos.engine.ensemble import EnsembleTests
from fastreid_mos.evaluation import EvalSettings, rank_features, rank_metrics
from fastreid_mos.evaluation.ensemble import Ensemble, reciprocal_rank_distances
from fastreid_mos.evaluation.protocols import Protocol
from fastreid_mos.evaluation.ranking import normalized

NAMES = ("ALL", "O2S", "S2O")


def test_reciprocal_ranks_by_hand():
    # Ranks by the first member: 1 2 3 4 5, by the second: 3 1 5 4 2. Two deep with k 3: 1/4, 1/5 + 1/4, 0, 0, 1/5.
    similarities = np.array([[[0.9, 0.8, 0.7, 0.6, 0.5]], [[0.3, 0.9, 0.1, 0.2, 0.8]]])
    distances = reciprocal_rank_distances(similarities, k=3, depth=2)
    np.testing.assert_allclose(distances[0, [0, 1, 4]], [-1 / 4, -1 / 5 - 1 / 4, -1 / 5], atol=1e-8)
    # Equal scores are ordered by the mean, as are those that nobody ranked, which come last.
    assert np.argsort(distances[0]).tolist() == [1, 0, 4, 2, 3]
    equal = reciprocal_rank_distances(np.array([[[0.9, 0.5]], [[0.1, 0.2]]]), depth=9)
    assert np.argsort(equal[0]).tolist() == [0, 1]
    # An own file takes no rank: the others move up.
    own = reciprocal_rank_distances(similarities, k=0, depth=1, exclude=np.array([0]))
    np.testing.assert_allclose(own[0, 1], -2, atol=1e-8)
    # A member of weight 3 counts as three of it.
    thrice = reciprocal_rank_distances([*similarities, similarities[1], similarities[1]], k=3, depth=2)
    np.testing.assert_allclose(reciprocal_rank_distances(similarities, 3, 2, weights=[1, 3]), thrice, atol=1e-14)


@pytest.mark.parametrize("method", ["cosine", "rrf"])
def test_row_of_the_evaluator(split, tmp_path, method):
    others = [np.random.default_rng(n).normal(size=(len(split.ids), 5 + n)).astype(np.float32) for n in range(2)]
    made = split.evaluator(str(tmp_path), ensemble=Ensemble(others, method, 5.0, 10, {"settings": {"METHOD": method}}))
    results, plain = split.run(made), split.run(split.evaluator())
    content = json.loads((tmp_path / "results.json").read_text())
    for name in NAMES:
        query, gallery = split.rows(name)
        ids = split.ids[query], split.ids[gallery]
        cosines = [normalized(rows)[query] @ normalized(rows)[gallery].T for rows in (split.features, *others)]
        distances = -sum(cosines)
        if method == "rrf":
            distances = np.zeros_like(cosines[0])
            for number, cosine in enumerate(cosines):
                for row, order in enumerate(np.argsort(-cosine, axis=1)):
                    for rank, column in enumerate(order[:10], start=1):
                        distances[row, column] -= 1 / (5 + rank) + 1e-9 * sum(c[row, column] for c in cosines)
                distances += 1e-6 * (number == 0) * (1 - sum(cosines) / 3)
        wanted = rank_metrics(distances, *ids)
        assert results[name]["mAP"] == pytest.approx(100 * wanted.mAP, abs=1e-6)
        part = content["protocols"][name]
        assert (
            part["model"]["mAP"] == pytest.approx(plain[name]["mAP"])
            and part["ensemble"]["mAP"] == results[name]["mAP"]
        )
        difference = part["ensemble"]["mAP"] - part["model"]["mAP"]
        assert part["ensemble_above"]["model"]["mAP"] == pytest.approx(difference)
    assert content["ensemble"] == {"settings": {"METHOD": method}}


def test_alone_it_is_the_model(split):
    made = split.evaluator(ensemble=Ensemble([3 * split.features]))
    results = split.run(made)
    assert {name: row["mAP"] for name, row in results.items()} == pytest.approx(
        {name: 100 * rank_features(*split.parts(name)).mAP for name in NAMES}
    )


def test_an_own_file_takes_no_rank(split):
    made, optical = split.evaluator(), np.flatnonzero(split.modalities == 0)
    split.run(made)
    other = np.random.default_rng(0).normal(size=(len(split.ids), 5))
    protocol = Protocol("O2O", optical, optical, np.arange(len(optical)))
    top = Ensemble([other], "rrf", depth=1).rank(made.chips, protocol, EvalSettings(), top_k=1).top[:, 0]
    members = [normalized(rows)[optical] @ normalized(rows)[optical].T for rows in (split.features, other)]
    for cosines in members:
        np.fill_diagonal(cosines, -2)
    nearest = np.stack([cosines.argmax(axis=1) for cosines in members])
    means = np.take_along_axis(sum(members), nearest.T, axis=1)
    assert top.tolist() == np.take_along_axis(nearest.T, means.argmax(axis=1)[:, None], axis=1)[:, 0].tolist()


def test_as_the_config_says(debug_cfg):
    for words, wanted in (((), ("cosine", 3, 100)), (("METHOD", "rrf", "K", 7, "DEPTH", 9), ("rrf", 7, 9))):
        words = [f"TEST.ENSEMBLE.{word}" if word in ("METHOD", "K", "DEPTH") else word for word in words]
        made = EnsembleTests(debug_cfg(*words), {"HOSS": None}).ensemble("HOSS")
        assert (made.method, made.k, made.depth) == wanted


@pytest.mark.slow
def test_two_runs_of_unlike_backbones(call, debug_cfg, refused, tiny_hoss, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    common = ["SOLVER.MAX_EPOCH", 1, "TEST.HOLDOUT.FRACTION", 0.0]
    osnet = [
        "MODEL.BACKBONE.NAME",
        "build_osnet_backbone",
        "MODEL.BACKBONE.DEPTH",
        "x0_25",
        "MODEL.BACKBONE.FEAT_DIM",
        128,
    ]
    osnet += ["INPUT.SIZE_TRAIN", "[32,16]", "INPUT.SIZE_TEST", "[32,16]"]
    assert call("OUTPUT_DIR", tmp_path / "a", *common, "TEST.FLIP.ENABLED", True) == 0
    first = tmp_path / "a/model_final.pth"
    united = ["TEST.ENSEMBLE.WEIGHTS", f"['{first}']"]
    # A training may end in a test with others; testing that again gives the same.
    assert call("OUTPUT_DIR", tmp_path / "b", *common, *osnet, *united) == 0
    results = json.loads((tmp_path / "b/results.json").read_text())
    again = ["--eval-only", "OUTPUT_DIR", tmp_path / "b", *common, *osnet]
    again += ["MODEL.WEIGHTS", tmp_path / "b/model_final.pth"]
    assert call(*again, *united) == 0 and not (tmp_path / "b/eval_1").exists()
    assert json.loads((tmp_path / "b/results.json").read_text())["protocols"] == results["protocols"]
    assert results["protocols"]["ALL"]["ensemble"] != results["protocols"]["ALL"]["model"]
    # The model's own row does not change, another method is another test.
    assert call(*again, *united, "TEST.ENSEMBLE.METHOD", "rrf") == 0
    other = json.loads((tmp_path / "b/eval_1/results.json").read_text())
    assert other["protocols"]["ALL"]["model"] == results["protocols"]["ALL"]["model"]
    assert other["ensemble"]["settings"]["METHOD"] == "rrf"
    assert other["protocols"]["ALL"]["ensemble"] != results["protocols"]["ALL"]["ensemble"]
    # A member is tested as its own run says.
    seen, data = [], {"HOSS": HOSS(root=str(tiny_hoss))}
    EnsembleTests(debug_cfg(*osnet, *united), data).run(lambda *given: seen.append(given))
    ((own, _, loader, _),) = seen
    assert own.TEST.FLIP.ENABLED and next(iter(loader))["images"].shape[2:] == (64, 32)
    (tmp_path / "cut.pth").write_bytes(first.read_bytes()[:1000])
    for file in ("cut.pth", "none.pth"):
        assert file in refused(*again, "TEST.ENSEMBLE.WEIGHTS", f"['{tmp_path / file}']")
    assert "TEST.ENSEMBLE.METHOD" in refused(*again, *united, "TEST.ENSEMBLE.METHOD", "rrf", "TEST.AQE.ENABLED", True)
