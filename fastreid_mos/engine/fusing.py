"""Fused testing: generated chips matched to the test chips, passed through the model once, their weight chosen."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..compat.checkpoints import read_file, saved_config
from ..data.build import build_generated_loader, build_test_loader
from ..data.datasets import base_name, join_items, open_training
from ..data.holdout import Split, hold_out
from ..data.listing import Item, of_modality
from ..data.modality import MODALITY_NAMES
from ..data.tables import sized_like
from ..data.transforms import sar_differences
from ..errors import CheckpointError, ConfigError, DatasetError
from ..evaluation.alpha import choose, evidence, measure_curves
from ..evaluation.chips import ChipPass
from ..evaluation.fusion import Choice, Fusion, GeneratedChips
from ..evaluation.mapping import FEWEST, FeatureMap, fit_map
from ..evaluation.settings import EvalSettings
from ..modeling.weights_files import find_weights
from ..synthetic.folder import GeneratedSet, checksums, open_generated

# Which identities are held out depends on these.
HOLDOUT_KEYS = ("TEST.HOLDOUT.FRACTION", "TEST.HOLDOUT.SEED", "DATASETS.NAMES", "DATASETS.COMBINEALL")
_OR_A_NUMBER = "or set TEST.FUSION.ALPHA to a number (the paper's is 0.02)"
_SPLITS = 4  # that alpha is chosen on, at least: ranking the same features once more costs little
logger = logging.getLogger("fastreid_mos.engine")


# Of a list of chips: (file, row of the list, index among the used samples) of generated chips, and their counts.
_Match = tuple[list[tuple[str, int, int]], dict[str, Any]]


class FusedTests:
    """The generated chips of the tests of some data sets, their features and their weight.

    All refusals are in the constructor, before the model runs; :meth:`run` passes each file through the model once. The
    labels of test chips are not read, but to leave their ships out of the map of ``TEST.FUSION.MODE`` mapped.
    """

    def __init__(self, cfg: Any, datasets: Mapping[str, Any]) -> None:
        fusion = cfg.TEST.FUSION
        self.cfg = cfg
        self.samples = sorted(fusion.SAMPLES) or list(range(fusion.K))
        self.files: dict[str, tuple[int, int]] = {}  # generated chips in use, and (width, height) of their source
        self._sources: dict[str, str] = {}  # and their source
        try:
            self.generated = open_generated(fusion.ROOT)
        except DatasetError as error:
            raise DatasetError(f"TEST.FUSION.ROOT: {error}") from None
        check_settings_agree(self.generated, cfg)
        self._splits: list[Split] = []
        if fusion.ALPHA == "auto":
            self._splits, identities = hold_out_splits(cfg)
            check_holdout_agrees(cfg)
            check_bridge_never_saw_holdout(self.generated, identities)
        self._matches = {name: self._match(name, [*tests.query, *tests.gallery]) for name, tests in datasets.items()}
        if self._splits:
            self._held_out = [item for part in self._splits[0] for item in part]
            sources = of_modality(self._held_out, self.generated.facts.modalities[0])
            if not any(self.generated.match([path for path, *_ in sources])):
                raise DatasetError(
                    f"{self.generated.root}: holds nothing generated from the held-out training identities, on which "
                    "TEST.FUSION.ALPHA auto chooses; generate it, with TEST.HOLDOUT as here "
                    f"({self.generated.facts.remedy} BRIDGE.SAMPLE.SPLITS \"['holdout']\"), {_OR_A_NUMBER}"
                )
            self._held_match = self._match("held-out training identities", self._held_out)
        self._learnt_on = self._map_items(datasets) if fusion.MODE != "mean" else []
        self._map: FeatureMap | None = None
        self.generated.verify()
        self._features: dict[str, Any] = {}
        self._choices: dict[str, Choice] = {}
        self._curves: dict[str, Any] = {}
        self._evidence: dict[str, float] | None = None

    def _map_items(self, datasets: Mapping[str, Any]) -> list[Item]:
        """Real chips of the training ships with generated ones, which are matched; refuses too few to learn from."""
        source, target = self.generated.facts.modalities
        items = training_ships(self.cfg, datasets)
        sources = of_modality(items, source)
        found = self.generated.match([path for path, *_ in sources])
        with_chips = {pid for (_, pid, _), own in zip(sources, found, strict=True) if own}
        ships = with_chips & {pid for _, pid, _ in of_modality(items, target)}
        if len(ships) < FEWEST:
            fault = f"has generated chips of {len(ships)} training ships that have {MODALITY_NAMES[target]} ones too"
            raise DatasetError(
                f"{self.generated.root}: {fault}, and the map of TEST.FUSION.MODE is learnt from at least {FEWEST}, "
                f"neither held out nor tested; generate them ({self.generated.facts.remedy} BRIDGE.SAMPLE.SPLITS "
                "\"['train']\"), or set it to mean"
            )
        items = [item for item in items if item[1] in ships]
        self._map_owners = of_modality(items, source)
        self._map_match = self._match("training ships of the map", self._map_owners)
        return of_modality(items, target)

    @property
    def largest_pass(self) -> int:
        """The most chips that one of its passes reads."""
        return max(len(self.files), len(self._learnt_on))

    def _match(self, name: str, chips: Sequence[tuple[str, Any, int]]) -> _Match:
        modality = self.generated.facts.modalities[0]
        owners = [row for row, (_, _, own) in enumerate(chips) if own == modality]
        paths = [chips[row][0] for row in owners]
        found = self.generated.select(paths, self.samples, self.cfg.TEST.FUSION.ALLOW_MISSING)
        used: list[tuple[str, int, int]] = []
        for owner, records in zip(owners, found, strict=True):
            for one in records:
                path = sized_like(self.generated.path(one), chips[owner][0])
                self.files[path], self._sources[path] = one.source_size, chips[owner][0]
                used.append((path, owner, self.samples.index(one.sample)))
        without = sum(not records for records in found)
        fewer = sum(0 < len(records) < len(self.samples) for records in found)
        logger.info(
            f"Fusion: {name}: {len(used)} generated chips of {len(owners)} {MODALITY_NAMES[modality]} ones, of which "
            f"{without} have none and {fewer} too few"
        )
        return used, {"chips": len(owners), "missing": {"without": without, "fewer": fewer}}

    def run(self, infer: Callable[[Any, Any], Any]) -> None:
        """Extract features and settle alpha and k, in every process; ``infer`` runs a loader into an evaluator."""
        fusion, settings = self.cfg.TEST.FUSION, EvalSettings.from_cfg(self.cfg)
        source, target = self.generated.facts.modalities
        if self.files and fusion.MODE == "source":
            paths = dict.fromkeys(self._sources.values())
            own = ChipPass(expected=len(paths))
            infer(build_test_loader(self.cfg, [(path, 0, source) for path in paths]), own)
            if own.chips is not None:  # the first process
                features = dict(zip(own.chips.paths, own.chips.features, strict=True))
                self._features = {path: features[chip] for path, chip in self._sources.items()}
        elif self.files:
            made = ChipPass(expected=len(self.files))
            infer(build_generated_loader(self.cfg, list(self.files.items()), target), made)
            if made.chips is not None:
                self._features = dict(zip(made.chips.paths, made.chips.features, strict=True))
        if self._learnt_on:
            self._learn_map(infer)
        if not self._splits:
            alpha = float(fusion.ALPHA)
            self._choices = {name: Choice(alpha, len(self.samples) * bool(alpha)) for name, *_ in settings.protocols}
            return
        held = ChipPass(len(self._splits[0][0]))
        infer(build_test_loader(self.cfg, self._held_out), held)
        if held.chips is not None:
            generated = self._generated_chips(self._held_match)
            curves = measure_curves(held.chips, self._splits, generated, settings, fusion.ALPHAS, len(self.samples))
            self._choices = choose(curves, settings)
            self._curves = {name: curve.as_dict() for name, curve in curves.items()}
            self._evidence = dict(zip(("found", "needed"), evidence(curves.values()), strict=True))

    def _learn_map(self, infer: Callable[[Any, Any], Any]) -> None:
        """Fit the map, and put the mapped features in place of those of all generated chips."""
        real = ChipPass(expected=len(self._learnt_on))
        infer(build_test_loader(self.cfg, self._learnt_on), real)
        if real.chips is None:
            return
        made = self._generated_chips(self._map_match)
        owners = np.array([self._map_owners[row][1] for row in made.owner], np.int64)
        self._map = fit_map(made.features, owners, real.chips.features, real.chips.ids)
        mapped = self._map(np.stack(list(self._features.values())))
        self._features = dict(zip(self._features, mapped, strict=True))
        facts = (
            "strength {strength:.3g}, fitted on {ships} training ships; of left-out ships it explains {explained:.0%}"
        )
        logger.info(f"TEST.FUSION.MODE {self.cfg.TEST.FUSION.MODE}: {facts.format(**self._map.record)} of the variance")

    def _generated_chips(self, match: _Match) -> GeneratedChips:
        used = match[0] if self._features else []  # none in other processes than the first
        features = np.stack([self._features[path] for path, *_ in used]) if used else np.empty((0, 0), np.float32)
        owner, index = np.array([rows for _, *rows in used], np.int64).reshape(-1, 2).T
        return GeneratedChips(features, owner, index)

    def fusion(self, name: str) -> Fusion:
        """How the chips of a data set are fused, after :meth:`run`. Features are in the first process only."""
        record = {
            "root": self.generated.root,
            **{key: getattr(self.generated.facts, key) for key in ("checkpoint", "direction", "steps", "rule")},
            "samples": self.samples,
            **self._matches[name][1],
            "settings": fusion_settings(self.cfg),
            "curves": self._curves,
            "evidence": self._evidence,  # of auto, in standard errors over ships
            "mode": self.cfg.TEST.FUSION.MODE,
            **({"map": self._map.record} if self._map else {}),
        }
        return Fusion(self._generated_chips(self._matches[name]), self._choices, record)


def fusion_settings(cfg: Any) -> dict[str, Any] | None:
    """``TEST.FUSION`` for the record; None where nothing is fused."""
    fusion = cfg.TEST.FUSION
    if not fusion.ENABLED:
        return None
    lists = {key: list(value) for key, value in fusion.items() if isinstance(value, (list, tuple))}
    settings = {**fusion, **lists, "ROOT": os.path.realpath(os.path.expanduser(fusion.ROOT))}
    return {key: settings[key] for key in sorted(settings) if key != "ENABLED"}


def hold_out_splits(cfg: Any) -> tuple[list[Split], dict[str, set[Any]]]:
    """The splits of the held-out training chips that alpha is chosen on, and the held-out identities by data set."""
    datasets = open_training(cfg)
    items = join_items(dataset.train for dataset in datasets)
    _, splits = hold_out(cfg, items, _SPLITS)
    held = {path for part in splits[0] for path, *_ in part}
    identities: dict[str, set[Any]] = {}
    for dataset in datasets:
        if own := {pid for path, pid, _ in dataset.train if path in held}:
            identities.setdefault(base_name(dataset), set()).update(own)
    return splits, identities


def training_ships(cfg: Any, datasets: Mapping[str, Any]) -> list[Item]:
    """Training chips, without ships that are held out or tested: by identity in the same data set, or by content."""
    trained = open_training(cfg)
    items = join_items(dataset.train for dataset in trained)
    own = [(base_name(dataset), pid) for dataset in trained for _, pid, _ in dataset.train]
    tests = [(base_name(one), item) for one in datasets.values() for item in (*one.query, *one.gallery)]
    known = {(name, pid) for name, (_, pid, _) in tests}
    kept, splits = hold_out(cfg, items)
    held = [item for part in splits[:1] for side in part for item in side]
    left_out = {*checksums({path for path, *_ in (*(item for _, item in tests), *held)})}
    out = {pid for (_, pid, _), ship in zip(items, own, strict=True) if ship in known}
    contents = checksums(path for path, *_ in kept)
    out |= {pid for (_, pid, _), content in zip(kept, contents, strict=True) if content in left_out}
    return [item for item in kept if item[1] not in out and item[1] >= 0]


def check_sar_agrees(generated: GeneratedSet, cfg: Any) -> None:
    """Refuse chips of a bridge that read SAR chips otherwise than the model."""
    for one in sar_differences(generated.facts.sar, cfg):
        raise ConfigError(
            f"{one.key}: {one.here}, but the bridge of {generated.root} was trained with {one.there}; set it to that, "
            "or generate the chips by another bridge"
        )


def check_settings_agree(generated: GeneratedSet, cfg: Any) -> None:
    """Refuse chips generated in the other direction, or by a bridge that read SAR chips otherwise than the model."""
    facts = generated.facts
    if facts.direction != cfg.TEST.FUSION.DIRECTION:
        raise ConfigError(
            f"TEST.FUSION.DIRECTION: {cfg.TEST.FUSION.DIRECTION}, but the chips in {generated.root} are "
            f"{facts.direction}; set it to that, or TEST.FUSION.ROOT to another folder"
        )
    check_sar_agrees(generated, cfg)


def check_holdout_agrees(cfg: Any) -> None:
    """Refuse to choose alpha on identities that the checkpoint ``MODEL.WEIGHTS`` was trained on."""
    path = cfg.MODEL.WEIGHTS
    if not path:
        return
    saved = saved_config(read_file(find_weights(path)))
    own = saved_config({"config": cfg.dump()})
    if not set(HOLDOUT_KEYS) <= set(saved):
        raise CheckpointError(
            f"{path}: does not say which identities its training held out, on which TEST.FUSION.ALPHA auto chooses; "
            f"test a checkpoint of tools/train_net.py, {_OR_A_NUMBER}"
        )
    if differing := [f"{key} {saved[key]} (now {own[key]})" for key in HOLDOUT_KEYS if saved[key] != own[key]]:
        raise CheckpointError(
            f"{path}: was trained with {', '.join(differing)}, so on identities held out here, on which "
            f"TEST.FUSION.ALPHA auto chooses; test with its settings, {_OR_A_NUMBER}"
        )


def check_bridge_never_saw_holdout(generated: GeneratedSet, identities: Mapping[str, set[Any]]) -> None:
    """Refuse to choose alpha on held-out identities (by data set) that the bridge was trained on."""
    trained = generated.facts.trained_identities
    if not trained:  # a bridge of tools/train_bbdm.py lists at least one data set
        raise DatasetError(
            f"{generated.root}: does not say which identities its bridge was trained on, and TEST.FUSION.ALPHA auto "
            f"chooses on ones it does not know; train one with tools/train_bbdm.py, {_OR_A_NUMBER}"
        )
    for name, own in identities.items():
        if known := sorted({str(pid) for pid in own} & {str(pid) for pid in trained.get(name, ())}):
            raise DatasetError(
                f"{generated.root}: its bridge was trained on {len(known)} of the held-out identities of {name} "
                f"({', '.join(known[:3])}), on which TEST.FUSION.ALPHA auto chooses; train it with this TEST.HOLDOUT, "
                f"{_OR_A_NUMBER}"
            )
