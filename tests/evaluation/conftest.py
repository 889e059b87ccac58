"""A small test split as arrays, its batches, and one thread for linear algebra."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from fastreid_mos.data import ship_metres


@pytest.fixture(autouse=True)
def one_thread():
    """The matrices are small, and other processes may be using the other cores."""
    with threadpool_limits(1):
        yield


@dataclass(frozen=True)
class Split:
    """Chips of a test split, queries first: what the model gives for them and what the loader says of them."""

    features: np.ndarray
    ids: np.ndarray
    modalities: np.ndarray
    pixels: np.ndarray  # [N, 2], width and height of the files
    paths: tuple[str, ...]
    num_query: int

    def batches(self, size=7):
        """(inputs, outputs) as an evaluator's ``process`` takes them."""
        for start in range(0, len(self.ids), size):
            part = slice(start, start + size)
            metres = ship_metres(*self.pixels[part].T, self.modalities[part])
            inputs = {
                "targets": torch.from_numpy(self.ids[part]),
                "camids": torch.from_numpy(self.modalities[part]),
                "modalities": torch.from_numpy(self.modalities[part]),
                "metres": torch.from_numpy(metres).float(),
                "img_paths": list(self.paths[part]),
            }
            yield inputs, torch.from_numpy(self.features[part])

    def run(self, evaluator, size=7):
        """What the evaluator makes of the split."""
        evaluator.reset()
        for inputs, outputs in self.batches(size):
            evaluator.process(inputs, outputs)
        return evaluator.evaluate()

    def rows(self, query, gallery):
        """Row numbers of the queries and the gallery of the given modalities (None: both)."""
        numbers = np.arange(len(self.ids))

        def chosen(rows, kind):
            return rows if kind is None else rows[self.modalities[rows] == kind]

        return chosen(numbers[: self.num_query], query), chosen(numbers[self.num_query :], gallery)

    def changed(self, **values):
        return replace(self, **values)


def make_split(identities=12, width=16, seed=0, folder="/data/HOSS"):
    """Of each identity an optical and a SAR query and one to three gallery chips of each modality; distractors."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, width))
    shift = 0.8 * rng.standard_normal((2, width))
    ids, kinds, names = [], [], []
    for part in ("query", "bounding_box_test"):
        for pid in range(identities):
            for kind in (0, 1):
                for k in range(1 if part == "query" else 1 + (pid + kind) % 3):
                    ids.append(pid)
                    kinds.append(kind)
                    names.append(f"{folder}/{part}/{pid:04d}_{part[0]}{k}_{('RGB', 'SAR')[kind]}.tif")
    for k in range(6):
        ids.append(-1)
        kinds.append(k % 2)
        names.append(f"{folder}/bounding_box_test/-1_{k}_{('RGB', 'SAR')[k % 2]}.tif")
    ids, kinds = np.array(ids), np.array(kinds)
    noise = rng.standard_normal((len(ids), width))
    features = np.where(ids[:, None] < 0, 0, centres[ids]) + shift[kinds] + noise
    metres = np.exp(rng.normal([4.0, 5.5], 0.3, (identities + 1, 2)))[ids] * np.exp(rng.normal(0, 0.03, (len(ids), 2)))
    pixels = np.maximum(1, np.round(metres / np.where(kinds == 0, 0.75, 1.0)[:, None])).astype(int)
    return Split(features.astype(np.float32), ids, kinds, pixels, tuple(names), 2 * identities)


@pytest.fixture
def split():
    return make_split()


@pytest.fixture
def new_split():
    """:func:`make_split`, for splits of other sizes."""
    return make_split
