"""Which chips a protocol holds: by modality, by the data set's own lists, and a query's own file."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from fastreid_mos.evaluation import EvalSettings
from fastreid_mos.evaluation.chips import Chips
from fastreid_mos.evaluation.protocols import select_protocols

PROTOCOLS = EvalSettings().protocols
QUERY = ["1_q_RGB.tif", "2_q_SAR.tif", "3_q_RGB.tif"]
GALLERY = ["-1_g_SAR.tif", "1_g_RGB.tif", "1_g_SAR.tif", "2_g_RGB.tif", "3_g_SAR.tif"]


def hoss(root, query, gallery):
    """Files of different content, so that copies can be told from others of their name."""
    paths = [root / "query" / name for name in query] + [root / "bounding_box_test" / name for name in gallery]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(path))
    return paths


def selected(paths, num_query, wanted=PROTOCOLS, root=None):
    kinds = np.array([int("SAR" in path.name) for path in paths])
    ids = np.array([int(path.stem.split("_")[0]) for path in paths])
    unused = np.zeros((len(ids), 2))
    chips = Chips(unused.astype(np.float32), ids, kinds, kinds, unused, tuple(map(str, paths)), num_query)
    protocols, left_out = select_protocols(chips, wanted, *np.split(np.arange(len(ids)), [num_query]), root)
    return {part.name: (part.query.tolist(), part.gallery.tolist(), part.own.tolist()) for part in protocols}, left_out


@pytest.mark.parametrize(
    ("query", "gallery", "rows", "left_out"),
    [
        (QUERY, GALLERY,
         {"ALL": ([0, 1, 2], [3, 4, 5, 6, 7], [-1] * 3), "O2S": ([0, 2], [3, 5, 7], [-1] * 2),
          "S2O": ([1], [4, 6], [-1])}, {}),
        (["1_q_RGB.tif"], ["1_g_SAR.tif", "-1_g_SAR.tif"],
         {"O2S": ([0], [1, 2], [-1])}, {"ALL": "the same chips as O2S", "S2O": "no sar query chips"}),
        (["1_q_RGB.tif"], ["1_g_RGB.tif"],
         {"ALL": ([0], [1], [-1])}, {"O2S": "no sar gallery chips", "S2O": "no sar query chips"}),
    ],
)  # fmt: skip
def test_by_modality(tmp_path, query, gallery, rows, left_out):
    assert selected(hoss(tmp_path, query, gallery), len(query)) == (rows, left_out)


def test_subset_folders_list_what_a_protocol_holds(tmp_path):
    # Chips of a data set of the user's own may have any name.
    paths = hoss(tmp_path, ["1_q_RGB.tif", "2_q_SAR.tif", "3.png"], GALLERY)
    hoss(tmp_path / "subset/O2S", ["1_q_RGB.tif", "3.png", "Thumbs.db"], ["1_g_SAR.tif", "-1_g_SAR.tif"])
    rows, _ = selected(paths, 3, root=str(tmp_path))
    assert rows["O2S"][:2] == ([0, 2], [3, 5]) and rows["S2O"][:2] == ([1], [4, 6])
    # They list the test split and no other.
    assert selected(paths, 3)[0]["O2S"][:2] == ([0, 2], [3, 5, 7])


@pytest.mark.parametrize("name", [b"9_q_RGB.tif", b"9_\xb4_RGB.tif"])
def test_a_subset_with_chips_of_its_own_is_left_to_its_data_set(tmp_path, caplog, name):
    """With the training behind it a test stops at no name that is not UTF-8."""
    paths = hoss(tmp_path, QUERY, GALLERY)
    try:
        hoss(tmp_path / "subset/O2S", ["1_q_RGB.tif", os.fsdecode(name)], ["1_g_SAR.tif"])
    except OSError:
        pytest.skip("this file system takes no such name")
    assert selected(paths, 3, root=str(tmp_path))[0]["O2S"][0] == [0, 2]
    assert name.decode("utf-8", "backslashreplace") in caplog.text and "HOSS_O2S" in caplog.text


@pytest.mark.parametrize("kind", ["same path", "copy", "link", "other content", "absent"])
def test_own_files(tmp_path, kind):
    paths = hoss(tmp_path, ["1_a_RGB.tif"], ["1_b_RGB.tif", "2_a_RGB.tif", "1_a_RGB.tif"])
    query, twin = paths[0], paths[3]
    if kind == "same path":
        paths[3] = query
    elif kind == "copy":
        shutil.copyfile(query, twin)
    elif kind != "other content":
        twin.unlink()
    if kind == "link":
        twin.symlink_to(query)
    rows, left_out = selected(paths, 1, [["O2O", "optical", "optical"], ["ALL", "all", "all"]])
    assert rows["O2O"][2] == [-1 if kind in ("other content", "absent") else 2]
    assert left_out == {"ALL": "the same chips as O2O"}
