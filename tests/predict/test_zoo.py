"""The weights that come with the package: each with a card, whole, calibrated, and small together."""

from __future__ import annotations

import pytest

from fastreid_mos import Predictor
from fastreid_mos.zoo import FOLDER, zoo_names, zoo_path


@pytest.mark.parametrize("name", zoo_names())
def test_a_re_identifier(name):
    predictor = Predictor(f"zoo:{name}", device="cpu")
    assert predictor.calibrated == ("O-O", "O-S", "S-S")
    assert len((FOLDER / f"{name}.md").read_text(encoding="utf-8")) > 500


@pytest.mark.parametrize("name", zoo_names(bridges=True))
def test_a_bridge(name):
    from fastreid_mos.bridge.pipeline import load_pipeline

    folder = zoo_path(f"zoo:{name}", bridge=True)
    assert "HOSS" not in load_pipeline(folder).config.trained_identities, "a simulated HOSS is not HOSS"
    assert (FOLDER / name / "README.md").is_file()


def test_the_package_stays_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 30e6
