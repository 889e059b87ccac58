"""Passes: all that a renderer is told besides the ship, and how they differ: sequences, sensors, sun, sea, crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[float, float]
Triple = tuple[float, ...]
DEFAULT_ENL = 1.8
# Saturation values of the SAR products of the sequences seen in HOSS (their chips' mean maxima: 2.3, 4.6, 6.6, 10.1).
CEILINGS = (2.35, 4.75, 6.85, 10.6)


@dataclass(frozen=True)
class OpticalPass:
    """One optical acquisition. Angles in degrees; image directions count from the right, clockwise on screen."""

    angle: float  # heading error
    stern_up: bool
    sun_azimuth: float  # image direction towards the sun
    sun_elevation: float  # above the horizon
    lean: Pair  # (x, y) metres by which a point one metre high is displaced: the tangent of the view angle
    margin: Pair  # (along, across) chip size over ship box
    shift: Pair  # (x, y) crop error, share of the box
    gain: Triple  # RGB
    gamma: float  # of the contrast curve
    black: float  # level subtracted before it
    saturation: float  # of the colours, 1 as painted
    veil: Triple  # RGB of the air's own light over the ship
    haze: float  # level added after the curve
    sea: Triple  # RGB, 0..1
    sea_texture: float  # wave contrast
    blur: float  # Gaussian sigma, pixels
    sharpen: float  # overshoot amount
    cloud: float  # cover, 0..1
    wake: float  # strength, 0..1
    noise: float  # of the sensor, 0..1 levels
    seed: int  # of what is random inside the chip


@dataclass(frozen=True)
class SarPass:
    """One SAR acquisition. Angles in degrees; image directions count from the right, clockwise on screen."""

    angle: float  # heading error
    stern_up: bool
    look: float  # image direction towards the sensor (near range)
    incidence: float  # from the vertical
    margin: Pair  # as in the optical pass
    shift: Pair
    ceiling: float  # value at which the product saturates
    level: float  # 97th percentile of the ship's mean amplitude, share of the ceiling, before saturation
    floor: float  # mean of the sea, share of the ceiling
    sea_texture: float  # spread (log) of its slow changes
    enl: float  # equivalent number of looks of the speckle (of the intensity)
    grain: float  # its correlation, sigma in pixels
    resolution: float  # sigma of the point response, pixels
    lobes: float  # share of energy in the side lobes of strong points
    smear: float  # defocus along azimuth, pixels
    smeared: float  # share of the energy in it
    halo: float  # share of energy in the far side lobes
    hull: float  # strength of the dihedral of hull and sea
    fading: float  # depth (log) of the ship's brighter and dimmer stretches
    glints: float  # spread (log) of the strength of side lobes from point to point
    dihedral: float  # degrees within which a wall flashes
    flash: float  # strength of that
    fade: float  # spread (log) of points between passes
    seed: int  # of what is random inside the chip


@dataclass(frozen=True)
class Look:
    """How one optical product of a sequence looks; fields as in OpticalPass."""

    gain: Triple
    sea: Triple
    gamma: float
    black: float
    sun: float
    lean: Pair
    saturation: float
    veil: Triple


@dataclass(frozen=True)
class Sequence:
    """What the chips of one sequence share."""

    number: int  # the two digits in the file names
    ceiling: float  # of its SAR product
    near_side: float  # image direction of the radar for most of its ships, degrees (0 right, 180 left)
    stern_up: float  # share of ships with the stern at the top
    sar_first: bool  # c1 is the SAR chip
    looks: tuple[Look, Look]  # of its first and of its later optical passes


SEQUENCES: tuple[Sequence, ...] = (
    Sequence(5, CEILINGS[0], 180.0, 0.95, False, (
        Look((1.12, 1.04, 1.04), (0.035, 0.085, 0.13), 1.4, 0.05, 75, (0.12, -0.05), 0.75, (0.0, 0.01, 0.02)),
        Look((0.98, 0.90, 1.0), (0.03, 0.07, 0.19), 1.4, 0.06, 75, (0.72, -0.22), 0.7, (0.02, 0.03, 0.12)),
    )),
    Sequence(4, CEILINGS[1], 180.0, 0.08, False, (
        Look((1.0, 0.98, 0.90), (0.055, 0.055, 0.08), 1.1, 0.02, 215, (0.14, 0.08), 0.75, (0.03, 0.03, 0.03)),
        Look((0.98, 0.95, 0.90), (0.05, 0.05, 0.075), 1.15, 0.03, 215, (0.14, 0.08), 0.75, (0.02, 0.02, 0.03)),
    )),
    Sequence(1, CEILINGS[2], 0.0, 0.15, True, (
        Look((0.80, 0.72, 0.42), (0.045, 0.05, 0.035), 1.15, 0.03, 200, (-0.35, 0.1), 0.8, (0.03, 0.03, 0.015)),
        Look((0.97, 1.05, 1.1), (0.022, 0.06, 0.12), 1.05, 0.02, 200, (0.05, 0.05), 0.8, (0.0, 0.01, 0.03)),
    )),
)  # fmt: skip
DISTRACTORS = Sequence(0, CEILINGS[3], 0.0, 0.4, False, (
    Look((0.92, 0.92, 0.95), (0.10, 0.14, 0.19), 1.0, 0.0, 120, (0.1, 0.1), 0.75, (0.05, 0.06, 0.08)),
    Look((0.85, 0.90, 0.95), (0.12, 0.16, 0.21), 0.95, 0.0, 120, (0.3, 0.1), 0.75, (0.06, 0.07, 0.1)),
))  # fmt: skip


def optical_pass(rng: np.random.Generator, sequence: Sequence, stern_up: bool, order: int) -> OpticalPass:
    """Draw an optical acquisition; ``order`` 0 is the sequence's first product, later ones look like its second."""
    look = sequence.looks[min(order, 1)]
    if rng.random() < 0.15:  # now and then another product altogether
        others = [look for each in (*SEQUENCES, DISTRACTORS) for look in each.looks]
        look = others[int(rng.integers(len(others)))]
    gain = np.array(look.gain) * rng.normal(1, 0.04, 3) * rng.uniform(0.85, 1.25)
    sea = np.array(look.sea) * rng.uniform(0.6, 1.5) + rng.normal(0, 0.006, 3)
    # Sun and view belong to the product; ships on other headings see them from elsewhere.
    usual = rng.random() < 0.7
    sun = look.sun + rng.normal(0, 25) if usual else rng.uniform(0, 360)
    tilt = min(float(np.hypot(*look.lean) * np.exp(rng.normal(0, 0.25)) + abs(rng.normal(0, 0.08))), 1.0)
    around = float(np.arctan2(look.lean[1], look.lean[0]) + rng.normal(0, 0.35))
    around = around if usual else rng.uniform(0, 2 * np.pi)
    veil = np.array(look.veil) * rng.uniform(0.4, 1.5)
    weather = rng.random()
    haze = float(abs(rng.normal(0, 0.012))) + (rng.uniform(0.03, 0.22) if weather < 0.05 else 0.0)
    return OpticalPass(
        angle=rng.normal(0, 1.3),
        stern_up=stern_up,
        sun_azimuth=sun % 360.0,
        sun_elevation=rng.uniform(26, 62),
        lean=(tilt * float(np.cos(around)), tilt * float(np.sin(around))),
        margin=(float(1.18 * np.exp(rng.normal(0, 0.027))), float(1.27 * np.exp(rng.normal(0, 0.055)))),
        shift=(rng.normal(0, 0.025), rng.normal(0, 0.008)),
        gain=tuple(np.clip(gain, 0.3, 2).tolist()),
        gamma=float(look.gamma * np.exp(rng.normal(0, 0.12))),
        black=look.black,
        saturation=float(look.saturation * rng.uniform(0.75, 1.15)),
        veil=tuple(veil.tolist()),
        haze=haze,
        sea=tuple(np.clip(sea, 0.008, 0.5).tolist()),
        sea_texture=rng.uniform(0.02, 0.22),
        blur=rng.uniform(0.8, 1.3) if rng.random() < 0.85 else rng.uniform(1.3, 2.0),
        sharpen=rng.uniform(0.6, 2.0) if rng.random() < 0.85 else 0.0,
        cloud=rng.uniform(0.2, 0.8) if weather < 0.07 else 0.0,
        wake=rng.uniform(0.1, 0.4) if rng.random() < 0.08 else 0.0,
        noise=rng.uniform(0.002, 0.008),
        seed=int(rng.integers(2**31)),
    )


