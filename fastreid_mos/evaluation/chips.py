"""What a pass of the model over the test chips leaves behind: one row a chip, gathered from all processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastreid.utils import comm
from numpy.typing import NDArray

from ..errors import MOSError
from .ranking import Ints, not_finite_rows


@dataclass(frozen=True)
class Chips:
    """Test chips in the loader's order: ``num_query`` queries, then the gallery.

    Attributes:
        features: ``[N, D]`` float32, as the model gave them.
        ids: ``[N]`` identities; -1 is a distractor.
        modalities: ``[N]``, 0 optical, 1 SAR.
        cameras: ``[N]`` fast-reid's camera numbers.
        metres: ``[N, 2]`` width and height.
        paths: ``[N]`` files.
        num_query: number of queries.
    """

    features: NDArray[np.float32]
    ids: Ints
    modalities: Ints
    cameras: Ints
    metres: NDArray[np.float64]
    paths: tuple[str, ...]
    num_query: int

    def __len__(self) -> int:
        return len(self.ids)


class ChipCollector:
    """Takes batches and the model's features of them; in the end gives all processes' chips to the first one."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, ...]] = []

    def add(self, inputs: Any, outputs: Any) -> None:
        """Keep what is needed of a batch.

        Args:
            inputs: the loader's batch.
            outputs: ``[B, D]`` features, on any device and of any floating type.

        Raises:
            MOSError: outputs that are not one feature a chip.
        """
        paths = list(map(os.fspath, inputs["img_paths"]))
        features = feature_rows(outputs, len(paths))
        # Copies: a loader worker's own tensors are open files.
        numbers = [inputs[name].cpu().numpy().astype(np.int64) for name in ("targets", "modalities", "camids")]
        self._parts.append((features, *numbers, inputs["metres"].cpu().numpy().astype(np.float64), paths))

    def gather(self, num_query: int | None, expected: int | None = None) -> Chips | None:
        """All chips in the loader's order; None in other processes than the first. The collector is empty afterwards.

        Args:
            num_query: how many of them are queries; None: there are no queries and gallery.
            expected: how many there must be; None: not known.

        Raises:
            MOSError: a chip counted twice or missing, or a feature that is not finite (the message names the files).
        """
        gathered, self._parts = comm.gather(self._parts, dst=0), []
        if not comm.is_main_process():
            return None
        parts = [part for own in gathered for part in own]
        if not parts:
            raise MOSError("evaluation: the loader gave no chip")
        features, ids, modalities, cameras, metres = (np.concatenate([part[k] for part in parts]) for k in range(5))
        paths = tuple(path for part in parts for path in part[-1])
        if len(ids) != (expected or len(ids)) or (num_query is not None and not 0 < num_query < len(ids)):
            wanted = f"{expected} chips" if expected is not None else "queries and gallery chips"
            raise MOSError(
                f"evaluation: {len(ids)} chips came from the loader, {num_query} of them queries, where {wanted} were "
                "to come; each chip must be read once (fast-reid's InferenceSampler does that in several processes)"
            )
        refuse_not_finite(features, paths, "evaluation")
        return Chips(features, ids, modalities, cameras, metres, paths, num_query or 0)


def feature_rows(outputs: Any, count: int) -> NDArray[np.float32]:
    """A model's output for ``count`` chips as an array of its own.

    Raises:
        MOSError: it is not one feature a chip.
    """
    features = outputs.detach().float().cpu().numpy().copy()
    if features.ndim != 2 or len(features) != count:
        raise MOSError(
            f"the model gave {tuple(features.shape)} for a batch of {count} chips; one feature vector a chip is needed "
            "(is the model in evaluation mode?)"
        )
    return features


def refuse_not_finite(features: NDArray[np.float32], paths: Sequence[str], what: str) -> None:
    """Raise a MOSError that names the files whose feature is not finite."""
    if bad := not_finite_rows(features):
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise MOSError(
            f"{what}: the model's feature is not finite for {', '.join(paths[row] for row in bad[:5])}{more}; check "
            "the weights (a diverged training?) and, under mixed precision, try without"
        )
