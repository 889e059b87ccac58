"""The data sets of optical and SAR ship chips, in fast-reid's registry, and opening them by name."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from tabulate import tabulate

from ..errors import DatasetError, MOSError, one_line
from .listing import (
    DISTRACTOR,
    Item,
    Parse,
    Skipped,
    as_numbers,
    count_chips,
    list_chips,
    of_modality,
    parse_hoss_name,
    parse_pair_name,
    refuse_unwritable,
    same_file,
)
from .modality import MODALITY_NAMES, OPTICAL, SAR, Modality
from .reader import ChipReader

logger = logging.getLogger("fastreid_mos.data")


def dataset_root() -> str:
    """The folder that holds the data sets, absolute: FASTREID_DATASETS (``~`` is the home), or ``datasets``."""
    return os.path.abspath(os.path.expanduser(os.environ.get("FASTREID_DATASETS") or "datasets"))


class ShipDataset(ImageDataset):
    """A data set of chips in fast-reid's form; ``train``, ``query`` and ``gallery`` hold (path, identity, modality)."""

    _junk_pids = [DISTRACTOR]

    def __init__(
        self, root: str, train: list[Item], query: list[Item], gallery: list[Item], skipped: Skipped, **kwargs: Any
    ) -> None:
        refuse_unwritable(train, query, gallery)
        self.root = root
        self.skipped = skipped
        # Counted before fast-reid may add the test chips to the training ones.
        self._counts = {"train": count_chips(train), "query": count_chips(query), "gallery": count_chips(gallery)}
        self._shared = len({item[1] for item in train} & {item[1] for item in [*query, *gallery]})
        super().__init__(train, query, gallery, **kwargs)

    def show_train(self) -> None:
        """Log what the training split holds, what was skipped and why."""
        name, counts = type(self).__name__, count_chips(self.train)
        logger.info(f"{name} in {self.root}, training:\n{_table({'train': counts})}\n{self.skipped}")
        if self.train and not counts["identities with both"]:
            logger.warning(f"{name}: no training identity has both modalities; CMAL has nothing to align")
        if self.combineall:
            logger.info(f"{name}: COMBINEALL is on, the test chips are trained on too")
        elif self._shared:
            what = f"{self._shared} identities are both in the training and in the test split"
            logger.warning(f"{name}: {what}; results on them say nothing about unseen ships")

    def show_test(self) -> None:
        """Log what the query and gallery splits hold, and whether a query's own file is in its gallery."""
        name, counts = type(self).__name__, {split: self._counts[split] for split in ("query", "gallery")}
        logger.info(f"{name} in {self.root}, test:\n{_table(counts)}\n{self.skipped}")
        gallery = {os.path.basename(path): path for path, _, _ in self.gallery}
        own = [path for path, _, _ in self.query if same_file(path, gallery.get(os.path.basename(path), ""))]
        if own:
            what = f"{len(own)} query chips are in the gallery too, such as {own[0]}"
            logger.warning(f"{name}: {what}; a protocol of all modalities (ALL) counts each as its own match")

    def summary(self) -> dict[str, int]:
        """Counts: chips by split, identities, distractors, skipped files."""
        train, query, gallery = self._counts.values()
        return {
            "train": train["chips"], "training identities": train["identities"],
            "with both modalities": train["identities with both"], "query": query["chips"],
            "gallery": gallery["chips"], "distractors": gallery["distractors"], "skipped": len(self.skipped),
        }  # fmt: skip

    def plot(self, items: Sequence[Item] | None = None, columns: int = 8) -> Any:
        """A matplotlib figure of chips as a network sees them (SAR stretched), ``columns`` in a row.

        ``items`` are (path, identity, modality), by default the first 16 of training, or of the query without one.

        Raises:
            ChipError: a chip that cannot be read.
            DatasetError: nothing to draw.
        """
        from matplotlib.figure import Figure

        chosen = list(items) if items is not None else list(self.train or self.query)[:16]
        if not chosen:
            raise DatasetError(f"{self.root}: no chips to draw")
        reader, rows = ChipReader(), -(-len(chosen) // columns)
        figure = Figure(figsize=(1.2 * columns, 2.4 * rows), layout="constrained")
        for number, (path, pid, modality) in enumerate(chosen, 1):
            axis = figure.add_subplot(rows, columns, number)
            axis.axis("off")
            axis.imshow(reader(path, modality).image)
            axis.set_title(f"{pid} {MODALITY_NAMES[modality]}", fontsize=8)
        return figure


def _table(counts: dict[str, dict[str, int]]) -> str:
    rows = [{"split": split, **numbers} for split, numbers in counts.items()]
    return str(tabulate(rows, headers="keys", tablefmt="pipe", numalign="left"))


def _find_root(root: str | os.PathLike[str], names: Sequence[str], inside: Sequence[str], form: str) -> str:
    """A data set's folder, absolute: ``root/<name>`` or ``root``, told by one of ``inside`` in it or by its name."""
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    for folder in (*(os.path.join(root, name) for name in names), root):
        try:
            parts = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from None
        if set(inside) & set(parts) or (not inside and os.path.basename(folder) in names):
            return folder
    where = os.path.join(root, names[0])
    raise DatasetError(
        f"{where}: not found. Expected {form}; set FASTREID_DATASETS to the folder that holds {names[0]}, or "
        "other DATASETS.NAMES and DATASETS.TESTS"
    )


@DATASET_REGISTRY.register()
class HOSS(ShipDataset):
    """HOSS ReID, all modalities to all (ALL): ships in optical and SAR satellite chips.

    1,832 chips of 449 ships and 163 distractor ships; optical 8-bit RGB TIFF at about 0.75 m a pixel, SAR 32-bit float
    TIFF at about 1 m.

    Format on disk, in a folder ``HOSS``:

    * ``bounding_box_train/``, ``query/``, ``bounding_box_test/`` (the gallery) with chips of both modalities
    * names ``<identity>_..._RGB.tif`` and ``<identity>_..._SAR.tif``; what is named otherwise is skipped and counted
    * identity -1 is a distractor, which matches nothing and is not trained on
    * optionally ``subset/O2S/`` and ``subset/S2O/``, each with ``query/`` and ``bounding_box_test/``

    Published on Zenodo, record 15860212 (https://zenodo.org/records/15860212); ``tools/make_sim_hoss.py`` writes
    simulated ships in this form. Licence: MIT for the sample that the authors published with their paper under review;
    for the whole see the record. If you use it, please cite Wang et al., "Cross-modal Ship Re-Identification via
    Optical and SAR Imagery: A Novel Dataset and Method", ICCV 2025 (arXiv 2506.22027).

    Args:
        root: folder that holds ``HOSS`` (or is it); FASTREID_DATASETS as a rule.
        kwargs: fast-reid's; ``combineall``: train on the test chips too.

    Raises:
        DatasetError: no such folder; the message gives the layout and where the data set is published.
    """

    modalities: tuple[Modality, Modality] | None = None

    def __init__(self, root: str | os.PathLike[str] = "datasets", **kwargs: Any) -> None:
        splits = ("bounding_box_train", "query", "bounding_box_test")
        form = (
            "bounding_box_train/, query/ and bounding_box_test/ with files <identity>_..._RGB.tif and "
            "<identity>_..._SAR.tif. HOSS ReID is published on Zenodo, record 15860212 "
            "(https://zenodo.org/records/15860212); tools/make_sim_hoss.py writes a simulated one"
        )
        folder = _find_root(root, ("HOSS",), splits, form)
        skipped = Skipped()
        listed, query, gallery = (list_chips(os.path.join(folder, part), parse_hoss_name, skipped) for part in splits)
        for path, pid, _ in listed:
            if pid == DISTRACTOR:
                skipped.add(path, "of identity -1 (a distractor) in the training split")
        if self.modalities is not None:
            query, gallery = of_modality(query, self.modalities[0]), of_modality(gallery, self.modalities[1])
            subset = os.path.join(folder, "subset", type(self).__name__.rpartition("_")[2])
            own = [list_chips(os.path.join(subset, part), parse_hoss_name, skipped) for part in splits[1:]]
            if all(own):
                query, gallery = own
        super().__init__(folder, [item for item in listed if item[1] != DISTRACTOR], query, gallery, skipped, **kwargs)


@DATASET_REGISTRY.register()
class HOSS_O2S(HOSS):
    """HOSS ReID, optical queries to a SAR gallery; training chips, arguments and errors as in :class:`HOSS`.

    ``subset/O2S`` where it exists, else the optical chips of ``query`` and the SAR ones of ``bounding_box_test``.
    """

    modalities = (OPTICAL, SAR)


@DATASET_REGISTRY.register()
class HOSS_S2O(HOSS):
    """HOSS ReID, SAR queries to an optical gallery: :class:`HOSS_O2S` the other way round."""

    modalities = (SAR, OPTICAL)


class PairDataset(ShipDataset):
    """Identities with both modalities, all of them for training."""

    def __init__(self, folder: str, items: list[Item], skipped: Skipped, **kwargs: Any) -> None:
        both = {pid for _, pid, _ in of_modality(items, OPTICAL)} & {pid for _, pid, _ in of_modality(items, SAR)}
        both.discard(DISTRACTOR)
        for path, pid, _ in items:
            if pid not in both:
                skipped.add(path, "without a partner of the other modality")
        super().__init__(folder, [item for item in items if item[1] in both], [], [], skipped, **kwargs)

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
    """OptiSar_Pair, the pretraining pairs of TransOSS: optical and SAR images of the same ship.

    Format on disk, in a folder ``OptiSar_Pair``:

    * one folder for each group, with files ``*_<identity>_..._RGB.tif`` and ``*_<identity>_..._SAR.tif`` (or PNG)
    * the identity is the second field, one numbering for all groups
    * chips without a partner of the other modality are skipped and counted

    Published by the authors of HOSS ReID beside it; for its licence ask them. If you use it, please cite Wang et
    al., ICCV 2025 (arXiv 2506.22027). ``root`` holds ``OptiSar_Pair`` (or is it).

    Raises:
        DatasetError: no such folder.
    """

    def __init__(self, root: str | os.PathLike[str] = "datasets", **kwargs: Any) -> None:
        form = "one folder for each group, with files *_<identity>_..._RGB.tif and *_<identity>_..._SAR.tif (or .png)"
        folder = _find_root(root, ("OptiSar_Pair",), (), form)
        skipped = Skipped()
        groups = [os.path.join(folder, group) for group in sorted(os.listdir(folder))]
        items = [item for group in groups for item in list_chips(group, parse_pair_name, skipped)]
        super().__init__(folder, items, skipped, **kwargs)


@DATASET_REGISTRY.register()
class QXSSAROPT(PairDataset):
    """QXS-SAROPT: 20,000 pairs of optical (Google Earth) and SAR (GaoFen-3) patches of ports, 256 x 256 pixels.

    Format on disk, in a folder ``QXS-SAROPT``:

    * ``opt/<number>.png`` and ``sar/<number>.png``; the same number is the same place, taken as an identity here
    * files without a partner are skipped and counted

    Published by its authors (arXiv 2103.08259), who state its licence. If you use it, please cite Huang et al., "The
    QXS-SAROPT Dataset for Deep Learning in SAR-Optical Data Fusion", 2021. ``root`` holds ``QXS-SAROPT`` (or is it).

    Raises:
        DatasetError: no such folder.
    """

    def __init__(self, root: str | os.PathLike[str] = "datasets", **kwargs: Any) -> None:
        form = "opt/<number>.png and sar/<number>.png, the same number for the same place"
        folder = _find_root(root, ("QXS-SAROPT", "QXS_SAROPT"), ("opt", "sar"), form)
        skipped = Skipped()
        items = list_chips(os.path.join(folder, "opt"), _numbered(OPTICAL), skipped)
        items += list_chips(os.path.join(folder, "sar"), _numbered(SAR), skipped)
        super().__init__(folder, items, skipped, **kwargs)


def _numbered(modality: Modality) -> Parse:
    return lambda stem: (int(stem), modality) if re.fullmatch("[0-9]+", stem) else "named other than by a number"


# ---------------------------------------------------------------------- by name


def open_dataset(name: str, cfg: Any = None, **options: Any) -> Any:
    """A data set of ``DATASETS.NAMES`` under :func:`dataset_root`, or one of ``DATASETS.CHIPLISTS`` where a config is
    given; a DatasetError if it cannot be read."""
    root = dataset_root()
    if cfg is not None and name in cfg.DATASETS.CHIPLISTS:
        from .tables.dataset import open_list  # which is a data set of this module's kind

        listed = open_list(name, cfg.DATASETS.CHIPLISTS[name], **options)
        refuse_unwritable(listed.tested)
        return listed
    try:
        with warnings.catch_warnings(record=True) as caught:
            dataset = DATASET_REGISTRY.get(name)(root=root, **options)
    except MOSError:
        raise
    except (OSError, RuntimeError) as error:  # of fast-reid's own
        what = f"cannot be read under {root} ({one_line(error)})"
        raise DatasetError(f"{name}: {what}; set FASTREID_DATASETS to the folder it is in") from None
    for warning in caught:
        logger.warning(f"{name}: {warning.message}")
    refuse_unwritable(dataset.train, dataset.query, dataset.gallery)  # data sets of others too
    return dataset


def open_training(cfg: Any) -> list[Any]:
    """The data sets of ``DATASETS.NAMES``, with their test chips among the training ones if ``DATASETS.COMBINEALL``."""
    return [open_dataset(name, cfg, combineall=cfg.DATASETS.COMBINEALL) for name in cfg.DATASETS.NAMES]


def join_items(parts: Iterable[Sequence[tuple[str, Any, Any]]]) -> list[Item]:
    """Training items of several data sets, whose equal numbers are different ships: later ones are raised, but -1."""
    items: list[Item] = []
    for part in parts:
        offset = max((pid for _, pid, _ in items if pid >= 0), default=-1) + 1
        items.extend((path, pid if pid < 0 else pid + offset, camera) for path, pid, camera in as_numbers(part))
    return items


def base_name(dataset: Any) -> str:
    """The name of the data set that this one has its chips from: HOSS for HOSS_O2S and HOSS_S2O, else its own."""
    names = [kind.__name__ for kind in type(dataset).__mro__ if kind.__name__ in DATASET_REGISTRY._obj_map]
    return names[-1] if names else type(dataset).__name__
