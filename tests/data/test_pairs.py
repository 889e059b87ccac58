"""Pair data: the second field is the identity, or the number of the file is."""

from __future__ import annotations

import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from made_chips import write_optical, write_sar

from fastreid_mos.data import OPTICAL, SAR
from fastreid_mos.errors import DatasetError


def test_optisar_pair(tmp_path):
    root = tmp_path / "OptiSar_Pair"
    for group, stem in (("a", "x_0007_p1"), ("a", "x_0008_p1"), ("b", "port_12_p1"), ("b", "port_12_p2")):
        write_optical(root / group / f"{stem}_RGB.tif", 1)
        write_sar(root / group / f"{stem}_SAR.png", 2)
    write_sar(root / "b" / "x_0099_SAR.tif", 3)
    (root / "b" / "readme.txt").write_text("x")
    data = DATASET_REGISTRY.get("OptiSarPair")(root=str(tmp_path), combineall=False)
    assert {pid for _, pid, _ in data.train} == {7, 8, 12} and len(data.train) == 8
    assert data.query == [] and data.gallery == []
    assert data.summary()["skipped"] == 2 and data.skipped.counts["without a partner of the other modality"] == 1
    assert [pid for *_, pid in data.pairs] == [7, 8, 12, 12]
    for optical, sar, pid in data.pairs:
        assert optical.replace("_RGB.tif", "") == sar.replace("_SAR.png", "") and f"{pid}_" in optical


def test_qxs_saropt(tmp_path):
    for number in (1, 2, 10):
        write_optical(tmp_path / "QXS-SAROPT" / "opt" / f"{number}.png", number)
    for number in (2, 10, 11):
        write_sar(tmp_path / "QXS-SAROPT" / "sar" / f"{number}.png", number)
    data = DATASET_REGISTRY.get("QXSSAROPT")(root=str(tmp_path))
    assert sorted((pid, modality) for _, pid, modality in data.train) == [
        (2, OPTICAL),
        (2, SAR),
        (10, OPTICAL),
        (10, SAR),
    ]
    assert [(a.endswith(f"{n}.png"), n) for a, _, n in data.pairs] == [(True, 2), (True, 10)]
    assert data.summary()["skipped"] == 2


@pytest.mark.parametrize("name, folder", [("OptiSarPair", "OptiSar_Pair"), ("QXSSAROPT", "QXS-SAROPT")])
def test_missing(tmp_path, name, folder):
    with pytest.raises(DatasetError, match=f"{folder}: not found.*FASTREID_DATASETS"):
        DATASET_REGISTRY.get(name)(root=str(tmp_path))