def sar_pass(rng: np.random.Generator, sequence: Sequence, stern_up: bool, enl: float = DEFAULT_ENL) -> SarPass:
    """Draw a SAR acquisition."""
    moving = rng.random() < 0.22
    # Ships lie along the orbit, at anchor and in lanes: mostly seen from the side, the sequence's own more often.
    side = sequence.near_side if rng.random() < 0.65 else 180.0 - sequence.near_side
    look = side + rng.normal(0, 24) if rng.random() < 0.78 else rng.uniform(0, 360)
    smear = rng.uniform(3, 9) if rng.random() < 0.45 else rng.uniform(9, 60)
    return SarPass(
        angle=rng.normal(0, 2.2),
        stern_up=stern_up,
        look=look % 360.0,
        incidence=rng.uniform(22, 52),
        margin=(float(1.2 * np.exp(rng.normal(0, 0.06))), float(1.14 * np.exp(rng.normal(0, 0.09)))),
        shift=(rng.normal(0, 0.05), rng.normal(0, 0.012)),
        ceiling=float(sequence.ceiling * rng.uniform(0.98, 1.02)),
        level=(0.7 if moving else 1.0) * float(np.clip(1.1 * np.exp(rng.normal(0, 0.34)), 0.4, 2.4)),
        floor=float(0.0022 * np.exp(rng.normal(0, 0.25))),
        sea_texture=rng.uniform(0.1, 0.6),
        enl=enl,
        grain=rng.uniform(0.6, 1.1) * (0.7 if moving and smear > 9 else 1.0),
        resolution=rng.uniform(0.6, 1.2),
        lobes=float(np.clip(0.02 * np.exp(rng.normal(0, 1.0)), 0.001, 0.15)),
        smear=smear if moving else 0.0,
        smeared=rng.uniform(0.3, 0.95) if moving else 0.0,
        halo=float(0.002 * np.exp(rng.normal(0, 0.6))),
        hull=float(np.clip(np.exp(rng.normal(0, 1.0)), 0.1, 6.0)),
        fading=float(abs(rng.normal(0, 0.35))),
        glints=rng.uniform(0.0, 1.8),
        dihedral=rng.uniform(10, 34),
        flash=float(2.4 * np.exp(rng.normal(0, 0.6))),
        fade=rng.uniform(0.3, 0.6),
        seed=int(rng.integers(2**31)),
    )
