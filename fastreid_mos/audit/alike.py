"""Chips that show the same picture: a fingerprint by cosine transform, as pHash has it, and finding equal ones.

pHash keeps the signs of the low frequencies. Of chips, upright ships all, these signs agree too often: two passes of a
ship differ in 43 of 256, a chip and its JPEG of quality 50 in up to 48. So the coefficients themselves are kept, and
their cosine decides. A flip changes the sign of odd ones, a quarter turn transposes them: the eight ways to lay a
picture cost no further transform, which imagehash would need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

SIDE, _KEPT = 32, 16
# Cosine from which two pictures are one. The nearest of two ships among 112 real and 1,530 simulated chips: 0.950, of
# one ship at two times 0.978. JPEG of quality 20 to 90, half the size, a wash of light or noise, turned or not: 98 % of
# 550 such copies are above 0.99, 99.6 % above 0.98. benchmarks/check_rules.py measures it.
ALIKE = 0.98
_ALL, _BITS, _TABLES, _SIDEWAYS, _BLOCK = 5000, 20, 16, 32, 2**16
Ints = NDArray[np.int64]


def fingerprint(grey: NDArray[Any]) -> NDArray[np.float16]:
    """``[256]``, of length 1: 16 x 16 low frequencies, without the mean, of ``[height, width]``; 0 if flat."""
    image = Image.fromarray(np.ascontiguousarray(grey, np.float32))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    found = dctn(small, norm="ortho")[:_KEPT, :_KEPT]
    found[0, 0] = 0
    length = np.linalg.norm(found)
    return (found / length if length > 1e-3 else found * 0).astype(np.float16).ravel()


def _laid(prints: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The fingerprints ``[N, 256]`` of the eight ways to lay each picture."""
    square = prints.reshape(-1, _KEPT, _KEPT)
    odd = (-1.0) ** np.arange(_KEPT, dtype=np.float32)
    for way in (square, square.transpose(0, 2, 1)):
        for down in (1, odd[:, None]):
            for across in (1, odd):
                yield (way * down * across).reshape(prints.shape)


def alike(prints: NDArray[np.float16], least: float = ALIKE) -> tuple[Ints, NDArray[np.float32]]:
    """Pairs ``[P, 2]``, lower index first, of fingerprints ``[N, 256]`` that are one picture, and their cosines.

    Up to 5,000 all pairs are looked at. Beyond, those that share 20 bits in one of 16 tables: sides of random planes
    through the mean, the same at every call, which misses 7 % of pairs with a cosine of just 0.98 and 1 % at 0.99. Each
    is compared with 64 others of its 20 bits at most, so time and memory grow with N, not with its square.
    """
    base = prints.astype(np.float32).reshape(-1, _KEPT**2)
    look = _all_pairs if len(base) <= _ALL else _sharing_bits
    parts = [(np.sort(np.stack(pair, axis=1), axis=1), cosines) for *pair, cosines in look(base, least)]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(pair for pair, _ in parts)])
    cosines = np.concatenate([np.empty(0, np.float32), *(cosine for _, cosine in parts)])
    order = np.lexsort((-cosines, pairs[:, 1], pairs[:, 0]))
    pairs, cosines = pairs[order], cosines[order]
    first = np.diff(pairs, axis=0, prepend=-1).any(axis=1)
    return pairs[first], cosines[first]


def _all_pairs(base: NDArray[np.float32], least: float) -> Iterator[tuple[Ints, Ints, NDArray[np.float32]]]:
    for way in _laid(base):
        for start in range(0, len(base), 512):
            cosines = way[start : start + 512] @ base.T
            rows, others = np.nonzero(cosines >= least)
            apart = rows + start != others
            yield rows[apart] + start, others[apart], cosines[rows[apart], others[apart]]


def _sharing_bits(base: NDArray[np.float32], least: float) -> Iterator[tuple[Ints, Ints, NDArray[np.float32]]]:
    planes = np.random.default_rng(0).standard_normal((base.shape[1], _BITS * _TABLES), np.float32)
    mean = base.mean(axis=0)
    own = [(keys[order], order) for keys in _keys(base - mean, planes) for order in [np.argsort(keys, kind="stable")]]
    for way in _laid(base):
        for table, keys in zip(own, _keys(way - mean, planes), strict=True):
            for rows, others in _neighbours(keys, *table):
                for start in range(0, len(rows), _BLOCK):
                    one, other = rows[start : start + _BLOCK], others[start : start + _BLOCK]
                    cosines = np.einsum("nd,nd->n", way[one], base[other])
                    near = cosines >= least
                    yield one[near], other[near], cosines[near]


def _keys(vectors: NDArray[np.float32], planes: NDArray[np.float32]) -> Iterator[Ints]:
    """For each table the bits of its own planes and, behind them, of the next table's."""
    tables = [
        ((vectors @ planes[:, start : start + _BITS]) > 0) @ (1 << np.arange(_BITS))
        for start in range(0, planes.shape[1], _BITS)
    ]
    for number, keys in enumerate(tables):
        yield keys << _BITS | tables[(number + 1) % _TABLES]


def _neighbours(keys: Ints, own: Ints, order: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Rows of ``keys`` and rows of the sorted ``own`` (numbered by ``order``) that share a table's bits."""
    place = np.searchsorted(own, keys)
    for step in (1, -1):
        rows = np.arange(len(keys))
        for distance in range(_SIDEWAYS):
            at = place[rows] + (distance if step > 0 else -1 - distance)
            inside = (at >= 0) & (at < len(own))
            rows, at = rows[inside], at[inside]
            same = own[at] >> _BITS == keys[rows] >> _BITS
            rows, at = rows[same], at[same]
            if not len(rows):
                break
            other = order[at]
            yield rows[rows != other], other[rows != other]
