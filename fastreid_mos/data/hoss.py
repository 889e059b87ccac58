"""HOSS ReID: ships in optical and SAR chips, with three test protocols."""

from __future__ import annotations

import os
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY

from .base import ShipDataset, find_root
from .listing import DISTRACTOR, Item, Skipped, list_chips, of_modality, parse_hoss_name
from .modality import OPTICAL, SAR

TRAIN, QUERY, GALLERY, SUBSET = "bounding_box_train", "query", "bounding_box_test", "subset"
WANTED = (
    f"Expected {TRAIN}/, {QUERY}/ and {GALLERY}/ with files <identity>_..._RGB.tif and <identity>_..._SAR.tif in a "
    "folder HOSS; set FASTREID_DATASETS to the folder that holds HOSS. HOSS ReID is published on Zenodo, record "
    "15860212 (https://zenodo.org/records/15860212); tools/make_sim_hoss.py writes a simulated one"
)


@DATASET_REGISTRY.register()
class HOSS(ShipDataset):
    """HOSS ReID, all modalities to all (ALL).

    1,832 chips of 449 ships and 163 distractor ships; optical 8-bit RGB TIFF at about 0.75 m, SAR 32-bit float TIFF at
    about 1 m. Zenodo record 15860212. Citation: Wang et al., "Cross-modal Ship Re-Identification via Optical and SAR
    Imagery: A Novel Dataset and Method", ICCV 2025 (arXiv 2506.22027).

    On disk ``HOSS/bounding_box_train``, ``query`` and ``bounding_box_test``. A name is ``<identity>_..._RGB.tif`` or
    ``..._SAR.tif``, the identity being the integer before the first underscore; -1 is a distractor, which matches
    nothing and is not trained on. Files named otherwise are skipped and counted.

    Args:
        root: folder that holds ``HOSS`` (or is it); FASTREID_DATASETS as a rule.
        combineall: train on the test chips too.

    Raises:
        DatasetError: no such folder; the message says the layout and where the data set is published.
    """

    dataset_name = "hoss"
    modalities: tuple[int, int] | None = None

    def __init__(self, root: str | os.PathLike[str] = "datasets", combineall: bool = False, **kwargs: Any) -> None:
        folder = find_root(root, ("HOSS",), (TRAIN, QUERY, GALLERY), WANTED)
        skipped = Skipped()
        train = []
        for item in list_chips(os.path.join(folder, TRAIN), parse_hoss_name, skipped):
            if item[1] == DISTRACTOR:
                skipped.add(item[0], "of identity -1 (a distractor) in the training split")
            else:
                train.append(item)
        query, gallery = self._test_chips(folder, skipped)
        super().__init__(folder, train, query, gallery, skipped, combineall, **kwargs)

    def _test_chips(self, folder: str, skipped: Skipped) -> tuple[list[Item], list[Item]]:
        if self.modalities is not None:
            own = os.path.join(folder, SUBSET, type(self).__name__.rpartition("_")[2])
            noted = Skipped()
            query = list_chips(os.path.join(own, QUERY), parse_hoss_name, noted)
            gallery = list_chips(os.path.join(own, GALLERY), parse_hoss_name, noted)
            if query and gallery:
                skipped.update(noted)
                return query, gallery
        query = list_chips(os.path.join(folder, QUERY), parse_hoss_name, skipped)
        gallery = list_chips(os.path.join(folder, GALLERY), parse_hoss_name, skipped)
        if self.modalities is not None:
            query, gallery = of_modality(query, self.modalities[0]), of_modality(gallery, self.modalities[1])
        return query, gallery


@DATASET_REGISTRY.register()
class HOSS_O2S(HOSS):
    """HOSS ReID, optical queries to a SAR gallery.

    ``subset/O2S`` where it is there, otherwise the optical chips of ``query`` and the SAR chips of
    ``bounding_box_test``. Training chips, arguments and errors as in :class:`HOSS`.
    """

    dataset_name = "hoss_o2s"
    modalities = (OPTICAL, SAR)


@DATASET_REGISTRY.register()
class HOSS_S2O(HOSS):
    """HOSS ReID, SAR queries to an optical gallery.

    ``subset/S2O`` where it is there, otherwise the SAR chips of ``query`` and the optical chips of
    ``bounding_box_test``. Training chips, arguments and errors as in :class:`HOSS`.
    """

    dataset_name = "hoss_s2o"
    modalities = (SAR, OPTICAL)
