"""Whether two ways of reading SAR chips are the same."""

from __future__ import annotations

import pytest

from fastreid_mos.config import get_cfg
from fastreid_mos.data.datasets import join_items
from fastreid_mos.data.transforms import SARDifference, sar_differences

OWN = {"transform": "SARDenoise", "channel": "auto", "low": 5.0, "high": 100.0}


@pytest.mark.parametrize(
    ("own", "record", "keys"),
    [
        ("SARDenoise", {}, []),
        ("SARDenoise", {"low": 1.0}, ["LOW_PERCENTILE"]),
        ("SARDenoise", {"low": 1.0, "high": 99.0, "channel": "0"}, ["CHANNEL", "LOW_PERCENTILE", "HIGH_PERCENTILE"]),
        ("SARMaxScale", {"transform": "SARMaxScale", "low": 1.0, "high": 99.0}, []),
        ("SARMaxScale", {"transform": "SARMaxScale", "channel": "0"}, ["CHANNEL"]),
        ("SARMaxScale", {"low": 1.0}, ["TRANSFORM"]),
        ("SARDenoise", {"transform": "SARMaxScale", "low": 1.0}, ["TRANSFORM"]),
    ],
)
def test_percentiles_count_for_denoising_only(own, record, keys):
    cfg = get_cfg()
    cfg.INPUT.SAR.TRANSFORM = own
    there = {**OWN, **record}
    found = sar_differences(there, cfg)
    assert [one.key for one in found] == [f"INPUT.SAR.{key}" for key in keys]
    if record == {"low": 1.0} and own == "SARDenoise":
        assert found == [SARDifference("INPUT.SAR.LOW_PERCENTILE", 1.0, cfg.INPUT.SAR.LOW_PERCENTILE)]


def test_distractors_stay_what_they_are_beside_another_data_set():
    first, second = [("a", 3, 0), ("b", -1, 0)], [("c", 0, 1), ("d", -1, 1), ("e", 2, 0)]
    assert [pid for _, pid, _ in join_items([first, second])] == [3, -1, 4, -1, 6]
    assert [pid for _, pid, _ in join_items([first[1:], second])] == [-1, 0, -1, 2]
