"""TEST.FUSION.MODE mapped: what the map is learnt from, and that fused testing follows it."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from fastreid.evaluation import inference_on_dataset
from fused_world import AUTO, KINDS, Fixed, by_hand, config, figures, fusion, held_out, make_dump, refused, results_of

from fastreid_mos.data import HOSS, build_test_loader
from fastreid_mos.engine import fusing
from fastreid_mos.evaluation import fuse_features
from fastreid_mos.evaluation.chips import ChipPass
from fastreid_mos.evaluation.mapping import fit_map

MAPPED = ("MODE", "mapped")
ALL = ("TEST.HOLDOUT.FRACTION", 0)


@pytest.fixture(scope="module")
def dump(tiny_hoss, tmp_path_factory):
    """Two SAR chips of each optical one, of training chips too; not to be written to."""
    return make_dump(tmp_path_factory.mktemp("dump") / "made", tiny_hoss, k=2)


def chips_of(items, cfg):
    kept = ChipPass()
    inference_on_dataset(Fixed(), build_test_loader(cfg, items), kept)
    return kept.chips


def test_fused_row_is_that_of_mapped_features(data, dump, tmp_path):
    opts = (*MAPPED, "K", 2, "ALPHA", 0.4, *ALL)
    results, hoss, cfg = results_of(dump, tmp_path, *opts), HOSS(root=str(data)), config(dump, "")
    test, train = (chips_of(items, cfg) for items in ([*hoss.query, *hoss.gallery], hoss.train))
    test = type(test)(**{**vars(test), "num_query": len(hoss.query)})
    (made, owner), (learnt, ships) = (by_hand(chips, dump, (0, 1), 1) for chips in (test, train))
    sar = train.modalities == 1
    found = fit_map(learnt, train.ids[ships], train.features[sar], train.ids[sar])
    fused = fuse_features(test.features, found(made), owner, 0.4)
    for name in KINDS:
        row = results["protocols"][name]["fused"]
        assert (row["mAP"], row["Rank-1"]) == pytest.approx(figures(test, fused, name), abs=1e-3), name
    assert results["fusion"]["mode"] == "mapped" and results["fusion"]["map"] == pytest.approx(found.record, rel=1e-4)
    assert results["fusion"]["map"]["ships"] == len({*train.ids[ships]} & {*train.ids[sar]}) > 5
    plain = results_of(dump, tmp_path / "mean", "K", 2, "ALPHA", 0.4, *ALL)
    assert plain["fusion"]["mode"] == "mean" and "map" not in plain["fusion"]
    assert plain["protocols"]["O2S"]["fused"] != results["protocols"]["O2S"]["fused"]


def test_a_map_of_the_sources_own_feature_needs_no_generated_pixel(data, dump, tmp_path):
    results, hoss, cfg = (
        results_of(dump, tmp_path, "MODE", "source", "K", 2, "ALPHA", 0.4, *ALL),
        HOSS(str(data)),
        config(dump, ""),
    )
    test, train = (chips_of(items, cfg) for items in ([*hoss.query, *hoss.gallery], hoss.train))
    test = type(test)(**{**vars(test), "num_query": len(hoss.query)})
    sar, both = train.modalities == 1, np.isin(train.ids, train.ids[train.modalities == 1])
    owners = np.repeat(np.flatnonzero(~sar & both), 2)
    found = fit_map(train.features[owners], train.ids[owners], train.features[sar], train.ids[sar])
    optical = np.flatnonzero(test.modalities == 0)
    fused = fuse_features(test.features, found(test.features[optical]), optical, 0.4)
    for name in KINDS:
        row = results["protocols"][name]["fused"]
        assert (row["mAP"], row["Rank-1"]) == pytest.approx(figures(test, fused, name), abs=1e-3), name
    assert results["fusion"]["mode"] == "source" and results["fusion"]["map"] == pytest.approx(found.record, rel=1e-4)


@pytest.fixture
def learnt(monkeypatch):
    """A function: dump, options -> the ships of generated and of real chips that the map was given."""
    seen = []

    def watched(generated, owners, real, ships):
        seen.append(({*owners.tolist()}, {*ships.tolist()}))
        return fit_map(generated, owners, real, ships)

    monkeypatch.setattr(fusing, "fit_map", watched)

    def run(dump, *opts):
        made = fusion(dump, *MAPPED, "K", 2, *opts)
        return (*seen.pop(), made)

    return run


def test_ships_held_out_or_tested_are_not_learnt_from(data, dump, learnt, tmp_path, monkeypatch):
    hoss = HOSS(root=str(data))
    both = {pid for _, pid, modality in hoss.train if modality == 1} & {pid for _, pid, m in hoss.train if m == 0}
    held = {pid for part in held_out(data)[0] for _, pid, _ in part}
    assert learnt(dump, *ALL)[:2] == (both, both)
    owners, ships, made = learnt(dump, *AUTO)
    assert owners == ships == both - held and held & both
    assert set(made.record["curves"]) == set(KINDS)  # alpha was chosen on the held-out ships all the same
    # Test chips among the training ones: all of them; one ship's number; and one chip under another number.
    assert learnt(dump, *ALL, "DATASETS.COMBINEALL", True)[:2] == (both, both)
    own = shutil.copytree(data, tmp_path / "data")
    monkeypatch.setenv("FASTREID_DATASETS", str(own))
    # A held-out chip under the number of a ship that is not held out.
    (taken, *_), other = held_out(own)[0][1][0], max(both - held)
    shutil.copy(taken, own / f"HOSS/bounding_box_train/{other:04d}_copy{taken[-8:]}")
    assert learnt(dump, *AUTO)[:2] == (both - held - {other},) * 2
    first, second = sorted(both)[:2]
    tested = sorted({pid for _, pid, _ in hoss.query})[0]
    chips = {(pid, modality): path for path, pid, modality in hoss.train}
    for modality, word in enumerate(("RGB", "SAR")):
        for pid in (f"{tested:04d}", "-1"):  # and distractors, which are no ship
            shutil.copy(chips[first, modality], own / f"HOSS/bounding_box_train/{pid}_more_{word}.tif")
    shutil.copy(hoss.query[0][0], own / f"HOSS/bounding_box_train/{second:04d}_copy{hoss.query[0][0][-8:]}")
    for path in (own / "HOSS/bounding_box_test").glob(
        "-1_*"
    ):  # the tests' own distractors are left out as tested ships
        path.unlink()
    assert learnt(dump, *ALL)[:2] == (both - {second},) * 2


def test_too_few_ships_to_learn_from(data, dump, tmp_path):
    root = make_dump(tmp_path / "no_train", data, k=2, keep=lambda path, split: split != "train")
    for folder, opts in ((root, ALL), (dump, ("TEST.HOLDOUT.FRACTION", 0.8))):
        line = refused(folder, *MAPPED, "K", 2, *opts)
        assert re.match(
            rf"{folder}: has generated chips of \d .*BRIDGE.SAMPLE.SPLITS \"\['train'\]\"\), or set it to mean", line
        )
    # Of a chip of theirs a sample is missing.
    assert "BRIDGE.SAMPLE.K 3" in refused(dump, *MAPPED, "K", 3, *ALL)
    assert np.isfinite(fusion(dump, "K", 2, *ALL).generated.features).all()
