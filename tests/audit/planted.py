"""Chips with one fault each, and the set that they are planted into."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from fastreid_mos.data import read_chip, sar_denoise

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


class Planter:
    """A copy of a simulated HOSS, and what was planted in it: (kind of finding, file names that it must name)."""

    def __init__(self, source: Path, root: Path) -> None:
        self.root = Path(shutil.copytree(source / "HOSS", root / "HOSS"))
        self.ship, self.wanted = 800, []
        self.optical = [self.pixels(path) for path in sorted(self.root.glob(f"{TRAIN}/*_RGB.tif"))]
        self.sar = [self.pixels(path) for path in sorted(self.root.glob(f"{TRAIN}/*_SAR.tif"))]

    @staticmethod
    def pixels(path: Path) -> np.ndarray:
        return np.array(read_chip(path).pixels)

    def taken(self, split: str, ending: str) -> Path:
        """A chip of the set that nothing was done to yet."""
        paths = sorted(self.root.glob(f"{split}/[0-9]*{ending}"))
        return next(path for path in paths if path.name not in str(self.wanted))

    def add(self, kind: str, pixels: np.ndarray, modality: str, name: str = "", split: str = TRAIN, **options) -> str:
        """A TIFF of a ship of its own."""
        self.ship += 1
        name = name or f"{self.ship:04d}_s01c1_{modality}.tif"
        tags = [(42113, 2, 0, options.pop("nodata"), True)] if "nodata" in options else []
        tifffile.imwrite(self.root / split / name, pixels, metadata=None, extratags=tags, **options)
        self.wanted.append((kind, (name,)))
        return name

    def copy(self, kind: str, source: Path, split: str, name: str) -> None:
        shutil.copy(source, self.root / split / name)
        self.wanted.append((kind, (source.name, name)))

    def resave(self, kind: str, source: Path, split: str, name: str, turned: int = 0) -> None:
        """As JPEG, turned by quarters and then flipped."""
        pixels = np.rot90(self.pixels(source), turned)
        Image.fromarray(pixels[:, ::-1] if turned else pixels).save(self.root / split / name, "JPEG", quality=70)
        self.wanted.append((kind, (source.name, name)))


def grey(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=2).astype(np.uint8)


def plant(source: Path, root: Path) -> Planter:
    p = Planter(source, root)
    optical, sar = p.optical[0].astype(int), p.sar[0]
    rng, contiguous = np.random.default_rng(0), {"planarconfig": "contig", "photometric": "minisblack"}

    def other(number: int) -> np.ndarray:
        """A picture that is there once: another ship's, with another's light."""
        one, two = p.optical[number], p.optical[-1 - number]
        return (one // 2 + np.array(Image.fromarray(two).resize(one.shape[1::-1])) // 2).astype(np.uint8)

    def radar(number: int) -> np.ndarray:
        one, two = p.sar[number], p.sar[-1 - number]
        return one + np.array(Image.fromarray(two).resize(one.shape[::-1]))

    # Files and names.
    cut = p.taken(TRAIN, "_SAR.tif")
    cut.write_bytes(cut.read_bytes()[:500])
    p.wanted.append(("unreadable", (cut.name,)))
    p.add("unreadable", np.full((60, 20), np.nan, np.float32), "SAR")
    p.add("not-used", other(1), "RGB", name="big ship.tif")
    (p.root / QUERY / "notes.txt").write_text("mine")
    p.wanted.append(("no-chip", ("notes.txt",)))
    (p.root / TRAIN / "860_link_RGB.tif").symlink_to("nowhere")
    p.wanted.append(("not-used", ("860_link_RGB.tif",)))
    p.add("distractor-in-train", other(2), "RGB", name="-1_0001_RGB.tif")
    p.add("unwritable-name", other(3), "RGB", name=os.fsdecode(b"0801_\xff_RGB.tif"))
    # Ships.
    ship = p.taken(QUERY, ".tif").name.split("_")[0]
    p.add("ship-in-train-and-test", other(4), "RGB", name=f"{ship}_new_RGB.tif")
    p.add("spelling", other(5), "RGB", name="850_a_RGB.tif")
    p.add("spelling", radar(1), "SAR", name="0850_b_SAR.tif")
    p.add("one-modality", other(6), "RGB")
    p.add("query-without-match", radar(2), "SAR", split=QUERY)
    # Modality.
    p.add("wrong-modality", other(7), "SAR")
    p.add("wrong-modality", radar(3), "RGB")
    p.add("looks-like-sar", sar_denoise(radar(4)), "RGB")
    p.add("looks-optical", grey(other(8)), "SAR")
    # Pictures.
    p.copy("picture-of-two-ships", p.taken(TRAIN, "_RGB.tif"), TRAIN, "0901_a_RGB.tif")
    p.copy("picture-of-two-ships", p.taken(TRAIN, "_SAR.tif"), GALLERY, "-1_0901_SAR.tif")
    p.resave("picture-of-two-ships", p.taken(TRAIN, "_RGB.tif"), TRAIN, "0902_a_RGB.jpg")
    p.resave("picture-of-two-ships", p.taken(TRAIN, "_RGB.tif"), TRAIN, "0903_a_RGB.jpg", turned=1)
    p.resave("picture-of-two-ships", p.taken(TRAIN, "_RGB.tif"), TRAIN, "0904_a_RGB.jpg", turned=2)
    for kind, source, split, name in (
        ("picture-in-train-and-test", GALLERY, TRAIN, "z1_RGB.tif"), ("query-in-gallery", QUERY, GALLERY, "z2_RGB.tif"),
        ("same-picture", TRAIN, TRAIN, "z3_RGB.tif"),
    ):  # fmt: skip
        path = p.taken(source, "_RGB.tif")
        p.copy(kind, path, split, f"{path.name.split('_')[0]}_{name}")
    path = p.taken(TRAIN, "_RGB.tif")
    p.resave("alike", path, TRAIN, f"{path.name.split('_')[0]}_z4_RGB.jpg")
    # Pixels.
    p.add("fewer-bits", (other(9).astype(np.uint16) << 4) + 9, "RGB", photometric="rgb")
    p.add("sixteen-use-eight", other(10).astype(np.uint16), "RGB", photometric="rgb")
    p.add("equal-channels", np.repeat(grey(other(11))[..., None], 3, axis=2), "RGB")
    p.add("few-levels", (optical // 60).astype(np.uint8), "RGB")
    p.add("nearly-black", np.where(rng.random(optical.shape) < 0.01, optical, 2).astype(np.uint8), "RGB")
    p.add("nearly-white", np.where(rng.random(optical.shape) < 0.005, optical, 254).astype(np.uint8), "RGB")
    p.add("cut", np.clip(other(0) / 40, 0, 1.9).astype(np.float32), "RGB", photometric="rgb")
    p.add("decibels", 10 * np.log10(radar(5) + 1e-3) - 20, "SAR")
    p.add("mixed-scales", np.clip(radar(6) * 25, 0, 255).astype(np.uint8), "SAR")
    p.add("undeclared-nodata", np.where(np.arange(len(sar))[:, None] % 9 == 4, -9999, sar).astype(np.float32), "SAR")
    p.add("taken-for-iq", rng.normal(size=(90, 30, 2)).astype(np.float32), "SAR", **contiguous)
    padded = np.pad(other(12), ((0, 30), (0, 0), (0, 0)))
    p.add("border", padded, "RGB")
    holes = radar(7)
    p.add("nodata", np.where(rng.random(holes.shape) < 0.1, np.nan, holes).astype(np.float32), "SAR")
    p.add("mostly-empty", np.where(rng.random(holes.shape) < 0.8, np.nan, radar(7)).astype(np.float32), "SAR")
    holes = radar(8)
    holes[5, 5] = np.inf
    p.add("infinite", holes, "SAR")
    # Sizes.
    p.add("odd-size", np.array(Image.fromarray(other(1)).resize((90, 700))), "RGB")
    p.add("lying", np.rot90(other(2)), "RGB")
    path = p.taken(TRAIN, "_SAR.tif")
    small = np.array(Image.fromarray(radar(9)).resize((30, int(0.55 * len(p.pixels(path))))))
    p.add("sizes-of-a-ship", small, "SAR", name=f"{path.name.split('_')[0]}_z5_SAR.tif")
    return p
