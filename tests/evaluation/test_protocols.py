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
ALL, O2O, TWIN, A2O = (("ALL", "all", "all"), ("O2O", "optical", "optical"), ("TWIN", "optical", "optical"),
                       ("A2O", "all", "optical"))  # fmt: skip
RGB, SAR = ["1_q_RGB.tif"], ["1_g_SAR.tif", "-1_g_SAR.tif"]
QUERY = ["1_q_RGB.tif", "2_q_SAR.tif", "3.png"]
GALLERY = ["-1_g_SAR.tif", "1_g_RGB.tif", "1_g_SAR.tif", "2_g_RGB.tif", "3_g_SAR.tif"]


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


@pytest.mark.parametrize("kind", ["same path", "copy", "link", "other content", "absent"])
def test_own_files(tmp_path, kind):
    paths = hoss(tmp_path, ["1_a_RGB.tif"], ["1_b_RGB.tif", "2_a_RGB.tif", "1_a_RGB.tif"])
    query, twin = paths[0], paths[3]
    if kind == "same path":
        paths[3] = query
    elif kind != "other content":
        twin.unlink()
    if kind == "link":
        twin.symlink_to(query)
    elif kind == "copy":
        shutil.copyfile(query, twin)
    rows, left_out = selected(paths, 1, [O2O, ALL])
    assert rows["O2O"][2] == [-1 if kind in ("other content", "absent") else 2] and list(left_out) == ["ALL"]
