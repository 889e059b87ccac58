"""FusionReidEvaluator on arrays, and behind fast-reid's inference in one process and several, on real chips too."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.engine import launch
from fastreid.evaluation import ReidEvaluator, inference_on_dataset
from PIL import Image
from torch import nn

import fastreid_mos
from fastreid_mos.data import HOSS, HOSS_O2S, HOSS_S2O, build_test_loader
from fastreid_mos.errors import ConfigError, MOSError
from fastreid_mos.evaluation import EVALUATOR_REGISTRY, Choice, EvalSettings, Fusion, FusionReidEvaluator, fuse_features
from fastreid_mos.evaluation.chips import Chips
from fastreid_mos.evaluation.figures import bootstrap_intervals
from fastreid_mos.evaluation.protocols import select_protocols
from fastreid_mos.evaluation.ranking import normalized, rank_features, rank_metrics
from fastreid_mos.evaluation.reranking import expand_queries, rerank

PROTOCOLS, NAMES = EvalSettings().protocols, ("ALL", "O2S", "S2O")
ALL, A2O, O2S = ("ALL", "all", "all"), ("A2O", "all", "optical"), ("O2S", "optical", "sar")
O2O, TWIN = ("O2O", "optical", "optical"), ("TWIN", "optical", "optical")
RGB, SAR = ["1_q_RGB.tif"], ["1_g_SAR.tif", "-1_g_SAR.tif"]
QUERY = ["1_q_RGB.tif", "2_q_SAR.tif", "3.png"]
GALLERY = ["-1_g_SAR.tif", "1_g_RGB.tif", "1_g_SAR.tif", "2_g_RGB.tif", "3_g_SAR.tif"]


def percent(result):
    figures = {f"Rank-{k}": 100 * float(np.mean(result.first_rank[result.valid] <= k)) for k in (1, 5, 10, 20)}
    return pytest.approx({"mAP": 100 * result.mAP, "mINP": 100 * result.mINP, **figures})


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_each_protocol_ranks_its_own_chips(split, metric):
    made = split.evaluator(metric=metric)
    results = split.run(made)
    assert results == {name: percent(rank_features(*split.parts(name), metric=metric)) for name in NAMES}
    # Batches and a second evaluation change nothing.
    assert split.run(made, size=1000) == results == split.run(split.evaluator(metric=metric, block_mb=1), size=1)
    for inputs, outputs in split.batches():
        made.process(inputs, outputs.to(torch.bfloat16))
    assert made.evaluate()["ALL"]["mAP"] == pytest.approx(results["ALL"]["mAP"], abs=2)


def test_by_config_and_registry(split):
    cfg = fastreid_mos.get_cfg()
    cfg.TEST.CMC_RANKS, cfg.TEST.PROTOCOLS, cfg.TEST.METRIC = [3, 1], [["only", "sar", "all"]], "euclidean"
    made = EVALUATOR_REGISTRY.get("FusionReidEvaluator")(cfg, split.num_query, split="test")
    results = split.run(made)
    assert list(results) == ["only"] and list(results["only"]) == ["mAP", "mINP", "Rank-1", "Rank-3"]
    wanted = rank_features(*split.parts("S2L"), metric="euclidean")
    assert results["only"]["mAP"] == pytest.approx(100 * wanted.mAP)
    options = "RERANK.ENABLED True RERANK.K1 6 RERANK.K2 3 RERANK.LAMBDA .4 AQE.ENABLED True AQE.QE_TIME 2 AQE.QE_K 4"
    cfg.merge_from_list([word if n % 2 else f"TEST.{word}" for n, word in enumerate(options.split())])
    settings = EvalSettings.from_cfg(cfg)
    assert (settings.rerank, settings.aqe[:2]) == ((6, 3, 0.4), (2, 4))


def test_random_and_size_rows_stand_beside_the_model(split):
    made, other = (split.evaluator(random_draws=500, bootstrap_samples=300, bootstrap_seed=seed) for seed in (0, 1))
    for part in split.run(made) and made.report.protocols:
        rows, name = part.rows, part.protocol.name
        assert list(rows) == ["model", "size-only", "random"]
        for row in rows.values():
            ends = [(*row.intervals[metric], value) for metric, value in row.figures.items()]
            assert all(0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 100 for low, high, value in ends)
        assert part.wilson[0] < rows["model"].figures["Rank-1"] < part.wilson[1]
        by_size = rank_features(*split.changed(features=np.log(split.metres)).parts(name), metric="euclidean")
        assert rows["size-only"].figures["mAP"] == pytest.approx(100 * by_size.mAP, abs=1e-6)
        chance = 100 * np.mean(by_size.num_matches / len(part.protocol.gallery))
        assert rows["random"].figures["Rank-1"] == pytest.approx(chance, abs=1.5)
        above = rows["model"].figures["mAP"] - rows["size-only"].figures["mAP"]
        assert part.above["size-only"].figures["mAP"] == pytest.approx(above)
    split.run(other)
    assert made.report.protocols[0].rows["model"].intervals != other.report.protocols[0].rows["model"].intervals


def test_reranking_and_expansion_stay_inside_a_protocol(split):
    made, plain = split.evaluator(rerank=(6, 3, 0.4), aqe=(1, 3, 2.0)), split.evaluator()
    results = split.run(made)
    for name in NAMES:
        query, gallery, *ids = split.parts(name)
        distances = rerank(*map(normalized, expand_queries(query, gallery, 1, 3, 2.0)), 6, 3, 0.4)
        assert results[name] == percent(rank_metrics(distances, *ids))
    # The size-only row is of sizes alone.
    assert split.run(plain)["ALL"] != results["ALL"]
    assert len({str(one.report.protocols[0].rows["size-only"]) for one in (made, plain)}) == 1
    # Chips that are in no list of O2S (SAR queries, optical gallery) have no say in it.
    other = split.features.copy()
    other[(split.modalities == 1) == (np.arange(len(other)) < split.num_query)] += 5.0
    after = split.changed(features=other).run(made)
    assert results["O2S"] == after["O2S"] and results["ALL"] != after["ALL"]


def test_own_file_is_left_out_within_one_modality(split):
    # The gallery holds the file of the first optical query as well, but in ALL it stays, at rank 1.
    extra = [*range(len(split.ids)), 0]
    arrays = {name: getattr(split, name)[extra] for name in ("features", "ids", "modalities", "metres")}
    whole = split.changed(**arrays, paths=tuple(split.paths[row] for row in extra))
    made = split.evaluator(protocols=[ALL, O2O])
    query, gallery = whole.rows("O2O")
    own = np.append(len(gallery) - 1, np.full(len(query) - 1, -1))
    assert whole.run(made)["O2O"] == percent(rank_features(*whole.parts("O2O"), exclude=own))
    part = made.report.protocols[0]
    assert part.result.first_rank[0] == 1 and part.result.num_ranked[0] == len(part.protocol.gallery)


def fused_parts(split, generated, folder=None, choices=None, **settings):
    """Parts of the report of a test by name, fused by the ``choices``."""
    made = split.evaluator(folder, fused=generated and Fusion(generated, choices, {"root": "/made"}), **settings)
    results, parts = split.run(made), {part.protocol.name: part for part in made.report.protocols}
    assert results == {name: part.rows["fused" if generated else "model"].figures for name, part in parts.items()}
    return parts


@pytest.mark.parametrize("options", [{}, {"rerank": (6, 3, 0.4), "metric": "euclidean"}], ids=str)
def test_fused_rows_stand_beside_the_models(split, generated, tmp_path, options):
    options = {**options, "bootstrap_samples": 400, "bootstrap_seed": 3}
    choices = {"ALL": Choice(0.4, 2), "O2S": Choice(0.9, 1), "S2O": Choice(0.0, 0)}
    model = fused_parts(split, None, **options)
    parts = fused_parts(split, generated, str(tmp_path), choices, **options)
    content, ranks = json.loads((tmp_path / "results.json").read_text()), tmp_path / "fused_query_ranks.csv"
    wanted = {"alpha": {"ALL": 0.4, "O2S": 0.9, "S2O": 0.0}, "k": {"ALL": 2, "O2S": 1, "S2O": 0}}
    assert content["fusion"] == {**wanted, "mode": "mean", "root": "/made"}
    table = list(csv.DictReader(ranks.open(newline="")))
    for name, part in parts.items():
        alpha, k = choices[name]
        some = generated.index < k
        fused = fuse_features(split.features, generated.features[some], generated.owner[some], alpha)
        by_hand = fused_parts(split.changed(features=fused), None, **options) if k else model
        assert list(part.rows) == ["model", "fused", "size-only", "random"] and part.above == model[name].above
        assert part.rows["model"] == model[name].rows["model"] and part.rows["fused"] == by_hand[name].rows["model"]
        figure = pytest.approx(part.rows["fused"].figures["mAP"], abs=1e-3)
        assert 100 * np.mean([float(row["AP"]) for row in table if row["protocol"] == name]) == figure
        assert content["protocols"][name]["fused"]["mAP"] == figure
        # The interval of the difference is paired, and over ships, which in ALL have two queries each.
        gain, valid = part.fused_above["model"], part.result.valid
        ap, ships = 100 * (part.fused.ap[valid] - part.result.ap[valid]), split.ids[part.protocol.query[valid]]
        low, high = bootstrap_intervals(ap[:, None], ships, 400, [3, zlib.crc32(name.encode())])[0]
        assert gain.figures["mAP"] == pytest.approx(ap.mean())
        assert gain.intervals["mAP"] == pytest.approx((low, high)) and (low < high) == (k > 0)
    assert content["protocols"]["O2S"]["fused_chips"] == {"queries": 11, "gallery": 0}
    # Without fusion no file is left that belongs to other figures. Queries without a match are ranked by both.
    fused_parts(split, None, str(tmp_path))
    assert not ranks.exists()
    split.ids[: split.num_query] = 999
    assert not fused_parts(split, generated, str(tmp_path), choices)
    assert len(ranks.read_text().splitlines()) == 1 + 4 * 12


def test_what_cannot_be_fused_or_measured_is_refused_or_left_out(split):
    with pytest.raises(ConfigError, match="TEST.FUSION.ENABLED"):
        split.evaluator(fusion=True)
    # Held-out chips are not fused: checkpoints are chosen on them.
    held = split.evaluator(fusion=True, split="held-out", bootstrap_samples=0)
    assert split.run(held) == split.run(split.evaluator()) and "fusion" not in held.report.as_dict()
    assert all(map(math.isnan, held.report.protocols[0].rows["model"].intervals["mAP"]))
    made = split.evaluator(protocols=[ALL, O2S, ["S2S", "sar", "sar"]])
    split.ids[split.modalities == 1] = 500 + np.arange((split.modalities == 1).sum())
    assert list(split.run(made)) == ["ALL"] and list(made.report.left_out) == ["O2S", "S2S"]
    split.modalities[:] = 0
    with pytest.raises(MOSError, match=r"TEST.PROTOCOLS.*O2S"):
        split.run(split.evaluator(protocols=[O2S]))


def test_chips_that_are_missing_doubled_or_not_finite(split):
    made = split.evaluator(dataset=SimpleNamespace(query=split.paths[:24], gallery=split.paths[24:]))
    *all_but_last, last = split.batches()
    for batches in (all_but_last, [*all_but_last, last, last], []):
        made.reset()
        for inputs, outputs in batches:
            made.process(inputs, outputs)
        with pytest.raises(MOSError, match="each chip must be read once"):
            made.evaluate()
    with pytest.raises(MOSError, match="the model gave"):
        made.process(last[0], last[1][:-1])
    split.features[[3, 30], 2] = np.nan, np.inf
    with pytest.raises(MOSError) as caught:
        split.run(made)
    assert [path for path in split.paths if path in str(caught.value)] == [split.paths[3], split.paths[30]]


def hoss(root, query, gallery):
    """Files of different content, so that copies can be told from others of their name."""
    paths = [root / "query" / name for name in query] + [root / "bounding_box_test" / name for name in gallery]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(path))
    return paths


def selected(paths, num_query, wanted=PROTOCOLS, root=None):
    kinds, unused = np.array([int("SAR" in path.name) for path in paths]), np.zeros((len(paths), 2))
    chips = Chips(unused.astype(np.float32), kinds, kinds, kinds, unused, tuple(map(str, paths)), num_query)
    protocols, left_out = select_protocols(chips, wanted, *np.split(np.arange(len(paths)), [num_query]), root)
    return {part.name: (part.query.tolist(), part.gallery.tolist(), part.own.tolist()) for part in protocols}, left_out


@pytest.mark.parametrize(
    ("query", "gallery", "wanted", "rows", "left_out"),
    [
        (QUERY, GALLERY, PROTOCOLS,
         {"ALL": ([0, 1, 2], [3, 4, 5, 6, 7], [-1] * 3), "O2S": ([0, 2], [3, 5, 7], [-1] * 2),
          "S2O": ([1], [4, 6], [-1])}, {}),
        (RGB, SAR, PROTOCOLS, {"O2S": ([0], [1, 2], [-1])}, {"ALL": "same chips as O2S", "S2O": "no sar query"}),
        (RGB, RGB, PROTOCOLS, {"ALL": ([0], [1], [-1])}, {"O2S": "no sar gallery", "S2O": "no sar query"}),
        # Of the same chips the narrowest modalities stay, all of them.
        (RGB, RGB, [ALL, A2O, O2O, TWIN], dict.fromkeys(("O2O", "TWIN"), ([0], [1], [-1])),
         {"ALL": "A2O", "A2O": "O2O"}),
    ],
)  # fmt: skip
def test_by_modality(tmp_path, query, gallery, wanted, rows, left_out):
    found, reasons = selected(hoss(tmp_path, query, gallery), len(query), wanted)
    assert found == rows and set(reasons) == set(left_out)
    assert [name for name in reasons if left_out[name] not in reasons[name]] == []


def test_subset_folders_list_what_a_protocol_holds(tmp_path):
    # Chips of a data set of the user's own may have any name.
    paths = hoss(tmp_path, QUERY, GALLERY)
    hoss(tmp_path / "subset/O2S", ["1_q_RGB.tif", "3.png", "Thumbs.db"], ["1_g_SAR.tif", "-1_g_SAR.tif"])
    rows, _ = selected(paths, 3, root=str(tmp_path))
    assert rows["O2S"][:2] == ([0, 2], [3, 5]) and rows["S2O"][:2] == ([1], [4, 6])
    # They list the test split and no other; chips that were not tested are left to their own data set.
    assert selected(paths, 3)[0]["O2S"][:2] == ([0, 2], [3, 5, 7])
    hoss(tmp_path / "subset/O2S", ["9_q_RGB.tif"], [])
    assert selected(paths, 3, root=str(tmp_path))[0]["O2S"][:2] == ([0, 2], [3, 5, 7])


@pytest.mark.parametrize(("kind", "own"), [("same path", 2), ("copy", 2), ("other content", -1)])
def test_own_files(tmp_path, kind, own):
    paths = hoss(tmp_path, ["1_a_RGB.tif"], ["1_b_RGB.tif", "2_a_RGB.tif", "1_a_RGB.tif"])
    if kind == "same path":
        paths[3] = paths[0]
    elif kind == "copy":
        shutil.copyfile(paths[0], paths[3])
    rows, left_out = selected(paths, 1, [O2O, ALL])
    assert rows["O2O"][2] == [own] and list(left_out) == ["ALL"]


class Colours(nn.Module):
    """Means of the image's eighths, each chip on its own: the same numbers in any batch."""

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch["images"], (4, 2)).flatten(1)


