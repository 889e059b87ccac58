"""Both renderers draw the same geometry; what the sensors add: speckle, side lobes, saturation, shadow."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastreid_mos.sim import Bar, OpticalPass, Part, SarPass, Ship, render_optical, render_sar
from fastreid_mos.sim.classes import CLASSES, sample_ship
from fastreid_mos.sim.passes import SEQUENCES, optical_pass, sar_pass
from fastreid_mos.sim.raster import deposit
from fastreid_mos.sim.ships import MATERIALS, hull_outline
from fastreid_mos.sim.textures import speckle

WHITE = (0.9, 0.9, 0.9)


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


def house(y: float, height: float = 9.0) -> Part:
    return Part(0.0, y, 12.0, 8.0, 5.0, height, WHITE, "house")


@pytest.fixture(params=["optical", "sar"])
def response(request, box_ship, clear_optical, clear_sar, monkeypatch):
    """A function: the (row, column) in metres from the chip's middle of what a ship shows more than another."""
    # The chip's frame does not depend on the parts here.
    monkeypatch.setattr(Ship, "mean_height", property(lambda ship: ship.freeboard))
    sar = request.param == "sar"
    p, render, pixel = (clear_sar, render_sar, 1.0) if sar else (clear_optical, render_optical, 0.75)

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


def test_paint_is_seen_by_light_alone(box_ship, clear_optical, clear_sar, monkeypatch):
    monkeypatch.setattr(Ship, "mean_height", property(lambda ship: ship.freeboard))  # for one frame
    hatch, paint = (Part(0, 60, size, size, 5, 3, (0.3,) * 3, kind) for size, kind in ((10, "hatch"), (8, "paint")))
    painted, bare = box_ship(hatch, replace(paint, colour=WHITE, round=True)), box_ship(hatch)
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
    assert optical.shape[0] * 0.75 == pytest.approx(1.2 * ship.length, rel=0.2)
    assert sar.shape[0] == pytest.approx(1.22 * ship.length, rel=0.3)
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


def looks(intensity: np.ndarray) -> float:
    return float(intensity.mean() ** 2 / intensity.var())


@pytest.mark.parametrize("enl", [0.7, 1.0, 1.8, 20.0])
@pytest.mark.parametrize("grain, along", [(0.0, 0.0), (0.8, 0.0), (0.6, 8.0)])
def test_speckle_has_the_looks_asked_for(enl, grain, along):
    field = speckle(np.random.default_rng(1), 500, 300, enl, grain, along, 0.0)
    assert field.shape == (500, 300) and field.dtype == np.float32 and field.min() >= 0
    assert field.mean() == pytest.approx(1.0, abs=0.03) and looks(field) == pytest.approx(enl, rel=0.08)
    if along:  # the grains are longer there
        across, down = ((field[:, :-4] - 1) * (field[:, 4:] - 1)).mean(), ((field[:-4] - 1) * (field[4:] - 1)).mean()
        assert across > 0.25 * field.var() and abs(down) < 0.06 * field.var()


def test_a_point_keeps_its_value_and_position():
    target = np.zeros((6, 8), np.float32)
    deposit(target, np.array([[4.25, 2.75]]), np.array([2.0]))
    assert target.sum() == pytest.approx(2.0)
    assert [float((target * i).sum()) / 2 for i in np.indices(target.shape)] == pytest.approx([2.75, 4.25])


@pytest.mark.parametrize("enl", [1.0, 5.0])
def test_the_sea_of_a_chip_has_the_looks_asked_for(box_ship, clear_sar, enl):
    p = replace(clear_sar, enl=enl, grain=0.7, margin=(4.0, 4.0))
    chip = render_sar(box_ship(), p).astype(float)
    sea = np.concatenate([chip[:130], chip[-130:]]) ** 2
    assert np.sqrt(sea.mean()) == pytest.approx(p.floor * p.ceiling, rel=0.1)
    assert looks(sea) == pytest.approx(enl, rel=0.12)


