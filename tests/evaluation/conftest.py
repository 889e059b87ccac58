"""A small test split as arrays, its batches, and one thread for linear algebra."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from fastreid_mos.data import ship_metres
from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator


@pytest.fixture(autouse=True)
def one_thread():
    """The matrices are small, and other processes may be using the other cores."""
    with threadpool_limits(1):
        yield


@dataclass(frozen=True)
class Split:
    """Chips of a test split, queries first: what the model gives for them and what the loader reports of them."""

    features: np.ndarray
    ids: np.ndarray
    modalities: np.ndarray
    pixels: np.ndarray  # [N, 2], width and height of the files
    paths: tuple[str, ...]
    num_query: int
    changed = replace

    def batches(self, size=7):
        """(inputs, outputs) as an evaluator's ``process`` takes them."""
        for start in range(0, len(self.ids), size):
            part = slice(start, start + size)
            ids, kinds = torch.from_numpy(self.ids[part]), torch.from_numpy(self.modalities[part])
            metres = torch.from_numpy(ship_metres(*self.pixels[part].T, self.modalities[part])).float()
            inputs = {"targets": ids, "camids": kinds, "modalities": kinds, "metres": metres}
            yield {**inputs, "img_paths": list(self.paths[part])}, torch.from_numpy(self.features[part])

    def evaluator(self, output_dir=None, dataset=None, split="test", **settings):
        return FusionReidEvaluator(self.num_query, EvalSettings(**settings), output_dir, dataset, split)

    def run(self, evaluator, size=7):
        """What the evaluator makes of the split."""
        evaluator.reset()
        for inputs, outputs in self.batches(size):
            evaluator.process(inputs, outputs)
        return evaluator.evaluate()

    def rows(self, query, gallery):
        """Row numbers of the queries and the gallery of the given modalities (None: both)."""
        parts = np.split(np.arange(len(self.ids)), [self.num_query])
        pairs = zip(parts, (query, gallery), strict=True)
        return tuple(rows if kind is None else rows[self.modalities[rows] == kind] for rows, kind in pairs)

    def parts(self, query, gallery):
        """Features of the queries and the gallery of two modalities, then their identities."""
        rows = self.rows(query, gallery)
        return *(self.features[part] for part in rows), *(self.ids[part] for part in rows)


@pytest.fixture
def split():
    """Of 12 ships an optical and a SAR query and one to three gallery chips of each modality; 6 distractors."""
    rng, identities, width = np.random.default_rng(0), 12, 16
    centres = rng.standard_normal((identities, width))
    shift = 0.8 * rng.standard_normal((2, width))
    chips = [
        (pid, kind, f"{part}/{pid:04d}_{part[0]}{k}")
        for part in ("query", "bounding_box_test")
        for pid in range(identities)
        for kind in (0, 1)
        for k in range(1 if part == "query" else 1 + (pid + kind) % 3)
    ]
    chips += [(-1, k % 2, f"bounding_box_test/-1_{k}") for k in range(6)]
    paths = tuple(f"/data/HOSS/{name}_{('RGB', 'SAR')[kind]}.tif" for _, kind, name in chips)
    ids, kinds = (np.array([chip[column] for chip in chips]) for column in (0, 1))
    noise = rng.standard_normal((len(ids), width))
    features = np.where(ids[:, None] < 0, 0, centres[ids]) + shift[kinds] + noise
    # Sizes differ by 3 % within an identity and by 30 % between identities.
    metres = np.exp(rng.normal([4.0, 5.5], 0.3, (identities + 1, 2)))[ids] * np.exp(rng.normal(0, 0.03, (len(ids), 2)))
    pixels = np.maximum(1, np.round(metres / np.where(kinds == 0, 0.75, 1.0)[:, None])).astype(int)
    return Split(features.astype(np.float32), ids, kinds, pixels, paths, 2 * identities)
