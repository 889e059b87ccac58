"""Data sets of fast-reid's registry by name, and the training items of several as one list."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from fastreid.data.datasets import DATASET_REGISTRY

from ..errors import DatasetError, MOSError
from .build import dataset_root
from .listing import Item, as_numbers, refuse_unwritable

logger = logging.getLogger("fastreid_mos.data")


def open_dataset(name: str, **options: Any) -> Any:
    """A data set of the registry; fast-reid's own say in exceptions of Python's that they are not there.

    Args:
        name: as in ``DATASETS.NAMES``.
        options: for its constructor, beside ``root``.

    Raises:
        DatasetError: it cannot be read under :func:`dataset_root`, or :func:`refuse_unwritable`.
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            dataset = DATASET_REGISTRY.get(name)(root=dataset_root(), **options)
    except MOSError:
        raise
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{name}: cannot be read under {dataset_root()} ({reason}); set FASTREID_DATASETS to the folder it is in"
        ) from None
    for warning in said:
        logger.warning(f"{name}: {warning.message}")
    refuse_unwritable(dataset.train, dataset.query, dataset.gallery)  # data sets of others too
    return dataset


def join_items(parts: Iterable[Sequence[tuple[str, Any, Any]]]) -> list[Item]:
    """Training items of several data sets: identities of the later ones are numbered behind the earlier ones'.

    Identities of two data sets are different ships even where the numbers agree. Negative ones are those of no ship
    (-1, the distractors') and stay what they are.

    Args:
        parts: the items (path, identity, camera) of each.
    """
    items: list[Item] = []
    for part in parts:
        offset = max((pid for _, pid, _ in items if pid >= 0), default=-1) + 1
        items.extend((path, pid if pid < 0 else pid + offset, camera) for path, pid, camera in as_numbers(part))
    return items


def open_training(cfg: Any) -> list[Any]:
    """The data sets of ``DATASETS.NAMES``, with their test chips among the training ones if ``DATASETS.COMBINEALL``.

    Raises:
        DatasetError: one that is not there.
    """
    return [open_dataset(name, combineall=cfg.DATASETS.COMBINEALL) for name in cfg.DATASETS.NAMES]


def base_name(dataset: Any) -> str:
    """The name of the data set that this one has its chips from: HOSS for HOSS_O2S and HOSS_S2O, else its own."""
    names = [kind.__name__ for kind in type(dataset).__mro__ if kind.__name__ in DATASET_REGISTRY._obj_map]
    return names[-1] if names else type(dataset).__name__
