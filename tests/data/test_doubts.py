"""Chips of doubtful meaning: each kind is found, ordinary chips are not, and the log counts them once."""

from __future__ import annotations

import numpy as np
from made_chips import read_tiff, sar, write_tiff
from PIL import Image

from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore
from fastreid_mos.data import SAR, SARDenoise, build_test_loader, build_train_loader, doubts, read_chip
from fastreid_mos.data.doubts import Doubts

ROWS, COLUMNS = np.mgrid[:50, :30]
SMOOTH = np.stack([ROWS * 4 + 20, COLUMNS * 7 + 10, ROWS + COLUMNS + 30], -1).astype(np.uint8)
SHIP = sar(5, 50, 30)
SHIP[20:34, 12:18] += 9
LARGE = np.tile(SHIP, (3, 2))
LARGE[100, 41] = -9999  # none of the pixels that are looked at one by one


def filled(pixels, value, count):
    out = np.array(pixels)
    out.reshape(-1)[np.random.default_rng(0).choice(out.size, count, replace=False)] = value
    return out


SAR_KINDS = [
    (LARGE, doubts.OUTLIERS), (filled(SHIP, -9999, 1000), doubts.OUTLIERS),
    (filled((SHIP * 200).astype(np.uint16), 65535, 40), doubts.OUTLIERS),
    (filled(SHIP, 9.96921e36, 1), doubts.OUTLIERS),  # netCDF's fill value
    (np.where(COLUMNS < 3, -9999 + SHIP / 100, SHIP), doubts.OUTLIERS),  # resampled
    (10 * np.log10(SHIP), doubts.NEGATIVE), ((SHIP / 9).astype(np.uint8), doubts.FEW_LEVELS),
    (255 - (SHIP**3 * 255 / SHIP.max() ** 3).astype(np.uint8), doubts.NEARLY_WHITE), (SMOOTH, doubts.COLOUR_SAR),
]  # fmt: skip
OPTICAL_KINDS = [
    ((SMOOTH // 12).astype(np.uint8), doubts.FEW_LEVELS),
    (filled(SMOOTH * 0, 200, 9) + (SMOOTH > 225) * SMOOTH, doubts.NEARLY_BLACK),
    (255 - SMOOTH // 10 * (ROWS < 9)[..., None], doubts.NEARLY_WHITE),
    (SMOOTH.astype(np.uint16) * 8, doubts.FEWER_BITS),
]
ORDINARY_SAR = [
    SHIP, (SHIP * 20).clip(max=255).astype(np.uint8), np.where(COLUMNS < 14, 0, SHIP + 300), np.minimum(SHIP, 4),
    filled(SHIP**2, 9_000, 1), filled(SHIP, -np.inf, 9), filled(SHIP, np.nan, 400), SHIP[:2, :2],
]  # fmt: skip


def test_doubtful_and_ordinary_sar(sar_path):
    for pixels, wanted in SAR_KINDS:
        found = read_tiff(sar_path, pixels).doubts
        assert wanted in found and set(found) <= {wanted, doubts.NEGATIVE}
    for pixels in ORDINARY_SAR:
        assert not read_tiff(sar_path, pixels).doubts


def test_doubtful_and_ordinary_optical(rgb_path):
    for pixels, wanted in OPTICAL_KINDS:
        assert wanted in read_tiff(rgb_path, pixels, photometric="rgb").doubts
    for share, cut in ((0.03, False), (0.06, True)):
        pixels = (SMOOTH / 255).astype(np.float32)
        pixels.reshape(-1, 3)[: round(share * ROWS.size), 1] = 1.5
        assert read_tiff(rgb_path, pixels, photometric="rgb").doubts == (doubts.CUT,) * cut
    black = np.vstack([np.zeros((2500, 30, 3), np.uint8), SMOOTH])  # beyond the swath, and declared
    Image.fromarray(np.dstack([black, np.where(black.any(-1), 255, 0).astype(np.uint8)])).save(rgb_path, "PNG")
    assert not read_chip(rgb_path).doubts


def test_real_chips_are_ordinary(shared_dir):
    """But for a coloured plot of a chip, which is none; I and Q in channels are reported as taken so."""
    folders = ("hoss_sample/HOSS", "real_chips/pairs", "real_chips/sar_formats")
    paths = [
        path for folder in folders for path in (shared_dir / folder).rglob("*.*") if path.suffix in (".tif", ".png")
    ]
    found = {path.name.split("_")[0]: chip.doubts for path in paths if (chip := read_chip(path)).doubts}
    assert found == {"misnamed": (doubts.COLOUR_SAR,), "slc": (doubts.AS_IQ,)}


def test_a_pass_reports_each_kind_once_with_the_count(make_cfg, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Doubts, "_reported", set())
    chips = []
    for number in range(9):
        pixels = sar(number, 30, 20)
        pixels = 10 * np.log10(pixels + 1e-3) if number in (1, 4, 6, 8) else pixels
        chips.append((str(write_tiff(tmp_path / f"{number}_SAR.tif", pixels)), number % 3, SAR))
    for _ in range(2):
        assert all("doubts" not in batch for batch in build_test_loader(make_cfg(), chips))
    assert caplog.messages == [f"4 of 9 chips {doubts.NEGATIVE}; such as {chips[1][0]}"]
    Doubts._reported.clear()  # a training reports when it has read as many chips, the bridge when it has read all
    stream = iter(build_train_loader(make_cfg("DATALOADER.SAMPLER_TRAIN", "TrainingSampler"), chips))
    next(stream)
    assert len(caplog.messages) == 1
    next(stream)
    assert len(caplog.messages) == 2
    Doubts._reported.clear()
    ChipStore(BridgeImages((16, 8), SARDenoise()), [(path, SAR) for path, _, _ in chips])
    assert len(caplog.messages) == 3 and all(line.startswith("4 of ") for line in caplog.messages)
