"""SAR to 8 bits and size features: golden values, and what has none; how two readings of SAR differ."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_mos import get_cfg, load_cfg
from fastreid_mos.data import (
    OPTICAL,
    SAR,
    Chip,
    ChipReader,
    SARDenoise,
    SARMaxScale,
    read_chip,
    sar_denoise,
    sar_max_scale,
    ship_metres,
    ship_size_features,
)
from fastreid_mos.data.modality import Modality, item_modality, modality_from_name
from fastreid_mos.data.transforms import SARDifference, sar_differences

CASES = ("gamma", "lognormal", "zeros", "signed", "spike", "uint16", "constant", "tiny")


def test_golden_stretch(golden):
    values = golden("sar_denoise")
    for case in CASES:
        pixels = values[f"{case}_pixels"]
        for low, high in ((5, 100), (2, 98), (0, 100)):
            wanted = values[f"{case}_p{low}_{high}"][..., None].repeat(3, axis=2)
            np.testing.assert_array_equal(sar_denoise(pixels, low, high), wanted)
            assert sar_denoise(pixels).dtype == np.uint8
        if f"{case}_max" in values:
            np.testing.assert_array_equal(sar_max_scale(pixels), values[f"{case}_max"][..., None].repeat(3, axis=2))


def test_golden_real_chips(golden, shared_dir):
    values = golden("sar_denoise")
    assert len(values["files"]) == 8
    for number, name in enumerate(values["files"]):
        chip = read_chip(shared_dir / "hoss_sample" / "HOSS" / str(name))
        np.testing.assert_array_equal(SARDenoise()(chip)[..., 1], values[f"file{number}_p5_100"])
        np.testing.assert_array_equal(SARMaxScale()(chip)[..., 2], values[f"file{number}_max"])


@pytest.mark.parametrize("stretch", [sar_denoise, sar_max_scale])
def test_values_without_golden_ones(stretch):
    pixels = np.random.default_rng(0).standard_normal((12, 9)) * (1 + 1j)
    np.testing.assert_array_equal(stretch(pixels), stretch(np.abs(pixels)))
    broken, filled = ([[x, 2, 3], [4, 5, y]] for x, y in ((np.nan, np.inf), (2, 5)))
    np.testing.assert_array_equal(stretch(broken), stretch(filled))
    for black in (np.full((2, 2), np.nan), np.zeros((2, 2)), -np.ones((2, 2))):
        assert (stretch(black) == 0).all()
    np.testing.assert_array_equal(sar_max_scale([[-3.0, 0.0], [1.0, 2.0]])[..., 0], [[0, 0], [127, 255]])


BAD = [
    (sar_denoise, (np.zeros((4, 4, 3)),), "^pixels: "), (sar_denoise, (np.zeros((0, 4)),), "^pixels: "),
    (sar_denoise, (np.ones((3, 3)), 50, 50), "^low, high: "), (sar_denoise, (np.ones((3, 3)), 5, 101), "^low, high: "),
    (ship_metres, (5, -1, 0), "^width and height: "), (ship_size_features, (5, 5, 2), "^modality: "),
]  # fmt: skip


def test_bad_arguments():
    for call, args, words in BAD:
        with pytest.raises(ValueError, match=words):
            call(*args)


def test_transform_of_the_config():
    pixels = np.random.default_rng(0).gamma(1, 1, (40, 20)).astype(np.float32)
    opts = ["INPUT.SAR.LOW_PERCENTILE", "20.0", "INPUT.SAR.HIGH_PERCENTILE", "90.0"]
    denoise = ChipReader.from_cfg(load_cfg("", opts)).sar_transform
    np.testing.assert_array_equal(denoise(pixels), sar_denoise(pixels, 20, 90))
    scale = ChipReader.from_cfg(load_cfg("", ["INPUT.SAR.TRANSFORM", "SARMaxScale"])).sar_transform
    np.testing.assert_array_equal(scale(pixels), sar_max_scale(pixels))
    colours = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    for transform in (denoise, scale):  # optical chips pass unchanged
        np.testing.assert_array_equal(transform(Chip(colours, OPTICAL, (5, 9))), colours)


def test_golden_size_features(golden):
    values = golden("size_features")
    got = ship_size_features(values["width"], values["height"], values["modality"])
    np.testing.assert_allclose(got, values["features"], rtol=1e-5)


NAMES = {
    "a/0001_s01c1_RGB.tif": OPTICAL, "HOSS/query/12_x_Sar.png": SAR, "grd_u8_x14807_vh.tif": SAR,
    "QXS-SAROPT/opt/17.png": OPTICAL, "QXS-SAROPT/SAR/17.png": SAR, "sar/0001_RGB.tif": OPTICAL,
    "0002_c1s1_000451_03.jpg": None, "query/SARAH.png": None,
}  # fmt: skip


def test_name_tells_the_modality():
    for path, wanted in NAMES.items():
        assert modality_from_name(path) == wanted
        # A modality that was listed is not looked for again; a plain number is a camera, of which 0 is optical.
        assert [item_modality(path, modality) for modality in Modality] == [OPTICAL, SAR]
        assert item_modality(path, 0) == (OPTICAL if wanted is None else wanted) and item_modality(path, 1) == wanted


DIFFERENCES = [
    ("SARDenoise", {}, []), ("SARDenoise", {"low": 1.0}, ["LOW_PERCENTILE"]),
    ("SARDenoise", {"low": 1.0, "high": 99.0, "channel": "0"}, ["CHANNEL", "LOW_PERCENTILE", "HIGH_PERCENTILE"]),
    ("SARMaxScale", {"transform": "SARMaxScale", "low": 1.0}, []), ("SARMaxScale", {"low": 1.0}, ["TRANSFORM"]),
    ("SARDenoise", {"transform": "SARMaxScale", "low": 1.0}, ["TRANSFORM"]),
]  # fmt: skip


def test_percentiles_count_for_denoising_only():
    for own, change, keys in DIFFERENCES:
        cfg = get_cfg()
        cfg.INPUT.SAR.TRANSFORM = own
        record = {"transform": "SARDenoise", "channel": "auto", "low": 5.0, "high": 100.0, **change}
        found = sar_differences(record, cfg)
        assert [one.key for one in found] == [f"INPUT.SAR.{key}" for key in keys]
        assert SARDifference("INPUT.SAR.LOW_PERCENTILE", 1.0, 5.0) in found or "LOW_PERCENTILE" not in keys
