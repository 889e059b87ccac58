"""What the rules of mos check are chosen by: how far apart chips, their copies and modalities are.

    python benchmarks/check_rules.py output/ships

The folder is in HOSS's layout. Numbers are in docs/check.md.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict

import numpy as np
from PIL import Image

from fastreid_mos.audit import facts as measured
from fastreid_mos.audit.alike import ALIKE, _laid, fingerprint
from fastreid_mos.audit.pixel_rules import LOGARITHMIC, SMOOTH, SPECKLED
from fastreid_mos.audit.sources import is_ship, open_source
from fastreid_mos.data import OPTICAL, SAR, read_chip, sar_denoise, ship_metres


def jpeg(grey, quality):
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def scaled(grey, factor):
    size = [max(2, round(side * factor)) for side in grey.shape[::-1]]
    return np.asarray(Image.fromarray(grey.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))


def cut(grey, share):
    rows, columns = (max(1, round(side * share)) for side in grey.shape)
    return grey[rows:-rows, columns:-columns]


COPIES = {
    "JPEG 90": lambda grey: jpeg(grey, 90), "JPEG 50": lambda grey: jpeg(grey, 50),
    "JPEG 20": lambda grey: jpeg(grey, 20),
    "half the size": lambda grey: scaled(grey, 0.5), "1.5 times the size": lambda grey: scaled(grey, 1.5),
    "lighter": lambda grey: np.clip(grey * 1.2 + 20, 0, 255), "half turn": lambda grey: np.rot90(grey, 2),
    "noise of 10": lambda grey: np.clip(grey + np.random.default_rng(0).normal(0, 10, grey.shape), 0, 255),
    "cut 1 % tighter": lambda grey: cut(grey, 0.01), "cut 2 % tighter": lambda grey: cut(grey, 0.02),
}  # fmt: skip


def spread(values):
    return " ".join(f"{value:.3f}" for value in np.percentile(values, [0, 1, 50, 99, 100])) + " (0 1 50 99 100 %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chips", help="a folder in HOSS's layout")
    listed = open_source(parser.parse_args().chips).chips
    read = [read_chip(chip.path, chip.modality) for chip in listed]
    greys = [chip.pixels @ measured._LUMINANCE if chip.modality == OPTICAL else sar_denoise(chip.pixels)[..., 0]
             for chip in read]  # fmt: skip
    prints = np.stack([fingerprint(grey) for grey in greys]).astype(np.float32)
    cosines = np.max([way @ prints.T for way in _laid(prints)], axis=0)
    ships = np.array([str(chip.identity) if is_ship(chip) else f"-{n}" for n, chip in enumerate(listed)])
    same, upper = ships[:, None] == ships, np.triu(np.ones_like(cosines, bool), 1)
    print(f"{len(listed)} chips; cosine of fingerprints, alike from {ALIKE}")
    print(f"  two ships: largest {np.sort(cosines[upper & ~same])[-3:]}")
    print(f"  one ship:  largest {np.sort(cosines[upper & same])[-3:]}")
    some = range(0, len(greys), max(1, len(greys) // 200))
    for name, change in COPIES.items():
        copies = [fingerprint(change(greys[n])).astype(np.float32) for n in some]
        found = [
            max(float(way[0] @ copy) for way in _laid(prints[n : n + 1])) for n, copy in zip(some, copies, strict=True)
        ]

        print(f"  {name:<18} {spread(found)}; alike {np.mean(np.array(found) >= ALIKE):.1%}")
    kinds = {one: [n for n, chip in enumerate(read) if chip.modality == one] for one in (OPTICAL, SAR)}
    eight = {SAR: [greys[n] for n in kinds[SAR]], OPTICAL: [np.rint(greys[n]).astype(np.uint8) for n in kinds[OPTICAL]]}
    told = {one: np.array([measured._speckle(grey.astype(np.float32)) or 0 for grey in eight[one]]) for one in eight}
    as_sar = [measured._speckle(sar_denoise(grey)[..., 0].astype(np.float32)) or 0 for grey in eight[OPTICAL]]
    print(f"speckle: SAR {spread(told[SAR])}; optical in grey {spread(told[OPTICAL])}")
    print(f"  called optical, above {SPECKLED}: {np.mean(told[SAR] > SPECKLED):.1%} of SAR, "
          f"{np.mean(told[OPTICAL] > SPECKLED):.1%} of optical")  # fmt: skip
    print(f"  called SAR, below {SMOOTH}: {np.mean(told[SAR] < SMOOTH):.1%} of SAR, "
          f"{np.mean(np.array(as_sar) < SMOOTH):.1%} of optical")  # fmt: skip
    for name, change in (("as it is", lambda x: x), ("in decibels", lambda x: 20 * np.log10(np.maximum(x, 1e-3)))):
        places = []
        for n in kinds[SAR]:
            low, middle, high = np.percentile(change(read[n].pixels), [1, 50, 99])
            places.append((middle - low) / (high - low))
        print(f"place of SAR's median {name}: {spread(places)}; above {LOGARITHMIC}: "
              f"{np.mean(np.array(places) > LOGARITHMIC):.1%}")  # fmt: skip
    lengths = defaultdict(list)
    for chip, shown in zip(listed, read, strict=True):
        if is_ship(chip):
            lengths[chip.identity].append(ship_metres(*shown.size, shown.modality).max())
    apart = [max(own) / min(own) for own in lengths.values() if len(own) > 1]
    print(f"longest / shortest chip of {len(apart)} ships: {spread(apart)}")


if __name__ == "__main__":
    main()
