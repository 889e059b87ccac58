"""What the ship data sets share: fast-reid's interface, a log that says what is there, and a picture."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from fastreid.data.datasets.bases import ImageDataset
from tabulate import tabulate

from ..errors import DatasetError
from .chips import read_chip
from .listing import DISTRACTOR, Item, Skipped, count_chips, refuse_unwritable, same_file
from .modality import MODALITY_NAMES
from .transforms import SARDenoise

logger = logging.getLogger("fastreid_mos.data")


class ShipDataset(ImageDataset):
    """A data set of chips in fast-reid's form; ``train``, ``query`` and ``gallery`` hold (path, identity, modality).

    Args:
        root: where it was found.
        train, query, gallery: the chips.
        skipped: files that were left out.
        combineall: train on the test chips too (fast-reid's COMBINEALL).

    Raises:
        DatasetError: :func:`refuse_unwritable`.
    """

    _junk_pids = [DISTRACTOR]
    dataset_name = ""

    def __init__(
        self,
        root: str,
        train: list[Item],
        query: list[Item],
        gallery: list[Item],
        skipped: Skipped,
        combineall: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_unwritable(train, query, gallery)
        self.root = root
        self.skipped = skipped
        # Counted before fast-reid may add the test chips to the training ones.
        self._counts = {
            name: count_chips(items) for name, items in (("train", train), ("query", query), ("gallery", gallery))
        }
        shared = {pid for _, pid, _ in train} & {pid for _, pid, _ in [*query, *gallery]}
        self.shared_identities = len(shared)
        super().__init__(train, query, gallery, combineall=combineall, **kwargs)

    def show_train(self) -> None:
        """Log what the training split holds, what was skipped and why."""
        counts = {"train": count_chips(self.train)}
        logger.info(f"{type(self).__name__} in {self.root}, training:\n{_table(counts)}\n{self.skipped}")
        if self.train and not counts["train"]["identities with both"]:
            logger.warning(
                f"{type(self).__name__}: no training identity has both modalities; CMAL has nothing to align"
            )
        if self.combineall:
            logger.info(f"{type(self).__name__}: COMBINEALL is on, the test chips are trained on too")
        elif self.shared_identities:
            logger.warning(
                f"{type(self).__name__}: {self.shared_identities} identities are both in the training and in the test "
                "split; results on them say nothing about unseen ships"
            )

    def show_test(self) -> None:
        """Log what the query and gallery splits hold, and whether a query's own file is in its gallery."""
        counts = {name: self._counts[name] for name in ("query", "gallery")}
        logger.info(f"{type(self).__name__} in {self.root}, test:\n{_table(counts)}\n{self.skipped}")
        gallery: dict[str, list[str]] = {}
        for path, _, _ in self.gallery:
            gallery.setdefault(os.path.basename(path), []).append(path)
        own = [
            path
            for path, _, _ in self.query
            if any(same_file(path, other) for other in gallery.get(os.path.basename(path), ()))
        ]
        if own:
            logger.warning(
                f"{type(self).__name__}: {len(own)} query chips are in the gallery too, such as {own[0]}; a "
                "protocol of all modalities (ALL) counts each as its own match"
            )

    def summary(self) -> dict[str, int]:
        """Counts: chips by split, identities, distractors, skipped files."""
        train, query, gallery = self._counts["train"], self._counts["query"], self._counts["gallery"]
        return {
            "train": train["chips"],
            "training identities": train["identities"],
            "with both modalities": train["identities with both"],
            "query": query["chips"],
            "gallery": gallery["chips"],
            "distractors": gallery["distractors"],
            "skipped": len(self.skipped),
        }

    def plot(self, items: Sequence[Item] | None = None, columns: int = 8) -> Any:
        """Draw chips as a network sees them (SAR stretched), with identity and modality.

        Args:
            items: (path, identity, modality); by default the first 16 of training, or of the query where there is none.
            columns: chips in a row.

        Returns:
            A matplotlib figure.

        Raises:
            ChipError: a chip that cannot be read.
            DatasetError: nothing to draw.
        """
        from matplotlib.figure import Figure

        chosen = list(items) if items is not None else list(self.train or self.query)[:16]
        if not chosen:
            raise DatasetError(f"{self.root}: no chips to draw")
        denoise = SARDenoise()
        rows = -(-len(chosen) // columns)
        figure = Figure(figsize=(1.2 * columns, 2.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, (path, pid, modality) in zip(axes, chosen, strict=False):
            axis.imshow(denoise(read_chip(path, modality)))
            axis.set_title(f"{pid} {MODALITY_NAMES[modality]}", fontsize=8)
        return figure


def _table(counts: dict[str, dict[str, int]]) -> str:
    rows = [[split, *numbers.values()] for split, numbers in counts.items()]
    headers = ["split", *next(iter(counts.values()))]
    return str(tabulate(rows, headers=headers, tablefmt="pipe", numalign="left"))


def find_root(root: str | os.PathLike[str], names: Sequence[str], inside: Sequence[str], wanted: str) -> str:
    """The folder of a data set, absolute: ``root/<name>``, or ``root`` itself if it is that folder.

    Args:
        root: where to look.
        names: names that the folder may have.
        inside: folders of which it must hold at least one; empty where any name will do, then its own name tells.
        wanted: how the error goes on: the layout, and where to get the data set.

    Raises:
        DatasetError: it is not there, or nobody may look.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    for folder in (*(os.path.join(root, name) for name in names), root):
        try:
            os.scandir(folder).close()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from None
        named = os.path.basename(folder) in names
        if any(os.path.isdir(os.path.join(folder, part)) for part in inside or ("." if named else ())):
            return folder
    raise DatasetError(f"{os.path.join(root, names[0])}: not found. {wanted}")
