"""Modality from a name, and the size features."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_mos.data import OPTICAL, SAR, ship_size_features
from fastreid_mos.data.modality import modality_from_name


def test_golden_size_features(golden):
    values = golden("size_features")
    got = ship_size_features(values["width"], values["height"], values["modality"])
    np.testing.assert_allclose(got, values["features"], rtol=1e-5)
    one = ship_size_features(int(values["width"][3]), int(values["height"][3]), int(values["modality"][3]))
    np.testing.assert_allclose(one, values["features"][3], rtol=1e-5)


def test_optical_pixels_are_three_quarters_of_a_metre():
    np.testing.assert_allclose(ship_size_features(40, 200, OPTICAL), ship_size_features(30, 150, SAR))


@pytest.mark.parametrize("args", [(0, 5, 0), (5, -1, 0), (5, 5, 2)])
def test_impossible_sizes_are_refused(args):
    with pytest.raises(ValueError, match="above 0|modality"):
        ship_size_features(*args)


@pytest.mark.parametrize(
    "path, wanted",
    [
        ("a/0001_s01c1_RGB.tif", OPTICAL),
        ("0001_s01c1_sar.TIFF", SAR),
        ("HOSS/query/12_x_Sar.png", SAR),
        ("grd_u8_x14807_vh.tif", SAR),
        ("QXS-SAROPT/opt/17.png", OPTICAL),
        ("QXS-SAROPT/SAR/17.png", SAR),
        ("sar/0001_RGB.tif", OPTICAL),
        ("0002_c1s1_000451_03.jpg", None),
        ("query/SARAH.png", None),
    ],
)
def test_name_tells_the_modality(path, wanted):
    assert modality_from_name(path) == wanted
