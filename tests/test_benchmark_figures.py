"""The figures that the benchmarks compute themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def test_distances_of_known_distributions_and_pictures():
    from _bridge import frechet, picture_distances, principal_axes

    generator = np.random.default_rng(0)
    first = generator.standard_normal((4000, 3))
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)
    # Moved by 2 in one direction, spread doubled in another: 4 + (2 - 1)^2.
    assert frechet(first, first * [1, 2, 1] + [2, 0, 0]) == pytest.approx(5, rel=0.05)
    rows = np.full((50, 6), 3.0)
    rows[:, 2] += np.linspace(-1, 1, 50)
    mean, axes = principal_axes(rows, 2)
    assert axes.shape == (2, 6) and abs(axes[0, 2]) == pytest.approx(1) and mean == pytest.approx(np.full(6, 3.0))
    image, far = generator.integers(0, 252, (2, 24, 12)).astype(np.uint8)
    assert picture_distances([image], [image])[0] == pytest.approx(1)
    near = picture_distances([image], [image + np.uint8(3)])
    assert near > picture_distances([image], [far]) and near[1] == pytest.approx(10 * np.log10(255**2 / 9), abs=0.2)


def test_differences_are_paired_by_query(tmp_path):
    """In another order, and one query without a match."""
    from fused_vs_unfused import difference_cells

    head = "protocol,query,identity,first_rank,AP\nALL,d,3,,\n"
    (tmp_path / "query_ranks.csv").write_text(head + "ALL,c,-1,2,.7\nALL,b,1,2,.5\nALL,a,0,2,.2")
    (tmp_path / "fused_query_ranks.csv").write_text(head + "ALL,a,0,1,.3\nALL,b,1,2,.6\nALL,c,-1,2,.8")
    (cell,) = difference_cells([tmp_path])
    assert cell.startswith("+10.0 [+10.0, +10.0] / +33.3 [")
