"""How one look at a ship differs from the next: sequences, sensors, sun, sea, crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .optical import OpticalPass
from .sar import DEFAULT_ENL, SarPass

# Saturation values of the SAR products of the sequences seen in HOSS (their chips' mean maxima: 2.3, 4.6, 6.6, 10.1).
CEILINGS = (2.35, 4.75, 6.85, 10.6)


@dataclass(frozen=True)
class Sequence:
    """What the chips of one sequence share.

    Attributes:
        number: the two digits in the file names. ceiling: of its SAR product. stern_up: share of ships with the
            stern at the top.
        gain: RGB of its optical products, the first and the later passes. sea: RGB likewise.
        contrast: (gamma, black) likewise. sar_first: c1 is the SAR chip.
    """

    number: int
    ceiling: float
    stern_up: float
    gain: tuple[tuple[float, float, float], tuple[float, float, float]]
    sea: tuple[tuple[float, float, float], tuple[float, float, float]]
    contrast: tuple[tuple[float, float], tuple[float, float]]
    sar_first: bool


SEQUENCES: tuple[Sequence, ...] = (
    Sequence(5, CEILINGS[0], 0.95, ((1.0, 1.02, 1.15), (0.72, 0.80, 1.15)), ((0.03, 0.085, 0.14), (0.03, 0.075, 0.19)),
             ((1.45, 0.05), (1.6, 0.07)), False),
    Sequence(4, CEILINGS[1], 0.08, ((0.95, 0.98, 0.92), (1.15, 0.98, 0.86)), ((0.04, 0.045, 0.065), (0.07, 0.065,
    0.09)),
             ((1.25, 0.04), (1.05, 0.02)), False),
    Sequence(1, CEILINGS[2], 0.25, ((0.80, 0.80, 0.50), (0.97, 1.1, 1.12)), ((0.025, 0.035, 0.03), (0.022, 0.06, 0.10)),
             ((1.2, 0.03), (1.0, 0.02)), True),
)  # fmt: skip
DISTRACTORS = Sequence(
    0,
    CEILINGS[3],
    0.4,
    ((0.92, 0.92, 0.95), (0.85, 0.9, 0.95)),
    ((0.10, 0.14, 0.19), (0.12, 0.16, 0.21)),
    ((1.0, 0.0), (0.95, 0.0)),
    False,
)


def optical_pass(rng: np.random.Generator, sequence: Sequence, stern_up: bool, order: int) -> OpticalPass:
    """Draw an optical acquisition.

    ``order`` 0 is the sequence's first optical product, later ones look like its second.
    """
    kind = min(order, 1)
    gain = np.array(sequence.gain[kind]) * rng.normal(1, 0.07, 3) * rng.uniform(0.85, 1.2)
    sea = np.array(sequence.sea[kind]) * rng.uniform(0.6, 1.5) + rng.normal(0, 0.006, 3)
    gamma, black = sequence.contrast[kind]
    tilt, around = float(np.abs(rng.normal(0, 0.28))), float(rng.uniform(0, 2 * np.pi))
    r, g, b = (float(v) for v in np.clip(gain, 0.3, 2))
    sr, sg, sb = (float(v) for v in np.clip(sea, 0.008, 0.5))
    cloudy = rng.random() < 0.05
    return OpticalPass(
        angle=float(rng.normal(0, 1.3)),
        stern_up=stern_up,
        sun_azimuth=float(rng.uniform(0, 360)),
        sun_elevation=float(rng.uniform(28, 68)),
        lean=(min(tilt, 0.75) * float(np.cos(around)), min(tilt, 0.75) * float(np.sin(around))),
        margin=(float(1.19 * np.exp(rng.normal(0, 0.02))), float(1.2 * np.exp(rng.normal(0, 0.06)))),
        shift=(float(rng.normal(0, 0.025)), float(rng.normal(0, 0.008))),
        gain=(r, g, b),
        gamma=float(gamma * np.exp(rng.normal(0, 0.12))),
        black=black,
        haze=float(abs(rng.normal(0, 0.012))),
        sea=(sr, sg, sb),
        sea_texture=float(rng.uniform(0.02, 0.22)),
        blur=float(rng.uniform(0.8, 1.3)) if rng.random() < 0.85 else float(rng.uniform(1.3, 2.0)),
        sharpen=float(rng.uniform(0.6, 2.0)) if rng.random() < 0.85 else 0.0,
        cloud=float(rng.uniform(0.3, 1.0)) if cloudy else 0.0,
        wake=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.12 else 0.0,
        noise=float(rng.uniform(0.002, 0.008)),
        seed=int(rng.integers(2**31)),
    )


def sar_pass(rng: np.random.Generator, sequence: Sequence, stern_up: bool, enl: float = DEFAULT_ENL) -> SarPass:
    """Draw a SAR acquisition."""
    moving = rng.random() < 0.22
    return SarPass(
        angle=float(rng.normal(0, 2.2)),
        stern_up=stern_up,
        look=float(rng.uniform(0, 360)),
        incidence=float(rng.uniform(25, 52)),
        margin=(float(1.19 * np.exp(rng.normal(0, 0.055))), float(1.2 * np.exp(rng.normal(0, 0.11)))),
        shift=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.012))),
        ceiling=float(sequence.ceiling * rng.uniform(0.98, 1.02)),
        level=float(np.clip(0.55 * np.exp(rng.normal(0, 0.35)), 0.2, 1.3)),
        floor=float(0.0022 * np.exp(rng.normal(0, 0.25))),
        enl=enl,
        grain=float(rng.uniform(0.7, 1.0)),
        resolution=float(rng.uniform(0.45, 0.85)),
        lobes=float(np.clip(0.012 * np.exp(rng.normal(0, 0.9)), 0.001, 0.12)),
        smear=float(rng.uniform(8, 55)) if moving else 0.0,
        halo=float(0.004 * np.exp(rng.normal(0, 0.6))),
        dihedral=float(rng.uniform(9, 20)),
        fade=float(rng.uniform(0.3, 0.5)),
        seed=int(rng.integers(2**31)),
    )
