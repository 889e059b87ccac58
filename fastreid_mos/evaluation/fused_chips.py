"""What a pass of the model over generated chips leaves behind, and how it is fused into the chips of a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastreid.evaluation.evaluator import DatasetEvaluator
from fastreid.utils import comm
from numpy.typing import NDArray

from ..errors import MOSError
from .chips import ChipCollector, Chips
from .fusion import mean_by_owner, mix
from .ranking import normalized, not_finite_rows

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GeneratedChips:
    """Features of generated chips, for the chips of one list.

    Attributes:
        features: ``[M, D]`` as the model gave them; ``[0, 0]`` where there is none.
        owner: ``[M]`` row of the chip that each was generated from.
        place: ``[M]`` its place among the samples that are used of its chip, from 0 on (with TEST.FUSION.K the number
            of the sample). A chip may lack some.
    """

    features: NDArray[np.float32]
    owner: Ints
    place: Ints

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True)
class Choice:
    """Weight of the generated features, and how many samples of each chip make them; k 0 with alpha 0: none is used."""

    alpha: float
    k: int


@dataclass(frozen=True)
class Fusion:
    """How the chips of one test are fused.

    Attributes:
        generated: the features; owners are rows of the test's chips.
        mode: for the record; see :func:`fastreid_mos.evaluation.fuse_features`.
        choices: alpha and k of each protocol, by its name.
        record: what else goes into ``results.json``.
    """

    generated: GeneratedChips
    mode: str
    choices: Mapping[str, Choice]
    record: Mapping[str, Any] = field(default_factory=dict)

    def features(self, chips: Chips, protocol: str) -> NDArray[np.floating[Any]]:
        """The chips' features as a protocol ranks them.

        Args:
            chips: all chips of the test.
            protocol: its name.

        Returns:
            ``[N, D]``: fused and normalized; with alpha 0 the model's own, as they are.

        Raises:
            MOSError: a protocol that nothing was chosen for, or generated features of other chips or dimensions.
        """
        if protocol not in self.choices:
            raise MOSError(f"fusion: no weight was chosen for the protocol {protocol}")
        choice = self.choices[protocol]
        if not len(self.generated) or not choice.alpha or not choice.k:
            return chips.features
        if self.generated.owner.max() >= len(chips) or self.generated.features.shape[1] != chips.features.shape[1]:
            raise MOSError(
                f"fusion: generated features {self.generated.features.shape} of rows up to "
                f"{self.generated.owner.max()} do not belong to chips of features {chips.features.shape}"
            )
        some = self.generated.place < choice.k
        rows, means = mean_by_owner(self.generated.features[some], self.generated.owner[some])
        return mix(normalized(chips.features), rows, means, choice.alpha)

    def counts(self, rows: Ints) -> int:
        """How many of the rows have a generated chip."""
        return int(np.isin(rows, self.generated.owner).sum())

    def as_dict(self) -> dict[str, Any]:
        """The part ``fusion`` of ``results.json``."""
        return {
            **self.record,
            "mode": self.mode,
            "alpha": {name: choice.alpha for name, choice in self.choices.items()},
            "k": {name: choice.k for name, choice in self.choices.items()},
        }


class GeneratedPass(DatasetEvaluator):
    """Takes the model's features of generated chips, each once; ``targets`` of a batch are the numbers of their files.

    For fast-reid's ``inference_on_dataset``, in one process or several.

    Args:
        paths: the files, in the order of their numbers.

    Attributes:
        features: ``[files, D]``, a row for each file, in the first process after :meth:`evaluate`; elsewhere None.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.features: NDArray[np.float32] | None = None
        self._rows: list[NDArray[np.float32]] = []
        self._numbers: list[Ints] = []

    def reset(self) -> None:
        """Forget all files."""
        self.features, self._rows, self._numbers = None, [], []

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in a batch and its features.

        Raises:
            MOSError: outputs that are not one feature a chip.
        """
        numbers = inputs["targets"].cpu().numpy().astype(np.int64)
        features = outputs.detach().float().cpu().numpy()
        if features.ndim != 2 or len(features) != len(numbers):
            raise MOSError(
                f"fusion: the model gave {tuple(features.shape)} for a batch of {len(numbers)} generated chips; one "
                "feature vector a chip is needed"
            )
        self._rows.append(features)
        self._numbers.append(numbers)

    def evaluate(self) -> dict[str, Any]:
        """Gather the features in the first process.

        Returns:
            Nothing: there is nothing to measure yet.

        Raises:
            MOSError: a file that came twice or not at all, or a feature that is not finite; the message names files.
        """
        parts = comm.gather((self._numbers, self._rows), dst=0)
        self._rows, self._numbers = [], []
        if not comm.is_main_process():
            return {}
        numbers = np.concatenate([part for own, _ in parts for part in own] or [np.empty(0, np.int64)])
        if not np.array_equal(np.sort(numbers), np.arange(len(self.paths))):
            raise MOSError(
                f"fusion: {len(numbers)} generated chips came from the loader where {len(self.paths)} were to come, "
                "each once"
            )
        features = np.concatenate([part for _, own in parts for part in own] or [np.empty((0, 0), np.float32)])
        features = features[np.argsort(numbers)]
        if bad := not_finite_rows(features):
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise MOSError(
                "fusion: the model's feature is not finite for the generated "
                f"{', '.join(self.paths[row] for row in bad[:5])}{more}; check the weights (a diverged training?)"
            )
        self.features = features
        return {}


class ChipPass(DatasetEvaluator):
    """Keeps what the model gives for chips; nothing is ranked.

    Args:
        num_query: the first so many chips are queries.

    Attributes:
        chips: in the first process after :meth:`evaluate`; elsewhere None.
    """

    def __init__(self, num_query: int) -> None:
        self.num_query = num_query
        self.chips: Chips | None = None
        self._collector = ChipCollector()

    def reset(self) -> None:
        """Forget all chips."""
        self.chips, self._collector = None, ChipCollector()

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in a batch and its features; see :meth:`ChipCollector.add`."""
        self._collector.add(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Gather the chips in the first process; see :meth:`ChipCollector.gather`."""
        self.chips = self._collector.gather(self.num_query)
        return {}
