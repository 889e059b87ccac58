"""What is fused into the chips of a test: features of generated chips, and their weight in each protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .chips import Chips
from .fusion import mean_by_owner, mix
from .ranking import Ints, normalized


@dataclass(frozen=True)
class GeneratedChips:
    """Features of generated chips, for the chips of one list.

    Attributes:
        features: ``[M, D]`` as the model gave them; ``[0, 0]`` where there is none.
        owner: ``[M]`` row of the source chip of each.
        index: ``[M]`` its index among the samples that are used, from 0 on; a chip may lack some.
    """

    features: NDArray[np.float32]
    owner: Ints
    index: Ints

    def __len__(self) -> int:
        return len(self.owner)


class Choice(NamedTuple):
    """Weight of the generated features, and how many samples of each chip are used; both 0: none is."""

    alpha: float
    k: int


@dataclass(frozen=True)
class Fusion:
    """How the chips of one test are fused: owners are rows of its chips, ``choices`` has the name of each protocol.

    ``record`` is what else goes into ``results.json``.
    """

    generated: GeneratedChips
    choices: Mapping[str, Choice]
    record: Mapping[str, Any] = field(default_factory=dict)

    def features(self, chips: Chips, protocol: str) -> NDArray[np.floating[Any]]:
        """``[N, D]`` features of the test's chips, fused and normalized for a protocol; with alpha 0 as they are."""
        alpha, k = self.choices[protocol]
        used = self.generated.index < k
        if not alpha or not used.any():
            return chips.features
        generated = mean_by_owner(self.generated.features[used], self.generated.owner[used])
        return mix(normalized(chips.features), *generated, alpha)

    def counts(self, rows: Ints) -> int:
        """How many of the rows have a generated chip."""
        return int(np.isin(rows, self.generated.owner).sum())

    def as_dict(self) -> dict[str, Any]:
        """The part ``fusion`` of ``results.json``."""
        chosen = {
            part: {name: getattr(choice, part) for name, choice in self.choices.items()} for part in Choice._fields
        }
        return {**self.record, "mode": "mean", **chosen}
