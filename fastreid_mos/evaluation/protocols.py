"""Test protocols: which chips are the queries and the gallery of each, all from one pass over the chips.

Queries are chips of ``query/``, the gallery chips of ``bounding_box_test/``, in every protocol, those of one modality
(O2O, S2S) included: other queries are no gallery.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.listing import Skipped, list_chips, parse_hoss_name, same_file
from ..errors import shown
from .chips import Chips

Ints = NDArray[np.int64]
MODALITIES = {"optical": 0, "sar": 1}
logger = logging.getLogger("fastreid_mos.evaluation")


@dataclass(frozen=True)
class Protocol:
    """A protocol's rows.

    Attributes:
        name: such as ``O2S``.
        query, gallery: rows of the chips.
        own: ``[Q]`` place in ``gallery`` of each query's own file, which is left out of its ranking; -1: none.
    """

    name: str
    query: Ints
    gallery: Ints
    own: Ints

    def same_chips(self, other: Protocol) -> bool:
        """Whether both rank the same queries in the same gallery."""
        return np.array_equal(self.query, other.query) and np.array_equal(self.gallery, other.gallery)


def select_protocols(
    chips: Chips, wanted: Sequence[Sequence[str]], root: str | None = None
) -> tuple[list[Protocol], dict[str, str]]:
    """Rows of the protocols that the chips allow.

    A data set with ``subset/<name>/query`` and ``subset/<name>/bounding_box_test`` says itself which chips a protocol
    has: they are looked up by file name. A protocol between chips of one modality leaves a query's own file (the same
    file, or a byte-for-byte copy under the same name) out of its ranking; elsewhere nothing is removed, as in the
    papers.

    Args:
        chips: all test chips.
        wanted: (name, modality of the queries, modality of the gallery), a modality being ``all``, ``optical`` or
            ``sar``.
        root: folder of the data set, whose ``subset/<name>`` list chips of its test split; None: of no test split.

    Returns:
        The protocols, and by name the reason for each that is left out: no query, no gallery, or the very chips of a
        protocol with narrower modalities (``ALL`` on a data set that is Optical-to-SAR already).
    """
    rows = np.arange(len(chips))
    query, gallery = rows[: chips.num_query], rows[chips.num_query :]
    found: list[tuple[Protocol, int]] = []
    left_out: dict[str, str] = {}
    for name, left, right in wanted:
        listed = None if root is None else _subset(chips, name, root)
        protocol = Protocol(
            name,
            _of_modality(chips, query if listed is None else listed[0], left),
            _of_modality(chips, gallery if listed is None else listed[1], right),
            np.empty(0, np.int64),
        )
        if not len(protocol.query) or not len(protocol.gallery):
            kind = ("query", left) if not len(protocol.query) else ("gallery", right)
            left_out[name] = f"no {'' if kind[1] == 'all' else kind[1] + ' '}{kind[0]} chips"
            continue
        own = _own_files(chips, protocol)
        if left == "all" or right == "all":
            if (own >= 0).any():
                logger.info(
                    f"{name}: {int((own >= 0).sum())} queries have their own file in the gallery; nothing is removed"
                )
            own = np.full(len(own), -1)
        found.append((Protocol(name, protocol.query, protocol.gallery, own), (left == "all") + (right == "all")))
    kept = []
    for protocol, width in found:
        twins = [other.name for other, narrow in found if narrow < width and other.same_chips(protocol)]
        if twins:
            left_out[protocol.name] = f"the same chips as {twins[0]}"
        else:
            kept.append(protocol)
    return kept, left_out


def _of_modality(chips: Chips, rows: Ints, modality: str) -> Ints:
    return rows if modality == "all" else rows[chips.modalities[rows] == MODALITIES[modality]]


def _own_files(chips: Chips, protocol: Protocol) -> Ints:
    own = np.full(len(protocol.query), -1, np.int64)
    places: dict[str, list[int]] = {}
    for place, row in enumerate(protocol.gallery):
        places.setdefault(os.path.basename(chips.paths[row]), []).append(place)
    for number, row in enumerate(protocol.query):
        path = chips.paths[row]
        for place in places.get(os.path.basename(path), ()):
            if same_file(path, chips.paths[protocol.gallery[place]]):
                own[number] = place
    return own


def _subset(chips: Chips, name: str, root: str) -> tuple[Ints, Ints] | None:
    """Query and gallery rows that ``subset/<name>`` lists; None where there is no such folder or chips are missing."""
    folders = [os.path.join(root, "subset", name, part) for part in ("query", "bounding_box_test")]
    if not all(os.path.isdir(folder) for folder in folders):
        return None
    parts = []
    rows = np.arange(len(chips))
    for folder, own in zip(folders, (rows[: chips.num_query], rows[chips.num_query :]), strict=True):
        by_name = {os.path.basename(chips.paths[row]): row for row in own}
        listed = [os.path.basename(item[0]) for item in list_chips(folder, parse_hoss_name, Skipped())]
        missing = [file for file in listed if file not in by_name]
        if missing:
            logger.warning(
                f"{name}: {len(missing)} chips of {folder} were not among those tested ({shown(missing[0])} first), so "
                f"the protocol is made by modality instead; DATASETS.TESTS HOSS_{name} tests that folder itself"
            )
            return None
        parts.append(np.array(sorted(by_name[file] for file in listed), np.int64))
    logger.info(f"{name}: {len(parts[0])} queries and {len(parts[1])} gallery chips, as subset/{name} lists them")
    return parts[0], parts[1]
