"""A small test split as arrays, its batches, and one thread for linear algebra."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from fastreid_mos.evaluation import EvalSettings, FusionReidEvaluator, GeneratedChips


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
    metres: np.ndarray
    paths: tuple[str, ...]
    num_query: int
    changed = replace

    def batches(self, size=7):
        """(inputs, outputs) as an evaluator's ``process`` takes them."""
        arrays = {"targets": self.ids, "camids": self.modalities, "modalities": self.modalities, "metres": self.metres}
        for start in range(0, len(self.ids), size):
            part = slice(start, start + size)
            inputs = {name: torch.from_numpy(values[part]) for name, values in arrays.items()}
            yield {**inputs, "img_paths": list(self.paths[part])}, torch.from_numpy(self.features[part])

    def evaluator(self, output_dir=None, dataset=None, split="test", fused=None, ensemble=None, **settings):
        parts = (output_dir, dataset, split, fused, ensemble)
        return FusionReidEvaluator(self.num_query, EvalSettings(**settings), *parts)

    def run(self, evaluator, size=7):
        evaluator.reset()
        for inputs, outputs in self.batches(size):
            evaluator.process(inputs, outputs)
        return evaluator.evaluate()

    def rows(self, protocol, dealt=None):
        """Row numbers of the queries and the gallery of ALL, O2S, S2O or O2O; ``dealt`` in place of the split's own."""
        dealt = dealt or np.split(np.arange(len(self.ids)), [self.num_query])
        kinds = ({"O": 0, "S": 1}.get(letter) for letter in (protocol[0], protocol[2]))
        pairs = zip(dealt, kinds, strict=True)
        return [rows if kind is None else rows[self.modalities[rows] == kind] for rows, kind in pairs]

    def parts(self, protocol, dealt=None):
        """Features of the queries and the gallery of a protocol, then their identities."""
        rows = self.rows(protocol, dealt)
        return *(self.features[part] for part in rows), *(self.ids[part] for part in rows)


@pytest.fixture
def split():
    """Of 12 ships an optical and a SAR query and one to three gallery chips of each modality; 6 distractors."""
    rng, identities, width = np.random.default_rng(0), 12, 16
    centres = rng.standard_normal((identities, width))
    shift = 0.8 * rng.standard_normal((2, width))
    pairs = [(pid, kind) for pid in range(identities) for kind in (0, 1)]
    chips = [(pid, kind, f"query/{pid:04d}_q0") for pid, kind in pairs]
    chips += [(*pair, f"bounding_box_test/{pair[0]:04d}_b{k}") for pair in pairs for k in range(1 + sum(pair) % 3)]
    chips += [(-1, k % 2, f"bounding_box_test/-1_{k}") for k in range(6)]
    paths = tuple(f"/data/HOSS/{name}_{('RGB', 'SAR')[kind]}.tif" for _, kind, name in chips)
    ids, kinds = (np.array([chip[column] for chip in chips]) for column in (0, 1))
    features = np.where(ids[:, None] < 0, 0, centres[ids]) + shift[kinds] + rng.standard_normal((len(ids), width))
    # Sizes differ by 3 % within an identity and by 30 % between identities.
    metres = np.exp(rng.normal([4.0, 5.5], 0.3, (identities + 1, 2)))[ids] * np.exp(rng.normal(0, 0.03, (len(ids), 2)))
    return Split(features.astype(np.float32), ids, kinds, metres, paths, 2 * identities)


@pytest.fixture
def generated(split):
    """Of each optical chip but the first three features: the ship's mean SAR feature and noise."""
    owner, sar = np.repeat(np.flatnonzero(split.modalities == 0)[1:], 3), split.modalities == 1
    means = np.stack([split.features[sar & (split.ids == pid)].mean(axis=0) for pid in split.ids[owner]])
    features = means + np.random.default_rng(1).standard_normal(means.shape)
    return GeneratedChips(features.astype(np.float32), owner, np.tile(np.arange(3), len(owner) // 3))
