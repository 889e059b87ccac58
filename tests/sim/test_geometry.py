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
from fastreid_mos.sim.ships import MATERIALS

WHITE = (0.9, 0.9, 0.9)


def house(y: float, x: float = 0.0) -> Part:
    return Part(x, y, 12.0, 8.0, 5.0, 9.0, WHITE, "house")


def response(ship, bare, p, render, pixel):
    """What the parts add to the bare hull: (row, column) centroid in metres from the chip's middle, and its sum."""
    with_part, without = (np.asarray(render(s, p), float) for s in (ship, bare))
    assert with_part.shape[:2] == without.shape[:2]
    change = np.clip(with_part - without, 0, None)
    change = change.mean(2) if change.ndim == 3 else change
    change[change < 0.2 * change.max()] = 0
    rows, cols = np.indices(change.shape)
    middle = [(s - 1) / 2 for s in change.shape]
    centre = [float((change * i).sum() / change.sum()) for i in (rows, cols)]
    return [(c - m) * pixel for c, m in zip(centre, middle, strict=True)], float(change.sum())


@pytest.fixture(params=["optical", "sar"])
def modality(request, clear_optical, clear_sar, monkeypatch):
    """(pass, renderer, metres per pixel) of each modality; the chip's frame does not depend on the parts here."""
    if request.param == "optical":
        return clear_optical, render_optical, OPTICAL_PIXEL
    monkeypatch.setattr("fastreid_mos.sim.ships.Ship.mean_height", property(lambda ship: ship.freeboard))
    return clear_sar, render_sar, SAR_PIXEL


@pytest.mark.parametrize("stern_up", [True, False])
def test_a_part_moves_its_response_in_both_modalities(box_ship, modality, stern_up):
    p, render, pixel = modality
    p = replace(p, stern_up=stern_up)
    bare = box_ship()
    (before, _), _ = response(box_ship(house(35.0)), bare, p, render, pixel)
    (after, _), _ = response(box_ship(house(85.0)), bare, p, render, pixel)
    # Stations count from the stern: towards the bow is downwards where the stern is at the top.
    assert after - before == pytest.approx(50.0 if stern_up else -50.0, abs=2.5)
    # The station itself, not only the way moved, is where the geometry has it.
    assert before == pytest.approx((35.0 - 60.0) * (1 if stern_up else -1), abs=4.0)


def test_a_removed_part_is_gone_from_both_modalities(box_ship, modality):
    p, render, pixel = modality
    two, one = box_ship(house(35.0), house(85.0)), box_ship(house(35.0))
    (row, _), strength = response(two, one, p, render, pixel)
    assert strength > 0
    assert row == pytest.approx(85.0 - 60.0, abs=4.0)


def test_sides_are_not_mirrored(box_ship, modality):
    """A starboard part lies right with the bow up, left with the stern up. Layover is along range, here downwards."""
    p, render, pixel = modality
    p = replace(p, look=90.0) if render is render_sar else p
    ship, bare = box_ship(Part(5.0, 60.0, 6.0, 8.0, 5.0, 4.0, WHITE, "house")), box_ship()
    for stern_up, side in ((False, 1), (True, -1)):
        (_, column), _ = response(ship, bare, replace(p, stern_up=stern_up), render, pixel)
        assert column * side == pytest.approx(5.0, abs=2.0)


def test_height_lays_over_towards_the_radar_and_leans_in_the_optical_view(
    box_ship, clear_sar, clear_optical, monkeypatch
):
    monkeypatch.setattr("fastreid_mos.sim.ships.Ship.mean_height", property(lambda ship: ship.freeboard))
    low, high, bare = (
        box_ship(replace(house(60.0), height=2.0)),
        box_ship(replace(house(60.0), height=20.0)),
        box_ship(),
    )
    for look, sign in ((180.0, -1), (0.0, 1)):
        p = replace(clear_sar, look=look, margin=(1.2, 4.0), flash=0.3)
        columns = [response(s, bare, p, render_sar, SAR_PIXEL)[0][1] for s in (low, high)]
        assert sign * (columns[1] - columns[0]) > 3.0
    p = replace(clear_optical, lean=(0.5, 0.0))
    columns = [response(s, bare, p, render_optical, OPTICAL_PIXEL)[0][1] for s in (low, high)]
    assert columns[1] - columns[0] > 3.0


