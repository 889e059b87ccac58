"""Optical and SAR images of the same place or ship, for pretraining: OptiSar_Pair and QXS-SAROPT."""

from __future__ import annotations

import os
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY

from .base import ShipDataset, find_root
from .listing import DISTRACTOR, Item, Parse, Skipped, list_chips, of_modality, parse_pair_name
from .modality import OPTICAL, SAR

PAIR_WANTED = (
    "Expected a folder OptiSar_Pair with one folder for each group, holding files *_<identity>_..._RGB.tif and "
    "*_<identity>_..._SAR.tif (or .png); set FASTREID_DATASETS to the folder that holds OptiSar_Pair"
)
QXS_WANTED = (
    "Expected a folder QXS-SAROPT with opt/<number>.png and sar/<number>.png, the same number for the same place; set "
    "FASTREID_DATASETS to the folder that holds QXS-SAROPT"
)


class PairDataset(ShipDataset):
    """Identities with both modalities, all of them for training."""

    def __init__(self, folder: str, items: list[Item], skipped: Skipped, **kwargs: Any) -> None:
        both = {pid for _, pid, _ in of_modality(items, OPTICAL)} & {pid for _, pid, _ in of_modality(items, SAR)}
        train = []
        for item in items:
            if item[1] == DISTRACTOR or item[1] not in both:
                skipped.add(item[0], "without a partner of the other modality")
            else:
                train.append(item)
        super().__init__(folder, train, [], [], skipped, **kwargs)

    @property
    def pairs(self) -> list[tuple[str, str, int]]:
        """(optical path, SAR path, identity); the chips of an identity are paired in the order of their names."""
        by_identity: dict[int, tuple[list[str], list[str]]] = {}
        for path, pid, modality in self.train:
            by_identity.setdefault(pid, ([], []))[modality].append(path)
        return [
            (optical[n % len(optical)], sar[n % len(sar)], pid)
            for pid, (optical, sar) in sorted(by_identity.items())
            for n in range(max(len(optical), len(sar)))
        ]


@DATASET_REGISTRY.register()
class OptiSarPair(PairDataset):
    """OptiSar_Pair, the pretraining pairs of TransOSS (Wang et al., ICCV 2025).

    On disk ``OptiSar_Pair/<group>/*_<identity>_..._RGB.tif`` and ``..._SAR.tif`` (or PNG): the identity is the second
    field, one numbering for all groups. Chips without a partner of the other modality are skipped and counted.

    Args:
        root: folder that holds ``OptiSar_Pair`` (or is it).

    Raises:
        DatasetError: no such folder.
    """

    dataset_name = "optisarpair"

    def __init__(self, root: str | os.PathLike[str] = "datasets", **kwargs: Any) -> None:
        folder = find_root(root, ("OptiSar_Pair",), (), PAIR_WANTED)
        skipped = Skipped()
        items: list[Item] = []
        for group in sorted(os.listdir(folder)):
            items += list_chips(os.path.join(folder, group), parse_pair_name, skipped)
        super().__init__(folder, items, skipped, **kwargs)


@DATASET_REGISTRY.register()
class QXSSAROPT(PairDataset):
    """QXS-SAROPT: 20,000 pairs of optical and SAR patches of ports, 256 x 256 pixels (Huang et al., arXiv 2103.08259).

    On disk ``QXS-SAROPT/opt/<number>.png`` and ``sar/<number>.png``: the same number is the same place, taken as an
    identity here. Files without a partner are skipped and counted.

    Args:
        root: folder that holds ``QXS-SAROPT`` (or is it).

    Raises:
        DatasetError: no such folder.
    """

    dataset_name = "qxssaropt"

    def __init__(self, root: str | os.PathLike[str] = "datasets", **kwargs: Any) -> None:
        folder = find_root(root, ("QXS-SAROPT", "QXS_SAROPT"), ("opt", "sar"), QXS_WANTED)
        skipped = Skipped()
        items = [
            *list_chips(os.path.join(folder, "opt"), _numbered(OPTICAL), skipped),
            *list_chips(os.path.join(folder, "sar"), _numbered(SAR), skipped),
        ]
        super().__init__(folder, items, skipped, **kwargs)


def _numbered(modality: int) -> Parse:
    def parse(stem: str) -> tuple[int, int] | str:
        if not (stem.isascii() and stem.isdigit()):
            return "named other than by a number"
        return int(stem), modality

    return parse
