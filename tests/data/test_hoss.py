"""HOSS and its protocols: what is listed, derived, skipped, refused and logged."""

from __future__ import annotations

import errno
import logging
import os
import shutil

import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from made_chips import TRAINING, write_optical, write_sar

from fastreid_mos.data import HOSS, HOSS_O2S, HOSS_S2O, OPTICAL, SAR, dataset_root
from fastreid_mos.data.datasets import open_dataset
from fastreid_mos.errors import DatasetError


def names(items):
    return [(os.path.basename(path), pid, modality) for path, pid, modality in items]


def test_lists(hoss_root):
    data = DATASET_REGISTRY.get("HOSS")(root=str(hoss_root), combineall=False, verbose=False)
    assert isinstance(data, HOSS)
    assert len(data.train) == 17 and {pid for _, pid, _ in data.train} == set(TRAINING)
    assert all(os.path.isfile(path) and isinstance(pid, int) for path, pid, _ in data.train)
    assert names(data.query)[:2] == [("0201_a_RGB.tif", 201, OPTICAL), ("0202_a_SAR.tif", 202, SAR)]
    assert names(data.gallery)[0] == ("-1_0001_SAR.tif", -1, SAR)
    assert len(data.gallery) == 7
    assert data.get_num_pids(data.train) == 6 and data.get_num_cams(data.train) == 2


def test_protocols_are_derived_by_modality(hoss_root):
    o2s, s2o = HOSS_O2S(root=hoss_root), HOSS_S2O(root=hoss_root)
    assert [pid for _, pid, _ in o2s.query] == [201, 203] and {kind for *_, kind in o2s.query} == {OPTICAL}
    assert [pid for _, pid, _ in o2s.gallery] == [-1, 201]
    assert [pid for _, pid, _ in s2o.query] == [202, 204] and {kind for *_, kind in s2o.query} == {SAR}
    assert [pid for _, pid, _ in s2o.gallery] == [-1, 201, 202, 203, 204]
    assert o2s.train == s2o.train == HOSS(root=hoss_root).train


def test_subset_folders_come_first(hoss_root):
    subset = hoss_root / "HOSS" / "subset" / "O2S"
    write_optical(subset / "query" / "0300_a_RGB.tif", 1)
    assert [pid for _, pid, _ in HOSS_O2S(root=hoss_root).query] == [201, 203]  # half a subset is none
    write_sar(subset / "bounding_box_test" / "0300_b_SAR.tif", 2)
    write_sar(subset / "bounding_box_test" / "0301_b_SAR.tif", 3)
    data = HOSS_O2S(root=hoss_root)
    assert names(data.query) == [("0300_a_RGB.tif", 300, OPTICAL)] and len(data.gallery) == 2
    assert [pid for _, pid, _ in HOSS_S2O(root=hoss_root).query] == [202, 204]


def test_missing_root_says_layout_and_source(tmp_path):
    for name in ("HOSS", "HOSS_O2S", "HOSS_S2O"):
        with pytest.raises(DatasetError) as caught:
            DATASET_REGISTRY.get(name)(root=str(tmp_path / "nowhere"))
        message = str(caught.value)
        assert message.startswith(str(tmp_path / "nowhere" / "HOSS")) and "\n" not in message
        for part in ("bounding_box_train", "query", "bounding_box_test", "_RGB.tif", "15860212", "FASTREID_DATASETS"):
            assert part in message


def test_root_may_be_the_folder_itself(hoss_root):
    assert len(HOSS(root=hoss_root / "HOSS").train) == 17