def test_paint_is_seen_by_light_alone(box_ship, clear_optical, clear_sar):
    ring = Part(0.0, 60.0, 8.0, 8.0, 5.0, 0.0, WHITE, "paint", round=True)
    painted, bare = box_ship(ring), box_ship()
    assert np.abs(render_optical(painted, clear_optical).astype(int) - render_optical(bare, clear_optical)).max() > 50
    np.testing.assert_array_equal(render_sar(painted, clear_sar), render_sar(bare, clear_sar))


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_every_class_renders_at_its_own_size(kind, clear_sar):
    rng = np.random.default_rng(sorted(CLASSES).index(kind))
    ship = sample_ship(rng, kind)
    low, high = CLASSES[kind].span
    assert ship.kind == kind and low <= ship.length <= high
    assert ship.parts
    for part in ship.parts:
        assert np.isfinite([part.x, part.y, part.base]).all() and part.height >= 0 and min(part.width, part.length) > 0
        assert all(0 <= c <= 1 for c in part.colour)
        # Plans use materials that radar and light both answer to; paint is the one exception.
        assert (
            part.material == "paint" or min(MATERIALS[part.material].backscatter, MATERIALS[part.material].corner) > 0
        )
    sequence = SEQUENCES[0]
    optical = render_optical(ship, optical_pass(rng, sequence, True, 0))
    sar = render_sar(ship, sar_pass(rng, sequence, True))
    assert optical.dtype == np.uint8 and optical.ndim == 3 and optical.shape[2] == 3
    assert sar.dtype == np.float32 and sar.ndim == 2
    assert np.isfinite(sar).all() and 0 < sar.min() and sar.max() <= 1.03 * sequence.ceiling
    assert optical.shape[0] * OPTICAL_PIXEL == pytest.approx(1.2 * ship.length, rel=0.2)
    assert sar.shape[0] * SAR_PIXEL == pytest.approx(1.22 * ship.length, rel=0.3)
    assert optical.shape[0] > 1.5 * optical.shape[1] and optical.std() > 5
    # The ship stands out of the sea around it.
    calm = render_sar(ship, replace(clear_sar, margin=(1.5, 4.0)))
    middle = calm[len(calm) // 3 : -len(calm) // 3].max(1)
    assert np.median(middle) > 10 * np.median(calm[:3])


@pytest.mark.parametrize("material", sorted(set(MATERIALS) - {"sea", "paint"}))
def test_parts_of_every_material_show_in_both_modalities(box_ship, modality, material):
    """No detail exists in one modality only by accident of the code."""
    p, render, pixel = modality
    ship = box_ship(Part(0.0, 85.0, 10.0, 9.0, 5.0, 3.0, WHITE, material))
    (row, _), strength = response(ship, box_ship(), p, render, pixel)
    assert strength > 0
    assert row == pytest.approx(85.0 - 60.0, abs=5.0)


def test_jibs_and_masts_show_in_both_modalities(box_ship, modality):
    p, render, pixel = modality
    bare = box_ship()
    ship = replace(bare, bars=(Bar((0.0, 80.0, 8.0), (0.0, 100.0, 8.0), 1.5, WHITE, 4.0),))
    (row, _), strength = response(ship, bare, p, render, pixel)
    assert strength > 0
    assert row == pytest.approx(90.0 - 60.0, abs=5.0)


def test_unknown_class_is_refused():
    with pytest.raises(ValueError, match="^kind.*'submarine'"):
        sample_ship(np.random.default_rng(0), "submarine")


def test_loading_changes_the_draught_and_keeps_every_part_on_its_deck():
    ship = sample_ship(np.random.default_rng(5), "container")
    loaded = ship.loaded(np.random.default_rng(1), 0.5)
    lift = loaded.freeboard - ship.freeboard
    assert lift != 0
    for a, b in zip(ship.parts, loaded.parts, strict=True):
        assert b.base - a.base == pytest.approx(lift)
    for a, b in zip(ship.bars, loaded.bars, strict=True):
        assert b.start[2] - a.start[2] == pytest.approx(lift) and b.end[2] - a.end[2] == pytest.approx(lift)
    changed = {i for i, (a, b) in enumerate(zip(ship.parts, loaded.parts, strict=True)) if a.height != b.height}
    assert changed and changed <= set(ship.cargo)
