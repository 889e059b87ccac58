"""SAR to 8 bits, size features and the test-time input against golden values; each training step and their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_mos import get_cfg, load_cfg
from fastreid_mos.data import (
    OPTICAL,
    SAR,
    Chip,
    ChipReader,
    SARDenoise,
    SARMaxScale,
    build_test_loader,
    read_chip,
    sar_denoise,
    sar_max_scale,
    ship_size_features,
)
from fastreid_mos.data.augment import NoiseErasing, build_augmentation, steps_in_order
from fastreid_mos.data.loader import ChipDataset
from fastreid_mos.data.modality import Modality, item_modality, modality_from_name
from fastreid_mos.data.seeding import PrivateGenerators
from fastreid_mos.data.transforms import SARDifference, sar_differences
from fastreid_mos.errors import ConfigError

CASES = ("gamma", "lognormal", "zeros", "signed", "spike", "uint16", "constant", "tiny")


def test_golden_stretch_and_size_features(golden):
    values = golden("size_features")
    got = ship_size_features(values["width"], values["height"], values["modality"])
    np.testing.assert_allclose(got, values["features"], rtol=1e-5)
    values = golden("sar_denoise")
    for case in CASES:
        pixels = values[f"{case}_pixels"]
        for low, high in ((5, 100), (2, 98), (0, 100)):
            wanted = values[f"{case}_p{low}_{high}"][..., None].repeat(3, axis=2)
            np.testing.assert_array_equal(sar_denoise(pixels, low, high), wanted)
            assert sar_denoise(pixels).dtype == np.uint8
        if f"{case}_max" in values:
            np.testing.assert_array_equal(sar_max_scale(pixels), values[f"{case}_max"][..., None].repeat(3, axis=2))


@pytest.mark.parametrize("stretch", [sar_denoise, sar_max_scale])
def test_values_without_golden_ones(stretch):
    pixels = np.random.default_rng(0).standard_normal((12, 9)) * (1 + 1j)
    np.testing.assert_array_equal(stretch(pixels), stretch(np.abs(pixels)))
    broken, filled = ([[x, 2, 3], [4, 5, y]] for x, y in ((np.nan, np.inf), (2, 5)))
    np.testing.assert_array_equal(stretch(broken), stretch(filled))
    for black in (np.full((2, 2), np.nan), np.zeros((2, 2)), -np.ones((2, 2))):
        assert (stretch(black) == 0).all()
    np.testing.assert_array_equal(sar_max_scale([[-3.0, 0.0], [1.0, 2.0]])[..., 0], [[0, 0], [127, 255]])


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


IMAGE = np.random.default_rng(0).integers(0, 256, (50, 21, 3), dtype=np.uint8)
# Small, for speed.
OFF = [
    "INPUT.SIZE_TRAIN", "[128,64]", "INPUT.SIZE_TEST", "[128,64]", "INPUT.FLIP.ENABLED", "False",
    "INPUT.PADDING.ENABLED", "False", "INPUT.REA.ENABLED", "False",
]  # fmt: skip


def chosen(*opts):
    return load_cfg("configs/HOSS/mos_vit.yml", [str(opt) for opt in opts])


def augmented(*opts, n=200):
    augment = build_augmentation(chosen(*OFF, *opts), train=True)
    plain = build_augmentation(chosen(*OFF), train=True)(IMAGE)
    with PrivateGenerators(0):
        return plain, [augment(IMAGE) for _ in range(n)]


def test_golden_real_chips_and_model_input(golden, shared_dir):
    folder, values = shared_dir / "hoss_sample" / "HOSS", golden("sar_denoise")
    assert len(values["files"]) == 8
    for number, name in enumerate(values["files"]):
        chip = read_chip(folder / str(name))
        np.testing.assert_array_equal(SARDenoise()(chip)[..., 1], values[f"file{number}_p5_100"])
        np.testing.assert_array_equal(SARMaxScale()(chip)[..., 2], values[f"file{number}_max"])
    values = golden("model_input")
    items = [(str(folder / str(name)), 1, int("SAR" in str(name))) for name in values["files"]]
    cfg = chosen("DATALOADER.NUM_WORKERS", 0)
    (batch,) = build_test_loader(cfg, items)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    got = ((batch["images"] - mean) / std).numpy()
    assert got.shape == (8, 3, 256, 128)
    np.testing.assert_allclose(batch["sizes"].numpy(), values["size_features"], rtol=1e-5)
    cfg = chosen(*OFF, "INPUT.SIZE_TRAIN", "[256,128]", "INPUT.SIZE_TEST", "[256,128]")
    data = ChipDataset(items, ChipReader.from_cfg(cfg), build_augmentation(cfg, train=True), relabel=True)
    for n in range(8):
        np.testing.assert_allclose(got[n, :, ::8, ::8], values[f"eval{n}"], rtol=1e-5, atol=1e-5)
        resized = data[n]["images"].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(resized[::8, ::8], values[f"train_resize{n}"])


def test_flip_probability_and_shifts_by_up_to_the_padding():
    plain, images = augmented("INPUT.FLIP.ENABLED", "True", "INPUT.FLIP.PROB", 0.25)
    flipped = [torch.equal(image, plain.flip(2)) for image in images]
    assert all(flip or torch.equal(image, plain) for flip, image in zip(flipped, images, strict=True))
    assert abs(np.mean(flipped) - 0.25) < 0.1
    plain, images = augmented("INPUT.PADDING.ENABLED", "True", "INPUT.PADDING.SIZE", 2, n=150)
    padded = torch.nn.functional.pad(plain, (2, 2, 2, 2))
    shifts = set()
    for image in images:
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, padded[:, y : y + 128, x : x + 64])]
        assert found
        shifts.update(found)
    assert len(shifts) == 25


def test_erasing_is_normal_noise_after_normalization():
    opts = ("INPUT.REA.ENABLED", "True", "INPUT.REA.PROB", "0.5")
    cfg = chosen(*opts)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    plain, images = augmented(*opts)
    noise, shares, ratios = [], [], []
    for changed, image in (((image != plain).all(0), image) for image in images if not torch.equal(image, plain)):
        (height, width) = (int(changed.any(axis).sum()) for axis in (1, 0))
        assert changed.sum() > 0.98 * height * width  # one filled rectangle
        shares.append(height * width / (128 * 64))
        ratios.append(height / width)
        noise.append(((image - mean) / std)[:, changed])
    assert abs(len(noise) / len(images) - 0.5) < 0.1
    assert 0.015 < min(shares) < 0.06 and 0.28 < max(shares) < 0.34
    assert 0.28 < min(ratios) < 0.6 and 2 < max(ratios) < 3.5
    values = torch.cat(noise, 1)
    assert values.mean(1).abs().max() < 0.03 and (values.std(1) - 1).abs().max() < 0.03
    assert len(torch.unique(values[0, :500])) > 490  # per pixel
    image = torch.rand(3, 64, 32)
    before = image.clone()  # stays, and is what comes out where no rectangle fits
    assert torch.equal(NoiseErasing(1.0, [0.9, 0.9], [0.01, 0.01], [0.0] * 3, [1.0] * 3)(image), image)
    assert not torch.equal(NoiseErasing(1.0, [0.2, 0.2], [1.0, 1.0], [0.0] * 3, [1.0] * 3)(image), before)
    assert torch.equal(image, before)


NODES = ("CROP", "CJ", "AFFINE", "AUTOAUG", "AUGMIX", "RPT")
ALL_ON = [word for node in NODES for word in (f"INPUT.{node}.ENABLED", "True")]
ORDERS = [
    ([], None, "resize flip pad_crop erase"), (OFF, None, "resize"),
    ([], "['flip','resize','pad_crop','erase']", "flip resize pad_crop erase"),
    (ALL_ON, None, "autoaug resize crop flip pad_crop color_jitter affine augmix erase patch"),
    (ALL_ON, "['color_jitter','resize','pad_crop','patch','erase']",
     "autoaug color_jitter resize crop flip pad_crop affine augmix patch erase"),
]  # fmt: skip


def test_order_of_the_config():
    for opts, order, steps in ORDERS:
        assert steps_in_order(chosen(*opts, *(["INPUT.AUGMENT.ORDER", order] if order else []))) == steps.split()
    for order in ("['resize','spin']", "['resize','resize']", "['erase','resize']"):
        with pytest.raises(ConfigError, match="INPUT.AUGMENT.ORDER: "):
            chosen("INPUT.AUGMENT.ORDER", order)


def test_fastreids_other_steps_work():
    for node in NODES:
        prob = [] if node in ("CROP", "AFFINE") else [f"INPUT.{node}.PROB", "1.0"]
        number = 130 if node == "RPT" else 12  # random patch begins with a pool of 100
        plain, images = augmented(f"INPUT.{node}.ENABLED", "True", *prob, n=number)
        size = (224, 224) if node == "CROP" else (128, 64)
        assert all(image.shape == (3, *size) and image.min() >= 0 and image.max() <= 255 for image in images)
        assert sum(image.shape != plain.shape or not torch.equal(image, plain) for image in images) > number // 10
