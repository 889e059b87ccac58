"""The figures that the bridge's benchmarks compute themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def test_frechet_distance_of_known_distributions():
    from _bridge import frechet

    generator = np.random.default_rng(0)
    first = generator.standard_normal((4000, 3))
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)
    # Moved by 2 in one direction, spread doubled in another: 4 + (2 - 1)^2.
    second = first * [1, 2, 1] + [2, 0, 0]
    expected = 4 + 1 * first[:, 1].var(ddof=1) + 4 * (first[:, 1].mean() / 2) ** 2
    assert frechet(first, second) == pytest.approx(expected, rel=0.05)


def test_principal_axes_span_what_varies():
    from _bridge import principal_axes

    rows = np.zeros((50, 6))
    rows[:, 2] = np.linspace(-1, 1, 50)
    mean, axes = principal_axes(rows + 3, 2)
    assert axes.shape == (2, 6) and abs(axes[0, 2]) == pytest.approx(1) and mean == pytest.approx(np.full(6, 3.0))


def test_picture_distances_rise_with_likeness():
    from _bridge import picture_distances

    image = np.random.default_rng(0).integers(0, 255, (24, 12)).astype(np.uint8)
    near = np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)
    far = np.random.default_rng(1).integers(0, 255, (24, 12)).astype(np.uint8)
    assert picture_distances([image], [image])[0] == pytest.approx(1)
    assert picture_distances([image], [near]) > picture_distances([image], [far])
    assert picture_distances([image], [near])[1] == pytest.approx(10 * np.log10(255**2 / 9), abs=0.2)


def test_differences_are_paired_by_query(tmp_path):
    from fused_vs_unfused import difference_cells

    for stem, gain in (("query_ranks", 0.0), ("fused_query_ranks", 0.1)):
        # In another order, and one query without a match.
        precisions = sorted({"a": 0.2, "b": 0.5, "c": 0.7}.items(), reverse=not gain)
        rows = [
            f"ALL,{name},{'ab'.find(name)},{1 if gain and name == 'a' else 2},{ap + gain}" for name, ap in precisions
        ]
        lines = ["protocol,query,identity,first_rank,AP", *rows, "ALL,d,3,,"]
        (tmp_path / f"{stem}.csv").write_text("\n".join(lines))
    (cell,) = difference_cells([tmp_path])
    assert cell.startswith("+10.0 [+10.0, +10.0] / +33.3 [")
