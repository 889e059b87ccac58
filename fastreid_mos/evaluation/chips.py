"""What a pass of the model over the test chips leaves behind: one row a chip, gathered from all processes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastreid.utils import comm
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import not_finite_rows

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chips:
    """Test chips in the loader's order: ``num_query`` queries, then the gallery.

    Attributes:
        features: ``[N, D]`` float32, as the model gave them.
        ids: ``[N]`` identities; -1 is a distractor.
        modalities: ``[N]``, 0 optical, 1 SAR.
        cameras: ``[N]`` fast-reid's camera numbers.
        metres: ``[N, 2]`` width and height of the chip, or None where the batches carry none.
        paths: ``[N]`` files; ``chip 7`` where the batches carry none.
        num_query: number of queries.
    """

    features: NDArray[np.float32]
    ids: Ints
    modalities: Ints
    cameras: Ints
    metres: NDArray[np.float64] | None
    paths: tuple[str, ...]
    num_query: int

    def __len__(self) -> int:
        return len(self.ids)


class ChipCollector:
    """Takes batches and the model's features of them; in the end gives all processes' chips to the first one."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []

    def add(self, inputs: Any, outputs: Any) -> None:
        """Keep what is needed of a batch.

        Args:
            inputs: the loader's batch: ``targets`` ``[B]``, ``camids`` ``[B]`` and, where there are, ``modalities``
                ``[B]``, ``metres`` ``[B, 2]``, ``img_paths``.
            outputs: ``[B, D]`` features, on any device and of any floating type.

        Raises:
            MOSError: outputs that are not one feature a chip.
        """
        ids = _numbers(inputs["targets"])
        cameras = _numbers(inputs["camids"]) if "camids" in inputs else _numbers(inputs["modalities"])
        features = outputs.detach().float().cpu().numpy()
        if features.ndim != 2 or len(features) != len(ids):
            raise MOSError(
                f"evaluation: the model gave {tuple(features.shape)} for a batch of {len(ids)} chips; one feature "
                "vector a chip is needed (is the model in evaluation mode?)"
            )
        self._parts.append(
            {
                "features": features,
                "ids": ids,
                "cameras": cameras,
                "modalities": _numbers(inputs["modalities"]) if "modalities" in inputs else cameras,
                "metres": inputs["metres"].detach().double().cpu().numpy() if "metres" in inputs else None,
                "paths": [os.fspath(path) for path in inputs["img_paths"]] if "img_paths" in inputs else None,
            }
        )

    def gather(self, num_query: int, expected: int | None = None) -> Chips | None:
        """All chips in the loader's order; None in other processes than the first. The collector is empty afterwards.

        Args:
            num_query: how many of them are queries.
            expected: how many there must be; None: not known.

        Raises:
            MOSError: a chip counted twice or missing, or a feature that is not finite (the message names the files).
        """
        joined, self._parts = _join(self._parts), []
        parts = comm.gather(joined, dst=0)
        if not comm.is_main_process():
            return None
        parts = [part for part in parts if part is not None]
        whole = _join(list(itertools.chain(parts)))
        if whole is None:
            raise MOSError("evaluation: the loader gave no chip")
        count = len(whole["ids"])
        if (expected is not None and count != expected) or not 0 < num_query < count:
            wanted = f"{expected} chips" if expected is not None else "queries and gallery chips"
            raise MOSError(
                f"evaluation: {count} chips came from the loader, {num_query} of them queries, where {wanted} were to "
                "come; each chip must be read once (fast-reid's InferenceSampler does that in several processes)"
            )
        paths = tuple(whole["paths"] or (f"chip {row}" for row in range(count)))
        bad = not_finite_rows(whole["features"])
        if bad:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise MOSError(
                f"evaluation: the model's feature is not finite for {', '.join(paths[row] for row in bad[:5])}{more}; "
                "nothing was ranked: check the weights (a diverged training?) and, under mixed precision, try without"
            )
        return Chips(
            whole["features"], whole["ids"], whole["modalities"], whole["cameras"], whole["metres"], paths, num_query
        )  # fmt: skip


def _numbers(values: Any) -> Ints:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values).astype(np.int64)
    except ValueError:
        raise MOSError(f"evaluation: identities must be whole numbers, this data set gives {values[0]!r}") from None


def _join(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One dict of whole arrays; a key that some part lacks is None."""
    if not parts:
        return None
    joined: dict[str, Any] = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        if any(value is None for value in values):
            joined[key] = None
        elif key == "paths":
            joined[key] = list(itertools.chain(*values))
        else:
            joined[key] = values[0] if len(values) == 1 else np.concatenate(values)
    return joined