@pytest.fixture
def lone_scatterer(monkeypatch, box_ship, clear_sar):
    """A function: fields of the pass -> a chip that shows a single point in its middle, and nothing of a ship."""

    def collect(ship, p, frame):
        energy = np.zeros((frame.height, frame.width), np.float32)
        energy[frame.height // 2, frame.width // 2] = 1.0
        return energy

    monkeypatch.setattr("fastreid_mos.sim.sar.collect", collect)
    return lambda **fields: render_sar(box_ship(), replace(clear_sar, margin=(1.2, 4.0), **fields)).astype(float)


@pytest.mark.parametrize("look", [180.0, 140.0])
def test_a_lone_scatterer_has_a_cross_of_side_lobes(lone_scatterer, clear_sar, look):
    plain, crossed = lone_scatterer(look=look, level=0.9), lone_scatterer(look=look, level=0.9, lobes=0.1)
    r, c = np.unravel_index(int(plain.argmax()), plain.shape)

    def mean_on_ray(turn: float) -> float:
        a, d = np.deg2rad(look + turn), np.arange(8, 18)
        at = np.round(r + d * np.sin(a)).astype(int), np.round(c + d * np.cos(a)).astype(int)
        return float((crossed - plain)[at].mean())

    arms, between = ([mean_on_ray(turn + start) for turn in (0, 90, 180, 270)] for start in (0, 45))
    assert min(arms) > 5 * max(*between, clear_sar.floor * clear_sar.ceiling)
    assert min(arms[1], arms[3]) > max(arms[0], arms[2])  # along azimuth they reach farther


def test_smear_runs_along_azimuth(lone_scatterer):
    spreads = []
    for smear in (0.0, 24.0):
        energy = lone_scatterer(look=180.0, smear=smear, smeared=0.9) ** 2
        energy[energy < 0.02 * energy.max()] = 0
        energy /= energy.sum()
        spreads.append([np.sqrt((energy * (i - (energy * i).sum()) ** 2).sum()) for i in np.indices(energy.shape)])
    sharp, smeared = spreads
    assert smeared[0] > sharp[0] + 3 and smeared[1] < sharp[1] + 1  # vertical where the radar looks from the left


def test_each_sequence_saturates_at_its_own_scale_and_has_a_long_tail():
    ship = sample_ship(np.random.default_rng(0), "bulk")
    for sequence in SEQUENCES:
        p = replace(sar_pass(np.random.default_rng(4), sequence, True), level=3.0)
        assert 0.9 * sequence.ceiling < render_sar(ship, p).max() <= p.ceiling
        chip = render_sar(ship, replace(p, level=1.0))
        assert chip.max() > 4 * np.median(chip)


def test_clouds_and_haze_veil_the_ship_and_shadow_follows_the_sun(box_ship, clear_optical):
    ship = box_ship(Part(0.0, 60.0, 8.0, 8.0, 5.0, 15.0, (0.5, 0.5, 0.5), "house"))

    def chip(**fields):
        return render_optical(ship, replace(clear_optical, **fields)).astype(float)

    assert chip(haze=0.2).min() > chip().min() + 30 and np.abs(chip(cloud=0.9) - chip()).mean() > 10
    bar = replace(box_ship(), bars=(Bar((-3, 60, 15.5), (3, 60, 15.5), 3, WHITE),))
    for shown, sun, side in (
        (ship, 90.0, -1),
        (ship, 270.0, 1),
        (bar, 90.0, -1),
    ):  # sun below: the shadow falls upwards
        p = replace(clear_optical, sun_azimuth=sun, sun_elevation=45.0)
        grey = render_optical(shown, p).astype(float).mean(2)
        h, m = (size // 2 for size in grey.shape)
        above, below = (grey[h + s * 14 - 3 : h + s * 14 + 3, m - 3 : m + 3].mean() for s in (-1, 1))
        assert (above - below) * side > 5


def test_passes_differ_and_repeat_with_their_seed():
    for draw, options in ((optical_pass, [1]), (sar_pass, [])):
        passes = [draw(np.random.default_rng(seed), SEQUENCES[0], True, *options) for seed in (3, 3, 4)]
        assert passes[0] == passes[1] != passes[2]


def test_the_figures_of_sim_vs_real(monkeypatch):
    """benchmarks/sim_vs_real.py: what it measures is what it says."""
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "sim_vs_real.py"
    spec = importlib.util.spec_from_file_location("sim_vs_real", file)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sim_vs_real", script)  # its dataclasses look themselves up there
    spec.loader.exec_module(script)
    rng = np.random.default_rng(0)
    chip = np.sqrt(rng.gamma(3.0, 1 / 3.0, (400, 120))) * np.where(np.arange(400)[:, None] > 300, 0.1, 1.0)
    assert script.sea_looks(chip) == pytest.approx(3.0, rel=0.1)
    wave = np.cos(2 * np.pi * 0.2 * np.arange(128))[:, None] * np.ones(64)
    shares = script.spectrum(wave.astype(np.float32))
    assert shares.sum() == pytest.approx(1.0) and shares[script.BANDS.index(0.15)] > 0.95
    a, b = rng.standard_normal((2, script.PROFILE))
    assert script.agreement(a, np.roll(a, 4)) > 0.95 > 0.6 > script.agreement(a, b)
    assert script.auc([3.0, 2.0], [1.0, 2.0]) == pytest.approx(0.875)
