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
