"""Test protocols: which chips are the queries and the gallery of each, and how they are ranked.

Queries are chips of ``query/``, the gallery chips of ``bounding_box_test/``, in every protocol, those of one modality
(O2O, S2S) included: other queries are no gallery.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.listing import Skipped, list_chips, same_file
from ..errors import shown
from .chips import Chips
from .ranking import Ints, RankResult, normalized, rank_features, rank_metrics
from .reranking import expand_queries, rerank
from .settings import MODALITIES, EvalSettings

logger = logging.getLogger("fastreid_mos.evaluation")


@dataclass(frozen=True)
class Protocol:
    """A protocol's rows of the chips."""

    name: str
    query: Ints
    gallery: Ints
    own: Ints  # [Q] index in ``gallery`` of each query's own file, which is left out of its ranking; -1: none


def select_protocols(
    chips: Chips, wanted: Sequence[Sequence[str]], query: Ints, gallery: Ints, root: str | None = None
) -> tuple[list[Protocol], dict[str, str]]:
    """The protocols that the chips allow, and by name the reason for each that is left out.

    A data set with ``subset/<name>/query`` and ``subset/<name>/bounding_box_test`` in ``root`` lists there which of its
    chips a protocol has, by file name. A protocol between chips of one modality leaves a query's own file (the same
    file, or a byte-for-byte copy under the same name) out of its ranking; elsewhere nothing is removed, as in the
    papers. Left out is what has no query, no gallery, or the very chips of a protocol with narrower modalities (``ALL``
    on a data set that is Optical-to-SAR already).
    """
    found: list[tuple[Protocol, int]] = []
    left_out: dict[str, str] = {}
    for name, left, right in wanted:
        listed = _subset(chips, name, (query, gallery), root) if root is not None else None
        queries, others = (
            rows if modality == "all" else rows[chips.modalities[rows] == MODALITIES[modality]]
            for rows, modality in zip(listed or (query, gallery), (left, right), strict=True)
        )
        if not len(queries) or not len(others):
            modality, kind = (right, "gallery") if len(queries) else (left, "query")
            left_out[name] = f"no {'' if modality == 'all' else modality + ' '}{kind} chips"
            continue
        own = _own_files(chips, queries, others)
        both = (left == "all") + (right == "all")
        if both:
            if count := int((own >= 0).sum()):
                logger.info(f"{name}: {count} queries have their own file in the gallery; nothing is removed")
            own[:] = -1
        found.append((Protocol(name, queries, others, own), both))
    for protocol, both in found:
        for other, narrower in found:
            pairs = (other.query, protocol.query), (other.gallery, protocol.gallery)
            if narrower < both and all(np.array_equal(*pair) for pair in pairs):
                left_out.setdefault(protocol.name, f"the same chips as {other.name}")
    return [protocol for protocol, _ in found if protocol.name not in left_out], left_out


def _own_files(chips: Chips, query: Ints, gallery: Ints) -> Ints:
    """``[Q]`` index in the gallery of each query's own file; -1: it is not there."""
    by_name: dict[str, list[int]] = {}
    for index, row in enumerate(gallery):
        by_name.setdefault(os.path.basename(chips.paths[row]), []).append(index)
    own = np.full(len(query), -1, np.int64)
    for number, row in enumerate(query):
        for index in by_name.get(os.path.basename(chips.paths[row]), ()):
            if same_file(chips.paths[row], chips.paths[gallery[index]]):
                own[number] = index
    return own


def _subset(chips: Chips, name: str, rows: tuple[Ints, Ints], root: str) -> tuple[Ints, Ints] | None:
    """Query and gallery rows that ``subset/<name>`` lists; None where there is no such folder or chips are missing."""
    folders = [os.path.join(root, "subset", name, part) for part in ("query", "bounding_box_test")]
    if not all(os.path.isdir(folder) for folder in folders):
        return None
    parts = []
    for folder, own in zip(folders, rows, strict=True):
        by_name = {os.path.basename(chips.paths[row]): row for row in own}
        # Any name: what a chip is, its own data set knows.
        listed = [os.path.basename(item[0]) for item in list_chips(folder, lambda stem: (0, 0), Skipped())]
        if missing := [file for file in listed if file not in by_name]:
            logger.warning(
                f"{name}: {folder} lists {shown(missing[0])}, which was not tested, so it is made by modality; "
                f"DATASETS.TESTS HOSS_{name} tests that folder itself"
            )
            return None
        parts.append(np.array(sorted(by_name[file] for file in listed), np.int64))
    logger.info(f"{name}: {len(parts[0])} queries and {len(parts[1])} gallery chips, as subset/{name} lists them")
    return parts[0], parts[1]


def rank_protocol(
    chips: Chips, features: NDArray[Any], protocol: Protocol, settings: EvalSettings, *, top_k: int = 0
) -> RankResult:
    """Rank a protocol's queries in its gallery by ``features`` ``[N, D]`` of all chips, expanded and re-ranked as set.

    Without a query that has a match the figures are 0.
    """
    query, gallery = features[protocol.query], features[protocol.gallery]
    if settings.aqe is not None:
        query, gallery = expand_queries(query, gallery, *settings.aqe, block_mb=settings.block_mb)
    if settings.rerank is not None:
        if settings.metric == "cosine":
            query, gallery = normalized(query), normalized(gallery)
        distances = rerank(query, gallery, *settings.rerank)
        return rank_distances(chips, distances, protocol, settings, top_k=top_k)
    common = _common(chips, protocol, settings, top_k)
    return rank_features(query, gallery, metric=settings.metric, block_mb=settings.block_mb, **common)


def rank_distances(
    chips: Chips, distances: NDArray[Any], protocol: Protocol, settings: EvalSettings, *, top_k: int = 0
) -> RankResult:
    """As :func:`rank_protocol`, by distances ``[queries, gallery]``."""
    return rank_metrics(distances, **_common(chips, protocol, settings, top_k))


def _common(chips: Chips, protocol: Protocol, settings: EvalSettings, top_k: int) -> dict[str, Any]:
    common: dict[str, Any] = dict(
        query_ids=chips.ids[protocol.query], gallery_ids=chips.ids[protocol.gallery], exclude=protocol.own,
        max_rank=max(settings.cmc_ranks), top_k=top_k, allow_empty=True,
    )  # fmt: skip
    if settings.remove_same_camera:
        common |= dict(query_cams=chips.cameras[protocol.query], gallery_cams=chips.cameras[protocol.gallery])
    return common