def evaluate(root, folder, *options, data=HOSS, kind=FusionReidEvaluator):
    cfg = fastreid_mos.get_cfg()
    settings = "MODEL.DEVICE cpu INPUT.SIZE_TEST [32,16] DATALOADER.NUM_WORKERS 0 TEST.IMS_PER_BATCH 8"
    cfg.merge_from_list([*settings.split(), "TEST.BOOTSTRAP.SAMPLES", 100, "TEST.RANDOM_DRAWS", 20, *options])
    dataset = data(root=str(root))
    own = {"dataset": dataset} if kind is FusionReidEvaluator else {}
    loader = build_test_loader(cfg, [*dataset.query, *dataset.gallery])
    return inference_on_dataset(Colours(), loader, kind(cfg, len(dataset.query), output_dir=str(folder), **own))


def odd(root):
    """41 chips: the shares of two processes are of different length, and so are their batches."""
    dataset = HOSS(root=root)
    return SimpleNamespace(query=dataset.query, gallery=dataset.gallery[:-1], root=dataset.root)


def in_a_process(root, folder):
    torch.set_num_threads(1)
    Path(folder, f"{torch.distributed.get_rank()}.json").write_text(json.dumps(evaluate(root, folder, data=odd)))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tiny_hoss, tmp_path):
    alone, together = tmp_path / "one", tmp_path / "two"
    together.mkdir()
    wanted = evaluate(tiny_hoss, alone, data=odd)
    launch(in_a_process, 2, dist_url="auto", args=(str(tiny_hoss), str(together)))
    assert [json.loads((together / f"{rank}.json").read_text()) for rank in (0, 1)] == [wanted, {}]
    for name in ("results.json", "query_ranks.csv"):
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def test_the_data_sets_of_one_direction_and_fast_reids_evaluator(tiny_hoss, tmp_path):
    whole = evaluate(tiny_hoss, tmp_path)
    assert list(whole) == ["ALL", "O2S", "S2O"] and 0 < whole["O2S"]["mAP"] < 100
    for data, name in ((HOSS_O2S, "O2S"), (HOSS_S2O, "S2O")):
        assert evaluate(tiny_hoss, tmp_path, data=data) == {name: whole[name]}
    own = evaluate(tiny_hoss, tmp_path, "TEST.REMOVE_SAME_CAMERA", True)["ALL"]
    theirs = evaluate(tiny_hoss, tmp_path, kind=ReidEvaluator)
    assert own["mAP"] != whole["ALL"]["mAP"]
    assert {name: theirs[name] for name in own if name != "Rank-20"} == pytest.approx(
        {name: value for name, value in own.items() if name != "Rank-20"}, abs=1e-3
    )


