"""Chips and results of the page's tests; the figures are made up."""

from __future__ import annotations

import pytest
from page_checking import made_row


@pytest.fixture
def results():
    """The content of a results.json of a fused test, simulated."""
    part = {
        "queries": 12, "queries_valid": 10, "queries_without_match": 2, "gallery": 31,
        "model": made_row(41.0, 35.5, 46.25), "fused": made_row(43.0, 37.5, 48.25),
        "size-only": made_row(12.0, 9.0, 15.0), "random": made_row(3.0, 2.5, 3.5),
        "fused_above": {"model": made_row(2.0, 0.5, 3.25)},
    }  # fmt: skip
    curve = {"alphas": [0.0, 0.1, 1.0], "k": [1, 2]}
    return {
        "dataset": "HOSS", "split": "test", "simulated": True, "chips": {"query": 12, "gallery": 31},
        "protocols": {"O2S": part, "S2O": {**part, "fused_above": {"model": made_row(-1.0, -2.0, -0.5)}}},
        "left_out": {"ALL": "it was not asked for"},
        "fusion": {
            "root": "/gallery", "checkpoint": "0123456789abcdef", "direction": "optical_to_sar", "mode": "mean",
            "alpha": {"O2S": 0.1, "S2O": 0.0}, "k": {"O2S": 2, "S2O": 0},
            "curves": {
                "O2S": {**curve, "mAP": [[40.0, 41.0, 30.0], [40.0, 43.5, 20.0]]},
                "S2O": {**curve, "mAP": [[40.0, 39.0, 30.0], [40.0, 38.5, 20.0]]},
            },
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def ships(tiny_hoss):
    """Optical chips and SAR chips of the tiny set, by identity, those that have both."""
    chips: dict[str, dict[str, list[str]]] = {}
    for file in sorted((tiny_hoss / "HOSS").glob("*/[!-]*.tif")):
        identity, kind = file.name.split("_")[0], file.stem.split("_")[-1]
        chips.setdefault(identity, {"RGB": [], "SAR": []})[kind].append(str(file))
    return [part for part in chips.values() if part["RGB"] and part["SAR"]]
