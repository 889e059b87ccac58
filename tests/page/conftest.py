"""Chips and results of the page's tests; the figures are made up."""

from __future__ import annotations

import pytest
from made_page import made_row


@pytest.fixture
def results():
    """The content of a results.json of a fused test, simulated."""
    part = {
        "queries": 12, "queries_valid": 10, "queries_without_match": 2, "gallery": 31,
        "random": made_row(3.0, 2.5, 3.5), "size-only": made_row(12.0, 9.0, 15.0), "model": made_row(41.0, 35.5, 46.25),
        "fused": made_row(43.0, 37.5, 48.25), "fused_above": {"model": made_row(2.0, 0.5, 3.25)},
    }  # fmt: skip
    curve = {"alphas": [0.0, 0.1, 1.0], "k": [1, 2], "mAP": [[40.0, 41.0, 30.0], [40.0, 43.5, 20.0]]}
    return {
        "dataset": "HOSS", "split": "test", "simulated": True, "chips": {"query": 12, "gallery": 31},
        "protocols": {"O2S": part, "S2O": {**part, "fused_above": {"model": made_row(-1.0, -2.0, -0.5)}}},
        "left_out": {"ALL": "it was not asked for"},
        "fusion": {
            "root": "/gallery", "checkpoint": "0123456789abcdef", "direction": "optical_to_sar", "mode": "mean",
            "alpha": {"O2S": 0.1, "S2O": 0.0}, "k": {"O2S": 2, "S2O": 0}, "curves": {"O2S": curve, "S2O": curve},
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def ships(tiny_hoss):
    """Pairs of an optical and a SAR chip of the tiny set."""
    files = [str(file) for file in sorted((tiny_hoss / "HOSS").glob("query/[!-]*.tif"))]
    kinds = {kind: [file for file in files if kind in file] for kind in ("RGB", "SAR")}
    return [{"RGB": [optical], "SAR": [sar]} for optical, sar in zip(*kinds.values(), strict=False)]
