"""Which chips a protocol holds: by modality, by the data set's own lists, and a query's own file."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest

from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator
from fastreid_mos.evaluation.chips import Chips
from fastreid_mos.evaluation.protocols import select_protocols

PROTOCOLS = EvalSettings().protocols


def chips_of(paths, num_query, kinds=None):
    names = [os.path.basename(path) for path in paths]
    kinds = np.array([int("SAR" in name) for name in names]) if kinds is None else np.array(kinds)
    ids = np.array([int(name.split("_")[0]) for name in names])
    return Chips(np.zeros((len(ids), 2), np.float32), ids, kinds, kinds, None, tuple(map(str, paths)), num_query)


def hoss(root, query, gallery):
    """Files of that content, so that copies can be told from different files of one name."""
    paths = []
    for folder, names in (("query", query), ("bounding_box_test", gallery)):
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(f"{folder}/{name}".encode())
            paths.append(root / folder / name)
    return paths


QUERY = ["1_q_RGB.tif", "2_q_SAR.tif", "3_q_RGB.tif"]
GALLERY = ["-1_g_SAR.tif", "1_g_RGB.tif", "1_g_SAR.tif", "2_g_RGB.tif", "3_g_SAR.tif"]


def test_by_modality(tmp_path):
    protocols, left_out = select_protocols(chips_of(hoss(tmp_path, QUERY, GALLERY), 3), PROTOCOLS)
    rows = {part.name: (part.query.tolist(), part.gallery.tolist()) for part in protocols}
    assert rows == {
        "ALL": ([0, 1, 2], [3, 4, 5, 6, 7]),
        "O2S": ([0, 2], [3, 5, 7]),
        "S2O": ([1], [4, 6]),
    }
    assert not left_out and all((part.own == -1).all() for part in protocols)


def test_a_set_of_one_direction_has_one_protocol(tmp_path):
    paths = hoss(tmp_path, ["1_q_RGB.tif"], ["1_g_SAR.tif", "-1_g_SAR.tif"])
    protocols, left_out = select_protocols(chips_of(paths, 1), PROTOCOLS)
    assert [part.name for part in protocols] == ["O2S"]
    assert left_out == {"ALL": "the same chips as O2S", "S2O": "no sar query chips"}


def test_a_set_of_one_modality_keeps_all(tmp_path):
    paths = hoss(tmp_path, ["1_q_RGB.tif"], ["1_g_RGB.tif"])
    protocols, left_out = select_protocols(chips_of(paths, 1), PROTOCOLS)
    assert [part.name for part in protocols] == ["ALL"]
    assert left_out == {"O2S": "no sar gallery chips", "S2O": "no sar query chips"}


def subset(root, name, query, gallery):
    for folder, names in (("query", query), ("bounding_box_test", gallery)):
        (root / "subset" / name / folder).mkdir(parents=True)
        for file in names:
            (root / "subset" / name / folder / file).write_bytes(b"copy")


def test_subset_folders_say_what_a_protocol_holds(tmp_path, caplog):
    paths = hoss(tmp_path, QUERY, GALLERY)
    subset(tmp_path, "O2S", ["1_q_RGB.tif", "Thumbs.db"], ["1_g_SAR.tif", "-1_g_SAR.tif"])
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        protocols, _ = select_protocols(chips_of(paths, 3), PROTOCOLS, str(tmp_path))
    rows = {part.name: (part.query.tolist(), part.gallery.tolist()) for part in protocols}
    assert rows["O2S"] == ([0], [3, 5]) and rows["S2O"] == ([1], [4, 6])
    assert "O2S: 1 queries and 2 gallery chips, as subset/O2S lists them" in caplog.text


@pytest.mark.parametrize("name", [b"9_q_RGB.tif", b"9_\xb4_RGB.tif"])
def test_a_subset_with_chips_of_its_own_is_left_to_its_data_set(tmp_path, caplog, name):
    """With the training behind it a test stops at no name that is not UTF-8."""
    paths = hoss(tmp_path, QUERY, GALLERY)
    try:
        subset(tmp_path, "O2S", ["1_q_RGB.tif", os.fsdecode(name)], ["1_g_SAR.tif"])
    except OSError:
        pytest.skip("this file system takes no such name")
    protocols, _ = select_protocols(chips_of(paths, 3), PROTOCOLS, str(tmp_path))
    assert {part.name: part.query.tolist() for part in protocols}["O2S"] == [0, 2]
    assert f"{name.decode('utf-8', 'backslashreplace')} first" in caplog.text
    assert "DATASETS.TESTS HOSS_O2S tests that folder" in caplog.text


@pytest.mark.parametrize("kind", ["same path", "copy", "link", "other content", "absent"])
def test_own_files(tmp_path, kind):
    paths = hoss(tmp_path, ["1_a_RGB.tif"], ["1_b_RGB.tif", "2_a_RGB.tif", "1_a_RGB.tif"])
    query, twin = paths[0], paths[3]
    if kind == "same path":
        paths[3] = query
    elif kind == "copy":
        shutil.copyfile(query, twin)
    elif kind == "link":
        twin.unlink()
        twin.symlink_to(query)
    elif kind == "absent":
        twin.unlink()
    protocols, _ = select_protocols(chips_of(paths, 1), [["O2O", "optical", "optical"], ["ALL", "all", "all"]])
    assert protocols[0].own.tolist() == [-1 if kind in ("other content", "absent") else 2]
    # ALL holds the same chips here, and is left out for it.
    assert [part.name for part in protocols] == ["O2O"]


def test_subset_data_sets_in_the_evaluator(split, caplog):
    """HOSS_O2S's chips (optical queries, SAR gallery) give O2S, with the figures that HOSS's own pass gives."""
    whole = FusionReidEvaluator(num_query=split.num_query)
    query, gallery = split.rows(0, 1)
    rows = np.concatenate([query, gallery])
    part = split.changed(
        features=split.features[rows], ids=split.ids[rows], modalities=split.modalities[rows],
        pixels=split.pixels[rows], paths=tuple(split.paths[row] for row in rows), num_query=len(query),
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "fastreid_mos.evaluation"):
        alone = part.run(FusionReidEvaluator(num_query=len(query)))
    assert list(alone) == ["O2S"] and alone["O2S"] == split.run(whole)["O2S"]
    assert "ALL: left out, the same chips as O2S" in caplog.text
