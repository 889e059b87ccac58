"""SAR to 8 bits: golden values bit for bit, and what has no golden value."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_mos import load_cfg
from fastreid_mos.data import TRANSFORM_REGISTRY, Chip, SARDenoise, SARMaxScale, read_chip, sar_denoise, sar_max_scale
from fastreid_mos.data.reader import ChipReader

CASES = ("gamma", "lognormal", "zeros", "signed", "spike", "uint16", "constant", "tiny")


@pytest.mark.parametrize("case", CASES)
def test_golden_stretch(golden, case):
    values = golden("sar_denoise")
    pixels = values[f"{case}_pixels"]
    for low, high in ((5, 100), (2, 98), (0, 100)):
        got = sar_denoise(pixels, low, high)
        assert got.dtype == np.uint8 and got.shape == (*pixels.shape, 3)
        for channel in range(3):
            np.testing.assert_array_equal(got[..., channel], values[f"{case}_p{low}_{high}"])
    np.testing.assert_array_equal(sar_denoise(pixels), sar_denoise(pixels, 5.0, 100.0))
    if f"{case}_max" in values:
        np.testing.assert_array_equal(sar_max_scale(pixels), values[f"{case}_max"][..., None].repeat(3, axis=2))


def test_golden_real_chips(golden, shared_dir):
    values = golden("sar_denoise")
    assert len(values["files"]) == 8
    for number, name in enumerate(values["files"]):
        chip = read_chip(shared_dir / "hoss_sample" / "HOSS" / str(name))
        np.testing.assert_array_equal(SARDenoise()(chip)[..., 1], values[f"file{number}_p5_100"])
        np.testing.assert_array_equal(SARMaxScale()(chip)[..., 2], values[f"file{number}_max"])


def test_negative_values_do_not_wrap_around():
    pixels = np.array([[-3.0, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(sar_max_scale(pixels)[..., 0], [[0, 0], [127, 255]])
    assert (sar_max_scale(-np.ones((2, 2))) == 0).all()
    assert (sar_max_scale(np.zeros((2, 2))) == 0).all()


@pytest.mark.parametrize("stretch", [sar_denoise, sar_max_scale])
def test_complex_backscatter_is_its_magnitude(stretch):
    rng = np.random.default_rng(0)
    pixels = (rng.standard_normal((12, 9)) + 1j * rng.standard_normal((12, 9))).astype(np.complex64)
    np.testing.assert_array_equal(stretch(pixels), stretch(np.abs(pixels)))
    # A turn of the phase is no change.
    np.testing.assert_allclose(stretch(pixels * np.complex64(1j)), stretch(pixels), atol=1)


def test_not_a_number_is_the_floor_and_infinity_the_top():
    clean = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]], np.float32)
    broken = np.array([[np.nan, 2.0, 3.0], [4.0, 5.0, np.inf]], np.float32)
    as_filled = np.array([[2.0, 2.0, 3.0], [4.0, 5.0, 5.0]], np.float32)
    np.testing.assert_array_equal(sar_denoise(broken), sar_denoise(as_filled))
    assert not np.array_equal(sar_denoise(broken), sar_denoise(clean))
    assert (sar_denoise(np.full((2, 2), np.nan)) == 0).all()


@pytest.mark.parametrize("pixels", [np.zeros((0, 4)), np.zeros((4, 4, 3)), np.zeros(4)])
def test_wrong_shapes_are_refused(pixels):
    for transform in (sar_denoise, sar_max_scale):
        with pytest.raises(ValueError, match=r"\[height, width\]"):
            transform(pixels)


@pytest.mark.parametrize("low, high", [(50, 50), (-1, 100), (5, 101), (98, 2)])
def test_percentiles_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match="low < high"):
        sar_denoise(np.ones((3, 3)), low, high)


def test_registry_follows_the_config():
    assert type(TRANSFORM_REGISTRY).__module__ == "fastreid.utils.registry"
    pixels = np.random.default_rng(0).gamma(1, 1, (40, 20)).astype(np.float32)
    opts = ["INPUT.SAR.LOW_PERCENTILE", "20.0", "INPUT.SAR.HIGH_PERCENTILE", "90.0"]
    transform = ChipReader.from_cfg(load_cfg("", opts)).sar_transform
    np.testing.assert_array_equal(transform(pixels), sar_denoise(pixels, 20, 90))
    assert not np.array_equal(transform(pixels), sar_denoise(pixels))
    scale = ChipReader.from_cfg(load_cfg("", ["INPUT.SAR.TRANSFORM", "SARMaxScale"])).sar_transform
    np.testing.assert_array_equal(scale(pixels), sar_max_scale(pixels))
    np.testing.assert_array_equal(TRANSFORM_REGISTRY.get("SARDenoise")(2.0, 98.0)(pixels), sar_denoise(pixels, 2, 98))


def test_optical_chips_pass_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    for transform in (SARDenoise(), SARMaxScale()):
        np.testing.assert_array_equal(transform(Chip(pixels, 0, (5, 9))), pixels)
