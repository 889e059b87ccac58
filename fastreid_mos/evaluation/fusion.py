"""Feature fusion of CDGF: optical features pulled towards those of SAR chips generated from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import as_features, as_vector


def fuse_features(features: Any, synthetic: Any, owner: Any, alpha: float) -> NDArray[np.float32]:
    """f' = normalize((1 - alpha) f + alpha mean_k normalize(g_k)) for rows that own synthetic ones (MOS, section CDGF).

    Args:
        features: ``[N, D]``, normalized here first; torch or NumPy.
        synthetic: ``[M, D]`` features of generated chips, any number of them for a row; none: ``[0, D]``.
        owner: ``[M]``, the row of ``features`` that each synthetic row was generated from.
        alpha: weight of the generated ones, 0..1; the paper's is 0.02.

    Returns:
        ``[N, D]`` float32, normalized; rows without synthetic ones are only normalized.

    Raises:
        MOSError: shapes that do not fit, features that are not finite, an owner that is no row, alpha out of range.
    """
    own, made = as_features(features, "features"), as_features(synthetic, "synthetic")
    owners = as_vector(owner, len(made), "owner")
    if own.shape[1] != made.shape[1]:
        raise MOSError(f"synthetic: {made.shape[1]} dimensions, but features have {own.shape[1]}")
    if not 0 <= alpha <= 1:
        raise MOSError(f"alpha: 0..1, got {alpha}")
    if len(owners) and not (0 <= owners.min() and owners.max() < len(own)):
        raise MOSError(f"owner: rows 0..{len(own) - 1} are needed, got {owners.min()}..{owners.max()}")
    fused = normalized(own)
    total = np.zeros(fused.shape)
    np.add.at(total, owners, normalized(made))
    counts = np.bincount(owners, minlength=len(own))
    rows = counts > 0
    mixed = (1 - alpha) * fused[rows] + alpha * total[rows] / counts[rows, None]
    fused[rows] = normalized(mixed)
    return fused.astype(np.float32)


def normalized(features: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of length 1, in double precision; a row of zeros stays one."""
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows
