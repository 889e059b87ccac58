"""The demo, whole, with few ships and hardly any training; and again in the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import demo

SHORT = [
    "SOLVER.MAX_EPOCH",
    "1",
    "SOLVER.WARMUP_EPOCHS",
    "0",
    "SOLVER.IMS_PER_BATCH",
    "16",
    "TEST.BOOTSTRAP.SAMPLES",
    "20",
]


@pytest.mark.slow
def test_the_demo_and_the_demo_again(tmp_path, capsys, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("FASTREID_DATASETS", "")
    weights = {}
    for _ in range(2):
        assert demo.main(["--output", str(tmp_path), "--ids", "24", *SHORT]) == 0
        shown, page = capsys.readouterr().out, (tmp_path / "index.html").read_text(encoding="utf-8")
        assert shown.index("zoo:mos") < shown.index("Training")  # the first answer comes before
        results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        for protocol, part in results["protocols"].items():
            assert 0 <= part["fused"]["mAP"] <= 100 and part["model"]["mAP"] > part["random"]["mAP"]
            assert {"mAP", "Rank-1"} <= set(results["gain"][protocol]["intervals"])
            without, trained = (results["short_training"][name][protocol]["model"]["mAP"] for name in demo.VARIANTS)
            assert results["gain"][protocol]["mAP"] == pytest.approx(trained - without, abs=1e-3)
            assert f"{results['perfect'][protocol]['fused']['mAP']:.1f}" in page
        perfect = json.loads((tmp_path / "fused_perfect/results.json").read_text(encoding="utf-8"))
        assert perfect["fusion"]["rule"] == "perfect" and perfect["protocols"] == results["perfect"]
        for name in (*demo.VARIANTS, demo.GAIN, "zoo:mos fused", "perfect generator", "SIMULATED"):
            assert name in page, name
        before, weights = weights, {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("model_final.pth")}
        assert len(weights) == 2 and before in ({}, weights)  # no training is done twice
        assert (tmp_path / "top5.png").stat().st_size > 10_000
