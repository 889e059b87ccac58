"""One look at a ship: everything that a renderer is told besides the ship itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpticalPass:
    """One optical acquisition. Angles in degrees; image directions count from the right, clockwise on screen.

    Attributes:
        angle: heading error. stern_up: orientation of the chip.
        sun_azimuth: direction towards the sun. sun_elevation: above the horizon.
        lean: (x, y) metres on the ground by which a point one metre high is displaced (the tangent of the view angle).
        margin: (along, across) chip size over ship box. shift: (x, y) crop error, share of the box.
        gain: RGB. gamma: of the contrast curve. black: level subtracted before it. haze: added after it.
        saturation: of the colours, 1 as painted. veil: RGB of the air's own light over the ship.
        sea: RGB, 0..1. sea_texture: wave contrast. blur: Gaussian sigma, pixels. sharpen: overshoot amount.
        cloud: 0..1 cover. wake: 0..1 strength. noise: sensor noise, 0..1 levels.
        seed: what is random inside the chip.
    """

    angle: float
    stern_up: bool
    sun_azimuth: float
    sun_elevation: float
    lean: tuple[float, float]
    margin: tuple[float, float]
    shift: tuple[float, float]
    gain: tuple[float, float, float]
    gamma: float
    black: float
    saturation: float
    veil: tuple[float, float, float]
    haze: float
    sea: tuple[float, float, float]
    sea_texture: float
    blur: float
    sharpen: float
    cloud: float
    wake: float
    noise: float
    seed: int


@dataclass(frozen=True)
class SarPass:
    """One SAR acquisition. Angles in degrees; image directions count from the right, clockwise on screen.

    Attributes:
        angle: heading error. stern_up: orientation. look: direction towards the sensor (near range).
        incidence: from the vertical. margin, shift: as in the optical pass.
        ceiling: value at which the product saturates (differs between sequences).
        level: 97th percentile of the ship's mean amplitude, share of the ceiling, before saturation.
        floor: mean of the sea, share of the ceiling. sea_texture: spread (log) of its slow changes.
        enl: equivalent number of looks of the speckle (of the intensity). grain: its correlation, sigma in pixels.
        resolution: sigma of the point response, pixels. lobes: share of energy in the side lobes of strong points.
        smear: defocus along azimuth, pixels. smeared: share of the energy in it.
        halo: share of energy in the far side lobes.
        hull: strength of the dihedral of hull and sea.
        fading: depth (log) of the ship's brighter and dimmer stretches.
        glints: spread (log) of the strength of side lobes from point to point.
        dihedral: width in degrees within which a wall flashes. flash: strength of it.
        fade: spread (log) of points between passes.
        seed: what is random inside the chip.
    """

    angle: float
    stern_up: bool
    look: float
    incidence: float
    margin: tuple[float, float]
    shift: tuple[float, float]
    ceiling: float
    level: float
    floor: float
    sea_texture: float
    enl: float
    grain: float
    resolution: float
    lobes: float
    smear: float
    smeared: float
    halo: float
    hull: float
    fading: float
    glints: float
    dihedral: float
    flash: float
    fade: float
    seed: int