def test_size_and_random_rows_of_the_real_sample(shared_dir, tmp_path):
    """The size-only row by the headers of the files, the random row by its closed form."""
    evaluate(shared_dir / "hoss_sample", tmp_path, "TEST.RANDOM_DRAWS", 2000)
    content = json.loads((tmp_path / "results.json").read_text())["protocols"]
    dataset = HOSS(root=str(shared_dir / "hoss_sample"))
    for name, kinds in {"ALL": ((0, 1), (0, 1)), "O2S": ((0,), (1,)), "S2O": ((1,), (0,))}.items():
        sides = zip((dataset.query, dataset.gallery), kinds, strict=True)
        chosen = [[item for item in items if item[2] in kind] for items, kind in sides]
        sizes = [[np.multiply(Image.open(path).size, (0.75, 1)[kind]) for path, _, kind in part] for part in chosen]
        ids = ([item[1] for item in part] for part in chosen)
        wanted = rank_features(*map(np.log, sizes), *ids, metric="euclidean")
        row, random = content[name]["size-only"], content[name]["random"]
        assert (row["mAP"], row["Rank-1"]) == pytest.approx((100 * wanted.mAP, 100 * wanted.cmc[0]), abs=1e-6)
        chance = 100 * np.mean(wanted.num_matches[wanted.valid] / len(chosen[1]))
        assert random["Rank-1"] == pytest.approx(chance, abs=0.7) and row["mAP"] > 2 * random["mAP"]
