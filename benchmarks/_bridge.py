"""What the benchmarks of the bridge share: features of chips, and how far generated SAR chips are from real ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import linalg
from skimage.metrics import structural_similarity

Floats = NDArray[np.floating[Any]]
# Principal components in which the Frechet distance is measured: covariances of all of the features would need more
# chips than there are.
COMPONENTS = 32
# Modality of the queries and of the gallery; None: either.
PROTOCOLS = {"ALL": (None, None), "O2S": (0, 1), "S2O": (1, 0)}


@dataclass
class Chips:
    """Chips of one modality.

    Attributes:
        paths: their files.
        ids: ``[N]`` identities, no distractor.
        sizes: ``[N, 2]`` width and height in pixels.
        metres: ``[N, 2]`` width and height in metres.
        features: ``[N, D]``, normalized.
    """

    paths: list[str]
    ids: NDArray[np.int64]
    sizes: list[tuple[int, int]]
    metres: Floats
    features: Floats


class Reidentifier:
    """A trained run of ``tools/train_net.py``, to take features with.

    Args:
        run: its folder.
        data: the folder that holds HOSS/.
    """

    def __init__(self, run: Path, data: Path) -> None:
        from fastreid.evaluation import inference_on_dataset

        import fastreid_mos
        from fastreid_mos.engine import MOSTrainer
        from fastreid_mos.modeling import load_reid_weights

        os.environ["FASTREID_DATASETS"] = str(data)
        self.cfg = fastreid_mos.load_cfg(str(run / "config.yaml"), ["MODEL.BACKBONE.PRETRAIN", "False"])
        self.model = MOSTrainer.build_model(self.cfg)
        load_reid_weights(self.model, str(run / "model_final.pth"))
        self._infer = lambda loader, taker: inference_on_dataset(
            self.model, loader, taker, flip_test=self.cfg.TEST.FLIP.ENABLED
        )

    def chips(self, items: Sequence[tuple[str, int, int]]) -> Chips:
        """Features of real chips (path, identity, modality)."""
        from fastreid_mos.data import read_chip
        from fastreid_mos.data.build import build_test_loader
        from fastreid_mos.evaluation.chips import ChipPass

        taker = ChipPass()  # queries and gallery are told apart later
        self._infer(build_test_loader(self.cfg, items), taker)
        assert taker.chips is not None
        paths = [item[0] for item in items]
        sizes = [read_chip(path, item[2]).size for path, item in zip(paths, items, strict=True)]
        return Chips(
            paths, np.array([item[1] for item in items]), sizes, taker.chips.metres, normalized(taker.chips.features)
        )

    def generated(self, files: Sequence[tuple[str, tuple[int, int]]]) -> Floats:
        """Features of generated SAR chips: file, and size of the optical chip that it was made from."""
        from fastreid_mos.data import SAR
        from fastreid_mos.data.build import build_generated_loader
        from fastreid_mos.evaluation.chips import ChipPass

        taker = ChipPass(expected=len(files))
        self._infer(build_generated_loader(self.cfg, list(files), SAR), taker)
        assert taker.chips is not None
        return normalized(taker.chips.features)


def normalized(features: Floats) -> Floats:
    """Rows of length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def rank(query: Floats, query_ids: Any, gallery: Floats, gallery_ids: Any, metric: str = "cosine") -> Any:
    """Ranking of a gallery by each query."""
    from fastreid_mos.evaluation import rank_features

    return rank_features(query, gallery, query_ids=query_ids, gallery_ids=gallery_ids, metric=metric, max_rank=10)


def interval(values: Any, ships: Any, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval over ships of a mean over queries."""
    from fastreid_mos.evaluation.figures import bootstrap_intervals

    low, high = bootstrap_intervals(np.asarray(values, float)[:, None], np.asarray(ships), 1000, seed)[0]
    return float(low), float(high)


def ranking_cells(result: Any, ids: Any) -> list[str]:
    """mAP and Rank-1 with intervals."""
    ap, hit = 100 * result.ap[result.valid], 100.0 * (result.first_rank[result.valid] <= 1)
    cells = []
    for values in (ap, hit):
        low, high = interval(values, ids[result.valid])
        cells.append(f"{values.mean():.1f} [{low:.0f}, {high:.0f}]")
    return cells


def floors(metres: Floats, ids: Any, gallery_metres: Floats, gallery_ids: Any) -> list[list[str]]:
    """Rows (name, mAP, Rank-1) of queries by the ships' sizes alone, and of a random order."""
    from fastreid_mos.evaluation.figures import random_metrics

    sized = rank(np.log(metres), ids, np.log(gallery_metres), gallery_ids, "euclidean")
    matches = (ids[:, None] == gallery_ids).sum(axis=1)
    matches = matches[matches > 0]
    drawn = random_metrics(matches, np.full_like(matches, len(gallery_ids)), [1], 100)
    chance = [f"{100 * drawn[name].mean():.1f}" for name in ("mAP", "Rank-1")]
    return [["size-only", *ranking_cells(sized, ids)], ["random", *chance]]


def frechet(first: Floats, second: Floats) -> float:
    """Frechet distance of two sets of features as normal distributions (Heusel et al., NeurIPS 2017, equation 6).

    Args:
        first, second: ``[N, D]``, D well below N.
    """
    root = linalg.sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False))
    spread = np.trace(np.cov(first, rowvar=False)) + np.trace(np.cov(second, rowvar=False)) - 2 * np.trace(root.real)
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + spread)


def principal_axes(features: Floats, count: int = COMPONENTS) -> tuple[Floats, Floats]:
    """Mean and first principal axes of features."""
    mean = features.mean(0)
    return mean, np.linalg.svd(features - mean, full_matrices=False)[2][:count]


def picture_distances(made: Sequence[NDArray[np.uint8]], real: Sequence[NDArray[np.uint8]]) -> tuple[float, float]:
    """Mean SSIM (Wang et al., 2004, 7 x 7 windows) and PSNR in dB of pairs of grey images of one size."""
    ssim = [structural_similarity(one, other, data_range=255) for one, other in zip(made, real, strict=True)]
    errors = [((one.astype(float) - other.astype(float)) ** 2).mean() for one, other in zip(made, real, strict=True)]
    return float(np.mean(ssim)), float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-12))))


def grey(path: str) -> NDArray[np.uint8]:
    """A generated SAR chip."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))
