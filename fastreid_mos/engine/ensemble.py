"""``TEST.ENSEMBLE``: checkpoints of other runs, each with its own config, on the chips of a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ..data import build_test_loader
from ..errors import WeightsError
from ..evaluation.chips import ChipPass
from ..evaluation.ensemble import Ensemble
from ..modeling import build_checked_model, load_reid_weights
from ..modeling.heads import classifier_weights
from ..modeling.weights_files import find_weights
from .rebuilding import rebuilding_config

# What a member takes from the test, not from its own run.
_SHARED = ("MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "TEST.NUM_WORKERS", "TEST.IMS_PER_BATCH")


def member_configs(cfg: Any) -> dict[str, Any]:
    """The config of each file of ``TEST.ENSEMBLE.WEIGHTS``, or a CheckpointError that names it."""
    members = {}
    for path in map(find_weights, cfg.TEST.ENSEMBLE.WEIGHTS):
        own, _ = rebuilding_config(path)
        for key in _SHARED:
            group, _, name = key.partition(".")
            own[group][name] = cfg[group][name]
        members[os.path.abspath(path)] = own
    return members


def load_whole(model: Any, weights: str) -> None:
    """Load weights to be tested: a WeightsError if any but a classifier's is missing."""
    not_needed = classifier_weights(model)
    if missing := [name for name in load_reid_weights(model, weights).missing if name not in not_needed]:
        raise WeightsError(
            f"{weights}: lacks {len(missing)} of the model's weights, {missing[0]} first; test with the config of its "
            "training"
        )


class EnsembleTests:
    """The members' features of the chips of some data sets."""

    def __init__(self, cfg: Any, datasets: Mapping[str, Any]) -> None:
        self.cfg, self.datasets, self.members = cfg, datasets, member_configs(cfg)
        self._features: dict[str, list[Any]] = {name: [] for name in datasets}

    def run(self, infer: Callable[[Any, Any, Any, Any], Any]) -> None:
        """Extract the features, one model at a time; ``infer`` runs a loader through a model into an evaluator."""
        for path, cfg in self.members.items():
            model = build_checked_model(cfg)
            load_whole(model, path)
            for name, dataset in self.datasets.items():
                items = [*dataset.query, *dataset.gallery]
                made = ChipPass(len(dataset.query), len(items))
                infer(cfg, model, build_test_loader(cfg, items), made)
                if made.chips is not None:  # the first process
                    self._features[name].append(made.chips.features)

    def ensemble(self, name: str) -> Ensemble:
        """Of a data set, after :meth:`run`."""
        own = self.cfg.TEST.ENSEMBLE
        record = {"settings": ensemble_settings(self.cfg)}
        return Ensemble(self._features[name], own.METHOD, own.K, own.DEPTH, record)


def ensemble_settings(cfg: Any) -> dict[str, Any] | None:
    """``TEST.ENSEMBLE`` for the record; None without members."""
    own = cfg.TEST.ENSEMBLE
    return {**own, "WEIGHTS": [os.path.realpath(find_weights(path)) for path in own.WEIGHTS]} if own.WEIGHTS else None
