"""HOSS, its protocols and the pair data: what is listed, derived, skipped, refused and logged; held-out splits."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections import Counter

import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from made_chips import TRAINING, write_optical, write_sar

from fastreid_mos.data import HOSS, HOSS_O2S, HOSS_S2O, OPTICAL, SAR, dataset_root
from fastreid_mos.data.datasets import join_items
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.errors import DatasetError, MOSError


@pytest.fixture
def hoss(hoss_root):
    """The folder HOSS of the tiny data set."""
    return hoss_root / "HOSS"


@pytest.fixture
def log(caplog, hoss_root):
    """A function: what HOSS logs of its training and its test chips."""
    caplog.set_level(logging.INFO, "fastreid_mos.data")

    def of():
        dataset = HOSS(root=hoss_root)
        caplog.clear()
        dataset.show_train()
        dataset.show_test()
        return caplog.text

    return of


def names(items):
    return [(os.path.basename(path), pid, modality) for path, pid, modality in items]


def pids(items):
    return [pid for _, pid, _ in items]


def test_lists_protocols_and_subset_folders(hoss_root, hoss, monkeypatch):
    data = DATASET_REGISTRY.get("HOSS")(root=str(hoss_root), combineall=False, verbose=False)
    assert len(data.train) == 17 and set(pids(data.train)) == set(TRAINING)
    assert names(data.query)[:2] == [("0201_a_RGB.tif", 201, OPTICAL), ("0202_a_SAR.tif", 202, SAR)]
    assert names(data.gallery)[0] == ("-1_0001_SAR.tif", -1, SAR) and len(data.gallery) == 7
    # The folder itself, and in any order of the file system.
    monkeypatch.setattr(os, "listdir", lambda folder, real=os.listdir: sorted(real(folder), reverse=True))
    assert HOSS(root=hoss).train == data.train
    assert data.get_num_pids(data.train) == 6 and data.get_num_cams(data.train) == 2
    o2s, s2o = HOSS_O2S(root=hoss_root), HOSS_S2O(root=hoss_root)
    assert (pids(o2s.query), pids(o2s.gallery)) == ([201, 203], [-1, 201])
    assert (pids(s2o.query), pids(s2o.gallery)) == ([202, 204], [-1, 201, 202, 203, 204])
    assert o2s.train == s2o.train == data.train
    write_optical(hoss / "subset/O2S/query/0300_a_RGB.tif", 1)
    assert pids(HOSS_O2S(root=hoss_root).query) == [201, 203]  # half a subset is none
    write_sar(hoss / "subset/O2S/bounding_box_test/0300_b_SAR.tif", 2)
    data = HOSS_O2S(root=hoss_root)
    assert names(data.query) == [("0300_a_RGB.tif", 300, OPTICAL)] and pids(data.gallery) == [300]
    assert pids(HOSS_S2O(root=hoss_root).query) == [202, 204]
    data = HOSS(root=hoss_root, combineall=True)  # but no distractor
    assert len(data.train) == 17 + 4 + 5 and len(set(pids(data.train))) == 6 + 4
    assert data.summary()["train"] == 17


def test_missing_data_set_says_layout_and_source(tmp_path, monkeypatch):
    for name, folder, words in (
        ("HOSS", "HOSS", "15860212"), ("OptiSarPair", "OptiSar_Pair", "_RGB.tif"),
        ("QXSSAROPT", "QXS-SAROPT", "opt/<number>.png"),
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=rf"^{tmp_path}/{folder}: not found.*{words}.*FASTREID_DATASETS"):
            DATASET_REGISTRY.get(name)(root=str(tmp_path))
    monkeypatch.setenv("HOME", "/home/someone")
    for value, wanted in (("~/ships", "/home/someone/ships"), ("", os.path.abspath("datasets"))):
        monkeypatch.setenv("FASTREID_DATASETS", value)
        assert dataset_root() == wanted


def test_odd_names(hoss_root, hoss, log, odd_words):
    train = hoss / "bounding_box_train"
    for name in (
        "Thumbs.db", ".0001_s01c1_RGB.tif", "ship_s01c1_RGB.tif", "0001_s01c1.tif", "0001_s01c1_IR.tif", "0001-RGB.tif",
        "_RGB.tif", "-7_s01c1_RGB.tif", "-1_0001_RGB.tif",
    ):  # fmt: skip
        (train / name).write_bytes(b"x")
    (train / "0001_s01c1_RGB.tif").mkdir()
    write_optical(train / "0500_RGB.TIFF", 5)
    write_sar(train / "500_with_more_words_sar.tif", 6)
    paths = [hoss / "query" / f"0301_{word}_RGB.tif" for word in odd_words]
    for path in paths:
        write_optical(path, 5)
    data = HOSS(root=hoss_root)
    assert len(data.train) == 19 and pids(data.train).count(500) == 2
    assert {(str(path), 301, OPTICAL) for path in paths} <= set(data.query)
    assert len(data.skipped) == data.summary()["skipped"] == 10
    text, other = log(), str(train / "-7_s01c1_RGB.tif")
    assert all(words in text for words in ("10 files skipped", "6 named other than <", "1 of identity -1", other))


def test_a_name_that_cannot_be_written_down_is_refused_at_once(hoss_root, hoss):
    for name in (b"0300_\xb4\xac_RGB.tif", b"0300_a\rb_RGB.tif"):
        path = os.path.join(os.fsencode(hoss), b"bounding_box_test", name)
        shutil.copy(hoss / "query/0201_a_RGB.tif", path)
        with pytest.raises(DatasetError, match=rf"^{hoss}/bounding_box_test/0300_.*\\x.*convmv") as caught:
            HOSS(root=hoss_root)
        assert str(caught.value).isprintable()
        os.unlink(path)


DOUBTS = ("1 query chips are in the gallery too, such as", "1 identities are both in the training and", "CMAL")


def test_log_and_summary(hoss_root, hoss, log):
    write_optical(hoss / "bounding_box_test" / "0203_a_RGB.tif", 999)  # another chip by a query's name
    assert "train 17 6 9 8 4 0 " in " ".join(log().replace("|", " ").split())
    assert list(HOSS(root=hoss_root).summary().values()) == [17, 6, 4, 4, 8, 2, 0]
    assert not any(words in log() for words in DOUBTS)
    shutil.copy(hoss / "query" / "0201_a_RGB.tif", hoss / "bounding_box_test")
    write_optical(hoss / "query" / "0002_x_RGB.tif", 1)
    for path in (hoss / "bounding_box_train").glob("*_SAR.tif"):
        path.unlink()
    assert all(words in log() for words in (*DOUBTS, str(hoss / "query/0201_a_RGB.tif")))
    for folder in ("query", "bounding_box_test"):
        shutil.rmtree(hoss / folder)
    assert HOSS_O2S(root=hoss_root).query == HOSS(root=hoss_root).gallery == [] and log()


def test_plot(hoss_root):
    data = HOSS(root=hoss_root)
    shown = data.plot(columns=4).axes
    assert len(shown) == 16 and shown[0].get_title() == "2 optical"
    assert shown[0].images[0].get_array().shape == (40, 14, 3)


def test_pair_data(tmp_path):
    root = tmp_path / "OptiSar_Pair"
    for stem in ("a/x_0007_p1", "a/x_0008_p1", "b/port_12_p1", "b/port_12_p2"):
        write_optical(root / f"{stem}_RGB.tif", 1)
        write_sar(root / f"{stem}_SAR.png", 2)
    write_sar(root / "b" / "x_0099_SAR.tif", 3)
    (root / "b" / "readme.txt").write_text("x")
    data = DATASET_REGISTRY.get("OptiSarPair")(root=str(tmp_path), combineall=False)
    assert len(data.train) == 8 and data.query == data.gallery == [] and data.summary()["skipped"] == 2
    assert [pid for *_, pid in data.pairs] == [7, 8, 12, 12]
    for optical, sar, pid in data.pairs:
        assert optical.replace("_RGB.tif", "") == sar.replace("_SAR.png", "") and f"{pid}_" in optical
    for folder, write, numbers in (("opt", write_optical, (1, 2, 10)), ("sar", write_sar, (2, 10, 11))):
        for number in numbers:
            write(tmp_path / "QXS-SAROPT" / folder / f"{number}.png", number)
    data = DATASET_REGISTRY.get("QXSSAROPT")(root=str(tmp_path))
    assert {item[1:] for item in data.train} == {(2, OPTICAL), (2, SAR), (10, OPTICAL), (10, SAR)}
    assert [(a.endswith(f"{n}.png"), n) for a, _, n in data.pairs] == [(True, 2), (True, 10)]
    assert data.summary()["skipped"] == 2


def test_identities_of_several_data_sets_are_different_ships():
    first, second = [("a", 3, 0), ("b", -1, 0)], [("c", 0, 1), ("d", -1, 1), ("e", 2, 0)]
    assert pids(join_items([first, second])) == [3, -1, 4, -1, 6]
    assert pids(join_items([first[1:], second])) == [-1, 0, -1, 2]


# 20 identities with two optical chips and a SAR one, 5 with three of one modality each, and two distractors.
KINDS = [[0, 0, 1]] * 20 + [[0] * 3] * 5 + [[1] * 3] * 5
SHIPS = [(f"{pid:04d}_{k}", pid, kind) for pid, kinds in enumerate(KINDS) for k, kind in enumerate(kinds)]
SHIPS += [("-1_a", -1, 0), ("-1_b", -1, 1)]


def test_nothing_leaks_and_every_query_has_a_match_both_ways():
    remaining, splits = split_holdout(SHIPS, 0.3, splits=3, seed=1)
    held = {pid for query, gallery in splits for _, pid, _ in query + gallery}
    assert len(held) == round(0.3 * 20) + round(0.3 * 10) and -1 not in held
    assert remaining == [item for item in SHIPS if item[1] not in held]
    for query, gallery in splits:
        assert Counter(query + gallery) == Counter(item for item in SHIPS if item[1] in held)
        kinds = {pid: {kind for _, other, kind in gallery if other == pid} for _, pid, _ in query}
        assert all(kinds.values())
        # Six identities of two optical and one SAR chip: queries of the two modalities take turns.
        assert Counter(kind for _, pid, kind in query if kinds[pid] - {kind}) == {0: 3, 1: 3}


def test_identities_with_two_chips_of_each_modality_and_with_one_chip():
    items = [(f"{pid}_{k}", pid, k % 2) for pid in range(6) for k in range(4)]
    _, [(query, gallery)] = split_holdout(items, 0.5)
    assert Counter(kind for *_, kind in query) == {0: 3, 1: 3} == Counter(kind for *_, kind in gallery)
    items = [(f"{pid}_{kind}", pid, kind) for pid in range(8) for kind in (0, 1)]
    _, [(query, gallery)] = split_holdout(items + [(f"{pid}_0", pid, 0) for pid in range(8, 20)], 0.5)
    assert len(query) == 4 and all(pid < 8 for _, pid, _ in query)
    assert sum(pid >= 8 for _, pid, _ in gallery) == 6


def test_seeds():
    shuffled = random.Random(0).sample(SHIPS, len(SHIPS))
    first, second = split_holdout(SHIPS, 0.3, splits=2, seed=4)[1]
    assert split_holdout(shuffled, 0.3, splits=2, seed=4)[1] == [first, second]
    assert split_holdout(SHIPS, 0.3, seed=5)[1] != [first] and first != second
    assert split_holdout(SHIPS, 0.3, splits=1, seed=4)[1] == [first]  # more splits do not change the first one


def test_refuses():
    lone = [(str(pid), pid, 0) for pid in range(10)]
    for items, words in ((SHIPS[:6], "1 of 2 .* 1 left"), (lone, "5 identities .* two chips")):
        with pytest.raises(MOSError, match=words):
            split_holdout(items, 0.5)


def test_real_sample(shared_dir):
    data = HOSS(root=shared_dir / "hoss_sample")
    assert list(data.summary().values()) == [56, 21, 15, 16, 40, 9, 0]
    for query, gallery in split_holdout(data.train, 0.3, splits=4)[1]:
        pairs = {(kind, other) for _, pid, kind in query for _, same, other in gallery if pid == same}
        assert {(0, 1), (1, 0)} <= pairs