def test_dataset_root(monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", "/somewhere")
    assert dataset_root() == "/somewhere"
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("FASTREID_DATASETS", "~/ships")
    assert dataset_root() == "/home/someone/ships"
    monkeypatch.delenv("FASTREID_DATASETS")
    assert dataset_root() == os.path.abspath("datasets")


def test_folders_that_cannot_be_read_are_named(hoss_root, monkeypatch):
    query = hoss_root / "HOSS" / "query"
    shutil.rmtree(query)
    query.symlink_to(query)
    with pytest.raises(DatasetError, match=r"^\S+/HOSS/query: cannot be read \(.*symbolic links\)$"):
        HOSS(root=hoss_root)
    loop = hoss_root.parent / "loop"
    loop.symlink_to(loop)
    with pytest.raises(DatasetError, match=r"loop/HOSS: cannot be read \(.*symbolic links\)$"):
        HOSS(root=loop)
    real = os.scandir

    def closed(folder="."):
        if str(folder).endswith("bounding_box_test"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return real(folder)

    query.unlink()
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DatasetError, match=r"^\S+/bounding_box_test: cannot be read \(Permission denied\)$"):
        HOSS(root=hoss_root)


def test_a_link_to_itself_is_skipped(hoss_root):
    link = hoss_root / "HOSS" / "query" / "0205_a_RGB.tif"
    link.symlink_to(link)
    dataset = HOSS(root=hoss_root)
    assert len(dataset.query) == 4 and dict(dataset.skipped.counts) == {"not an ordinary file": 1}


def test_a_query_that_is_in_the_gallery_is_said(hoss_root, caplog):
    query, gallery = hoss_root / "HOSS" / "query", hoss_root / "HOSS" / "bounding_box_test"
    write_optical(gallery / "0203_a_RGB.tif", 999)  # another chip by the same name
    with caplog.at_level(logging.INFO, "fastreid_mos.data"):
        HOSS(root=hoss_root).show_test()
        assert "in the gallery too" not in caplog.text
        shutil.copy(query / "0201_a_RGB.tif", gallery)
        HOSS(root=hoss_root).show_test()
    assert f"1 query chips are in the gallery too, such as {query / '0201_a_RGB.tif'}" in caplog.text


def test_odd_names_are_skipped_counted_and_logged(hoss_root, caplog):
    train = hoss_root / "HOSS" / "bounding_box_train"
    (train / "Thumbs.db").write_bytes(b"x")
    (train / ".0001_s01c1_RGB.tif").write_bytes(b"x")
    for name in ("ship_s01c1_RGB.tif", "0001_s01c1.tif", "0001_s01c1_IR.tif", "0001-RGB.tif", "_RGB.tif"):
        (train / name).write_bytes(b"x")
    (train / "-7_s01c1_RGB.tif").write_bytes(b"x")
    (train / "-1_0001_RGB.tif").write_bytes(b"x")
    (train / "0001_s01c1_RGB.tif.d").mkdir()
    write_optical(train / "0500_RGB.TIFF", 5)
    write_sar(train / "500_with_more_words_sar.tif", 6)
    with caplog.at_level(logging.INFO, "fastreid_mos.data"):
        data = HOSS(root=hoss_root)
        data.show_train()
    assert len(data.train) == 19 and sum(pid == 500 for _, pid, _ in data.train) == 2
    assert data.skipped.counts.total() == data.summary()["skipped"] == 10
    text = caplog.text
    assert "10 files skipped" in text and "5 named other than <identity>_..._RGB or _SAR" in text
    assert "1 of identity -1 (a distractor) in the training split" in text
    assert str(train / "0001-RGB.tif") in text  # one example for each reason


@pytest.mark.parametrize("name", [b"0300_\xb4\xac_RGB.tif", b"0300_a\rb_RGB.tif"])
@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test", "subset/S2O/query"])
def test_a_name_that_cannot_be_written_down_is_refused_at_once(hoss_root, folder, name):
    path = os.path.join(os.fsencode(hoss_root / "HOSS"), folder.encode(), name)
    for part in ("query", "bounding_box_test"):
        if "subset" in folder:
            write_sar(hoss_root / "HOSS/subset/S2O" / part / "0202_a_SAR.tif", 1)
    try:
        shutil.copy(hoss_root / "HOSS/query/0201_a_RGB.tif", path)
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(DatasetError) as caught:
        (HOSS_S2O if "subset" in folder else HOSS)(root=hoss_root)
    message = str(caught.value)
    assert message.isprintable() and "not UTF-8 text" in message and "convmv" in message
    assert message.startswith(str(hoss_root)) and "\\x" in message and "_RGB.tif: a name" in message


def test_a_file_of_such_a_name_that_is_no_chip_is_skipped_and_shown(hoss_root, caplog):
    try:
        (hoss_root / "HOSS/query" / os.fsdecode(b"\xb4\n.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system takes no such name")
    with caplog.at_level(logging.INFO, "fastreid_mos.data"):
        HOSS(root=hoss_root).show_test()
    assert "query/\\xb4\\x0a.txt" in caplog.text


def test_data_sets_of_others_are_looked_at_for_such_names_too(monkeypatch):
    class Photographs:
        train, query, gallery = [], [("a.jpg", 1, 0)], [(os.fsdecode(b"b\xff.jpg"), 1, 0)]

        def __init__(self, root):
            pass

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Photographs", Photographs)
    with pytest.raises(DatasetError, match=r"^b.xff\.jpg: a name that is not UTF-8"):
        open_dataset("Photographs")


def test_odd_words_in_a_name_are_a_name(hoss_root, odd_words):
    paths = [hoss_root / "HOSS/query" / f"0301_{word}_RGB.tif" for word in odd_words]
    for path in paths:
        write_optical(path, 5)
    assert {(str(path), 301, OPTICAL) for path in paths} <= set(HOSS(root=hoss_root).query)


def test_log_and_summary(hoss_root, caplog):
    with caplog.at_level(logging.INFO, "fastreid_mos.data"):
        data = HOSS(root=hoss_root)
        data.show_train()
        data.show_test()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in caplog.text.splitlines() if line[:1] == "|"]
    assert ["split", "chips", "identities", "optical", "SAR", "identities with both", "distractors"] in rows
    assert ["train", "17", "6", "9", "8", "4", "0"] in rows
    assert ["query", "4", "4", "2", "2", "0", "0"] in rows
    assert ["gallery", "7", "4", "5", "2", "1", "2"] in rows
    assert "no file skipped" in caplog.text and "both in the training" not in caplog.text
    summary = data.summary()
    assert (summary["train"], summary["query"], summary["gallery"], summary["distractors"]) == (17, 4, 7, 2)


def test_identities_in_both_splits_are_said(hoss_root, caplog):
    write_optical(hoss_root / "HOSS" / "query" / "0002_x_RGB.tif", 1)
    with caplog.at_level(logging.WARNING, "fastreid_mos.data"):
        HOSS(root=hoss_root).show_train()
    assert "1 identities are both in the training and in the test split" in caplog.text


def test_no_identity_with_both_modalities_is_said(hoss_root, caplog):
    with caplog.at_level(logging.WARNING, "fastreid_mos.data"):
        HOSS(root=hoss_root).show_train()
        assert "CMAL" not in caplog.text
        for path in (hoss_root / "HOSS" / "bounding_box_train").glob("*_SAR.tif"):
            path.unlink()
        HOSS(root=hoss_root).show_train()
    assert "no training identity has both modalities; CMAL has nothing to align" in caplog.text


def test_empty_and_absent_test_folders(hoss_root):
    for folder in ("query", "bounding_box_test"):
        for path in (hoss_root / "HOSS" / folder).iterdir():
            path.unlink()
    for cls in (HOSS, HOSS_O2S):
        data = cls(root=hoss_root)
        assert len(data.train) == 17 and data.query == [] and data.gallery == []
        data.show_train()
        data.show_test()
    shutil.rmtree(hoss_root / "HOSS" / "query")
    shutil.rmtree(hoss_root / "HOSS" / "bounding_box_test")
    assert len(HOSS(root=hoss_root).train) == 17


def test_combineall_adds_the_test_chips_but_no_distractor(hoss_root):
    data = HOSS(root=hoss_root, combineall=True)
    assert len(data.train) == 17 + 4 + 5
    assert len({pid for _, pid, _ in data.train}) == 6 + 4
    assert data.summary()["train"] == 17


def test_plot(hoss_root):
    data = HOSS(root=hoss_root)
    figure = data.plot(columns=4)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 16 and shown[0].get_title() == "2 optical"
    assert shown[0].images[0].get_array().shape == (40, 14, 3)
    assert len([axis for axis in data.plot(data.gallery[:1]).axes if axis.images]) == 1
    with pytest.raises(DatasetError, match="no chips to draw"):
        data.plot([])


def test_real_sample(shared_dir):
    data = HOSS(root=shared_dir / "hoss_sample")
    assert data.summary() == {
        "train": 56, "training identities": 21, "with both modalities": 15, "query": 16, "gallery": 40,
        "distractors": 9, "skipped": 0,
    }  # fmt: skip
