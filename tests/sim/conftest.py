"""Ships and passes made for the purpose: nothing random but what a test asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastreid_mos.sim import SEQUENCES, OpticalPass, Part, SarPass, Ship, optical_pass, sar_pass
from fastreid_mos.sim.ships import hull_outline


@pytest.fixture
def box_ship():
    """A function: parts -> a bare 120 x 22 m hull that carries them."""

    def make(*parts: Part) -> Ship:
        outline = hull_outline(120.0, 22.0, 0.14, 2.0, 0.08, 0.7)
        grey = (0.3, 0.3, 0.3)
        return Ship("test", 120.0, 22.0, 5.0, outline, grey, grey, 1.0, tuple(parts), (), 7)

    return make


@pytest.fixture
def clear_optical() -> OpticalPass:
    """Nearly nadir, high sun, no weather, no noise."""
    p = optical_pass(np.random.default_rng(0), SEQUENCES[0], True, 0)
    return replace(
        p,
        angle=0.0, sun_elevation=65.0, lean=(0.0, 0.0), margin=(1.2, 1.3), shift=(0.0, 0.0), gain=(1.0, 1.0, 1.0),
        gamma=1.0, black=0.0, haze=0.0, saturation=1.0, veil=(0.0, 0.0, 0.0), sea_texture=0.0, blur=0.5, sharpen=0.0,
        cloud=0.0, wake=0.0, noise=0.0,
    )  # fmt: skip


@pytest.fixture
def clear_sar() -> SarPass:
    """From the side, at rest, without side lobes, with hardly any speckle."""
    p = sar_pass(np.random.default_rng(0), SEQUENCES[0], True)
    return replace(
        p,
        angle=0.0, look=180.0, incidence=45.0, margin=(1.2, 1.3), shift=(0.0, 0.0), level=0.3, sea_texture=0.0,
        enl=1000.0, grain=0.0, lobes=0.0, smear=0.0, smeared=0.0, halo=0.0, hull=1.0, fading=0.0, glints=0.0, fade=0.0,
    )  # fmt: skip
