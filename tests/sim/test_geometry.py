"""Both renderers draw the same geometry: what moves or goes in one modality moves or goes in the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastreid_mos.sim import (
    CLASSES,
    SEQUENCES,
    Bar,
    Part,
    optical_pass,
    render_optical,
    render_sar,
    sample_ship,
    sar_pass,
)
from fastreid_mos.sim.optical import PIXEL as OPTICAL_PIXEL
from fastreid_mos.sim.sar import PIXEL as SAR_PIXEL
from fastreid_mos.sim.ships import MATERIALS, Ship

WHITE = (0.9, 0.9, 0.9)


def house(y: float, height: float = 9.0) -> Part:
    return Part(0.0, y, 12.0, 8.0, 5.0, height, WHITE, "house")


@pytest.fixture(params=["optical", "sar"])
def response(request, box_ship, clear_optical, clear_sar, monkeypatch):
    """A function: the (row, column) in metres from the chip's middle of what a ship shows more than another."""
    # The chip's frame does not depend on the parts here.
    monkeypatch.setattr(Ship, "mean_height", property(lambda ship: ship.freeboard))
    sar = request.param == "sar"
    p, render, pixel = (clear_sar, render_sar, SAR_PIXEL) if sar else (clear_optical, render_optical, OPTICAL_PIXEL)

    def centre(ship, bare=None, **fields):
        known = {name: value for name, value in fields.items() if hasattr(p, name)}
        chips = [render(s, replace(p, **known)) for s in (ship, bare or box_ship())]
        change = np.clip(chips[0].astype(float) - chips[1], 0, None)
        change = change if sar else change.mean(2)
        change[change < 0.2 * change.max()] = 0
        rows = [float((change * i).sum() / change.sum()) for i in np.indices(change.shape)]
        return [(row - (size - 1) / 2) * pixel for row, size in zip(rows, change.shape, strict=True)]

    return centre


@pytest.mark.parametrize("stern_up", [True, False])
def test_a_part_moves_its_response(box_ship, response, stern_up):
    before, after = (response(box_ship(house(y)), stern_up=stern_up)[0] for y in (35.0, 85.0))
    # Stations count from the stern: towards the bow is downwards where the stern is at the top.
    sign = 1 if stern_up else -1
    assert after - before == pytest.approx(50.0 * sign, abs=2.5)
    assert before == pytest.approx((35.0 - 60.0) * sign, abs=4.0)
    # A starboard part lies right with the bow up, left with the stern up. Layover is along range, here downwards.
    starboard = box_ship(Part(5.0, 60.0, 6.0, 8.0, 5.0, 4.0, WHITE, "house"))
    assert response(starboard, stern_up=stern_up, look=90.0)[1] == pytest.approx(-5.0 * sign, abs=2.0)


def test_parts_and_bars_show_where_they_are(box_ship, response):
    assert response(box_ship(house(35.0), house(85.0)), box_ship(house(35.0)))[0] == pytest.approx(25.0, abs=4.0)
    mast = replace(box_ship(), bars=(Bar((0.0, 80.0, 8.0), (0.0, 100.0, 8.0), 1.5, WHITE, 4.0),))
    assert response(mast)[0] == pytest.approx(30.0, abs=5.0)
    for material in set(MATERIALS) - {"sea", "paint"}:
        ship = box_ship(Part(0.0, 85.0, 10.0, 9.0, 5.0, 3.0, WHITE, material))
        assert response(ship)[0] == pytest.approx(25.0, abs=5.0), material


@pytest.mark.parametrize("look, sign", [(180.0, -1), (0.0, 1)])
def test_height_lays_over_towards_the_radar_and_leans_in_the_optical_view(box_ship, response, look, sign):
    # Only one of the two passes has each of these fields.
    fields = {"look": look, "flash": 0.3, "lean": (0.5 * sign, 0.0), "margin": (1.2, 4.0)}
    low, high = (response(box_ship(house(60.0, height)), **fields)[1] for height in (2.0, 20.0))
    assert sign * (high - low) > 3.0


def test_paint_is_seen_by_light_alone(box_ship, clear_optical, clear_sar):
    painted, bare = box_ship(Part(0.0, 60.0, 8.0, 8.0, 5.0, 0.0, WHITE, "paint", round=True)), box_ship()
    assert np.abs(render_optical(painted, clear_optical).astype(int) - render_optical(bare, clear_optical)).max() > 50
    np.testing.assert_array_equal(render_sar(painted, clear_sar), render_sar(bare, clear_sar))


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_every_class_renders_at_its_own_size(kind, clear_sar):
    rng = np.random.default_rng(sorted(CLASSES).index(kind))
    ship = sample_ship(rng, kind)
    low, high = CLASSES[kind].span
    assert ship.kind == kind and low <= ship.length <= high
    for part in ship.parts:
        assert np.isfinite([part.x, part.y, part.base]).all() and part.height >= 0 and min(part.width, part.length) > 0
        assert all(0 <= c <= 1 for c in part.colour) and part.material in set(MATERIALS) - {"sea"}
    optical = render_optical(ship, optical_pass(rng, SEQUENCES[0], True, 0))
    sar = render_sar(ship, sar_pass(rng, SEQUENCES[0], True))
    assert optical.dtype == np.uint8 and optical.shape[2:] == (3,) and sar.dtype == np.float32 and sar.ndim == 2
    assert np.isfinite(sar).all() and 0 < sar.min() and sar.max() <= 1.03 * SEQUENCES[0].ceiling
    assert optical.shape[0] * OPTICAL_PIXEL == pytest.approx(1.2 * ship.length, rel=0.2)
    assert sar.shape[0] * SAR_PIXEL == pytest.approx(1.22 * ship.length, rel=0.3)
    assert optical.shape[0] > 1.5 * optical.shape[1] and optical.std() > 5
    calm = render_sar(ship, replace(clear_sar, margin=(1.5, 4.0)))
    assert np.median(calm[len(calm) // 3 : -len(calm) // 3].max(1)) > 10 * np.median(calm[:3])  # the ship stands out


def test_loading_changes_the_draught_and_keeps_every_part_on_its_deck():
    ship = sample_ship(np.random.default_rng(5), "container")
    loaded = ship.loaded(np.random.default_rng(1), 0.5)
    lifts = [b.base - a.base for a, b in zip(ship.parts, loaded.parts, strict=True)]
    for a, b in zip(ship.bars, loaded.bars, strict=True):
        lifts += [b.start[2] - a.start[2], b.end[2] - a.end[2]]
    assert loaded.freeboard != ship.freeboard and lifts == pytest.approx(
        [loaded.freeboard - ship.freeboard] * len(lifts)
    )
    changed = {i for i, part in enumerate(ship.parts) if part.height != loaded.parts[i].height}
    assert changed and changed <= set(ship.cargo)
