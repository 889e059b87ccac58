"""What the sensors add: speckle of the looks asked for, side lobes along range and azimuth, saturation, orientation."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastreid_mos.sim import SEQUENCES, Part, optical_pass, render_optical, render_sar, sample_ship, sar_pass
from fastreid_mos.sim.raster import deposit
from fastreid_mos.sim.textures import speckle


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
    for sun, side in ((90.0, -1), (270.0, 1)):  # sun below: the shadow falls upwards
        grey = chip(sun_azimuth=sun, sun_elevation=45.0).mean(2)
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
