"""benchmarks/sim_vs_real.py: what it measures is what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fastreid_mos.sim import write_hoss

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "sim_vs_real.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("sim_vs_real", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sim_vs_real"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sim_vs_real"]


@pytest.mark.slow
def test_both_columns_and_the_picture(script, tmp_path, capsys, monkeypatch):
    real, picture = write_hoss(tmp_path / "stand_in", 5, 3), tmp_path / "both.png"
    argv = ["sim_vs_real.py", "--ids", "5", "--seed", "3", "--real", str(real), "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", argv)
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 40 and "simulated" in lines[0] and "real sample" in lines[0]
    for line in lines[1:]:  # the same data set twice: the same figures twice
        assert line.startswith("size only") or line[46:92].strip() == line[92:].strip(), line
    assert cv2.imread(str(picture)).shape[0] > 300
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["sim_vs_real.py", "--sim", str(tmp_path / "empty")])
    assert script.main() == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'empty'}: no chips")


def test_looks_spectrum_and_profiles(script):
    rng = np.random.default_rng(0)
    chip = np.sqrt(rng.gamma(3.0, 1 / 3.0, (400, 120))) * np.where(np.arange(400)[:, None] > 300, 0.1, 1.0)
    assert script.sea_looks(chip) == pytest.approx(3.0, rel=0.1)
    wave = np.cos(2 * np.pi * 0.2 * np.arange(128))[:, None] * np.ones(64)
    shares = script.spectrum(wave.astype(np.float32))
    assert shares.sum() == pytest.approx(1.0) and shares[script.BANDS.index(0.15)] > 0.95
    a, b = rng.standard_normal((2, script.PROFILE))
    assert script.agreement(a, np.roll(a, 4)) > 0.95 > 0.6 > script.agreement(a, b)
    assert script.auc([3.0, 2.0], [1.0, 2.0]) == pytest.approx(0.875)
