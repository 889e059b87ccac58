"""Chips of doubtful meaning: each kind is found, ordinary chips are not, and the log counts them once."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from made_chips import read_tiff, sar, write_tiff
from made_dump import SETTINGS
from PIL import Image

from fastreid_mos.bridge.dump.plan import plan_dump
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.bridge.train.batches import ChipStore
from fastreid_mos.data import (
    OPTICAL,
    SAR,
    ChipReader,
    SARDenoise,
    build_test_loader,
    build_train_loader,
    doubts,
    read_chip,
)
from fastreid_mos.data import loader as loader_module
from fastreid_mos.data.doubts import Doubts
from fastreid_mos.synthetic.manifest import DumpFacts

ROWS, COLUMNS = np.mgrid[:50, :30]
SMOOTH = np.stack([ROWS * 4 + 20, COLUMNS * 7 + 10, ROWS + COLUMNS + 30], -1).astype(np.uint8)
SHIP = sar(5, 50, 30)
SHIP[20:34, 12:18] += 9


def filled(pixels, value, count):
    out = np.array(pixels)
    out.reshape(-1)[np.random.default_rng(0).choice(out.size, count, replace=False)] = value
    return out


LARGE = np.tile(SHIP, (3, 2))
LARGE[100, 41] = -9999  # none of the pixels that are looked at one by one

SAR_KINDS = {
    "one -9999 in a large chip": (LARGE, doubts.OUTLIERS),
    "one -9999": (filled(SHIP, -9999, 1), doubts.OUTLIERS),
    "most -9999": (filled(SHIP, -9999, 1000), doubts.OUTLIERS),
    "-32768 in int16": (filled((SHIP * 200).astype(np.int16), -32768, 40), doubts.OUTLIERS),
    "float's limit": (filled(SHIP, np.finfo("f4").min, 80), doubts.OUTLIERS),
    "65535 in uint16": (filled((SHIP * 200).astype(np.uint16), 65535, 40), doubts.OUTLIERS),
    "netCDF's fill": (filled(SHIP, 9.96921e36, 1), doubts.OUTLIERS),
    "resampled -9999": (np.where(COLUMNS < 3, -9999 + SHIP / 100, SHIP), doubts.OUTLIERS),
    "decibels": (10 * np.log10(SHIP), doubts.NEGATIVE),
    "a mask": ((SHIP > 3).astype(np.uint8) * 255, doubts.FEW_LEVELS),
    "cut to few bits": ((SHIP / 9).astype(np.uint8), doubts.FEW_LEVELS),
    "upside down": (255 - (SHIP**3 * 255 / SHIP.max() ** 3).astype(np.uint8), doubts.NEARLY_WHITE),
    "in colour": (SMOOTH, doubts.COLOUR_SAR),
}
OPTICAL_KINDS = [
    ((SMOOTH // 12).astype(np.uint8), doubts.FEW_LEVELS),
    ((SMOOTH > 99).astype(np.uint8) * 255, doubts.FEW_LEVELS),
    (filled(SMOOTH * 0, 200, 9) + (SMOOTH > 225) * SMOOTH, doubts.NEARLY_BLACK),
    (255 - SMOOTH // 10 * (ROWS < 9)[..., None], doubts.NEARLY_WHITE),
    (filled(SMOOTH.astype(np.uint16) * 8, 65535, 30), doubts.FEW_LEVELS),
    (SMOOTH.astype(np.uint16) * 8, doubts.FEWER_BITS),
]


@pytest.mark.parametrize("kind", SAR_KINDS)
def test_doubtful_sar(sar_path, kind):
    pixels, wanted = SAR_KINDS[kind]
    found = read_tiff(sar_path, pixels.astype(np.float32) if pixels.dtype.kind == "f" else pixels).doubts
    assert wanted in found and set(found) <= {wanted, doubts.NEGATIVE}


def test_doubtful_optical(rgb_path):
    for pixels, wanted in OPTICAL_KINDS:
        assert wanted in read_tiff(rgb_path, pixels, photometric="rgb").doubts
    for share, cut in ((0.03, False), (0.06, True)):
        pixels = (SMOOTH / 255).astype(np.float32)
        pixels.reshape(-1, 3)[: round(share * ROWS.size), 1] = 1.5
        assert read_tiff(rgb_path, pixels, photometric="rgb").doubts == (doubts.CUT,) * cut


def test_two_channels_taken_for_i_and_q(sar_path):
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, SHIP.shape)
    pair = np.stack([SHIP * np.cos(phase), SHIP * np.sin(phase)], -1).astype(np.float32)
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    assert read_tiff(sar_path, pair, **layout).doubts == (doubts.AS_IQ,)
    assert not read_tiff(sar_path, pair, channel="magnitude", **layout).doubts
    assert not read_tiff(sar_path, pair[..., 0] + 1j * pair[..., 1]).doubts


ORDINARY = {
    "gamma": SHIP,
    "8 bits": (SHIP * 20).clip(max=255).astype(np.uint8),
    "intensity with a bright ship": filled(SHIP**2, 9_000, 1),
    "zeros beyond the swath": np.where(COLUMNS < 14, 0, SHIP + 300),
    "saturated": np.minimum(SHIP, 4),
    "sea alone": sar(3, 50, 30) * 0.01,
    "infinite where a logarithm was taken of zero": filled(SHIP, -np.inf, 9),
    "declared": filled(SHIP, np.nan, 400),
    "four pixels": SHIP[:2, :2],
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_sar(sar_path, kind):
    assert not read_tiff(sar_path, ORDINARY[kind].astype(np.float32)).doubts


def test_ordinary_optical(rgb_path):
    black = np.vstack([np.zeros((2500, 30, 3), np.uint8), SMOOTH])  # beyond the swath, and declared
    Image.fromarray(np.dstack([black, np.where(black.any(-1), 255, 0).astype(np.uint8)])).save(rgb_path, "PNG")
    assert not read_chip(rgb_path).doubts
    assert not read_tiff(rgb_path, SMOOTH[:2, :2], photometric="rgb").doubts


@pytest.mark.slow
def test_simulated_chips_are_ordinary(tiny_hoss):
    chips = {path: read_chip(path) for path in sorted((tiny_hoss / "HOSS").rglob("*.tif"))}
    assert len(chips) > 12 and {chip.modality for chip in chips.values()} == {OPTICAL, SAR}
    assert not [(path, chip.doubts) for path, chip in chips.items() if chip.doubts]


def test_real_chips_are_ordinary(shared_dir):
    """But for a coloured plot of a chip, which is none; of I and Q in channels it is said that they were taken so."""
    paths = [
        *(shared_dir / "hoss_sample" / "HOSS").rglob("*.tif"),
        *(shared_dir / "real_chips" / "pairs").glob("*.png"),
        *(shared_dir / "real_chips" / "sar_formats").glob("*.tif"),
    ]
    found = {path.name: read_chip(path).doubts for path in paths if read_chip(path).doubts}
    wanted = {"misnamed": (doubts.COLOUR_SAR,), "slc": (doubts.AS_IQ,)}
    assert {name.split("_")[0]: kinds for name, kinds in found.items()} == wanted


# ---------------------------------------------------------------------- in the log


@pytest.fixture
def chips(tmp_path, monkeypatch, caplog):
    """Nine chips of three identities, four of them in decibels, and the log from here on."""
    monkeypatch.setattr(Doubts, "_reported", set())
    caplog.set_level(logging.WARNING, "fastreid_mos.data")
    items = []
    for number in range(9):
        pixels = sar(number, 30, 20)
        pixels = 10 * np.log10(pixels + 1e-3) if number in (1, 4, 6, 8) else pixels
        items.append((str(write_tiff(tmp_path / f"{number}_SAR.tif", pixels)), number % 3, SAR))
    return items


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fastreid_mos.data"]


@pytest.mark.parametrize("workers, kept", [(0, "none"), (0, "memory"), pytest.param(2, "disk", marks=pytest.mark.slow)])
def test_a_test_pass_reports_each_kind_once_with_the_count(make_cfg, tmp_path, chips, caplog, workers, kept):
    cfg = make_cfg("TEST.NUM_WORKERS", workers, "INPUT.SAR.CACHE", kept, "INPUT.SAR.CACHE_DIR", tmp_path / "kept")
    for _ in range(2):
        loader = build_test_loader(cfg, chips)
        assert all("doubts" not in batch for batch in loader)
        list(loader)
    assert warnings(caplog) == [f"4 of 9 chips {doubts.NEGATIVE}; such as {chips[1][0]}"]
    # Kept images keep their doubts.
    Doubts._reported.clear()
    list(build_test_loader(cfg, chips))
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("processes, batches", [(1, 1), (1, 3), (1, 9), (2, 2)])
def test_training_reports_once_after_a_pass_or_when_it_ends(make_cfg, chips, caplog, monkeypatch, processes, batches):
    """Each of several processes after its share of a pass."""
    monkeypatch.setattr(loader_module, "comm", SimpleNamespace(get_world_size=lambda: processes))
    decibels = [chips[number] for number in (1, 4, 6, 8)]
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "SOLVER.IMS_PER_BATCH", 1)
    stream = iter(build_train_loader(cfg, decibels))
    for number in range(batches):
        assert len(warnings(caplog)) == (number >= 4 / processes)
        next(stream)
    assert len(warnings(caplog)) == (batches >= 4 / processes)
    stream.close()
    assert len(warnings(caplog)) == 1
    read = min(batches, 4 // processes)
    assert warnings(caplog)[0].startswith(f"{read} of {read} chips {doubts.NEGATIVE}; such as ")


def test_the_bridge_reports_when_it_reads(chips, caplog, tmp_path):
    images = BridgeImages((16, 8), SARDenoise())
    ChipStore(images, [(path, SAR) for path, _, _ in chips])
    assert len(warnings(caplog)) == 1 and warnings(caplog)[0].startswith("4 of 9 chips ")
    Doubts._reported.clear()
    facts = DumpFacts(**{**SETTINGS, "direction": "sar_to_optical"})
    plan_dump({"query": chips}, facts, str(tmp_path), ChipReader())
    assert len(warnings(caplog)) == 2 and warnings(caplog)[1].startswith("4 of 9 chips ")
