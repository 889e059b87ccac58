"""Fused testing: generated chips matched to the test chips, passed through the model once, their weight chosen."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compat.checkpoints import read_torch, saved_config
from ..data.build import build_generated_loader, build_test_loader
from ..data.datasets import base_name, join_items, open_training
from ..data.holdout import Split, hold_out
from ..data.listing import Item
from ..data.transforms import sar_differences
from ..errors import CheckpointError, ConfigError, DatasetError
from ..evaluation.alpha import choose, evidence, measure_curves
from ..evaluation.fused_chips import ChipPass, Choice, Fusion, GeneratedChips, GeneratedPass
from ..evaluation.settings import EvalSettings
from ..synthetic.folder import GeneratedSet, open_generated
from ..synthetic.manifest import DIRECTIONS, ChipRecord

Ints = NDArray[np.int64]
# A pass of the model: a loader's batches into an evaluator.
Infer = Callable[[Any, Any], Any]
# What rules which identities are held out.
_HOLDOUT_KEYS = ("TEST.HOLDOUT.FRACTION", "TEST.HOLDOUT.SEED", "DATASETS.NAMES", "DATASETS.COMBINEALL")
# Splits that alpha is chosen on at least: ranking the same features once more costs little.
_SPLITS = 4
logger = logging.getLogger("fastreid_mos.engine")


@dataclass(frozen=True)
class HeldOutChips:
    """Chips of held-out training identities, of all ``DATASETS.NAMES``.

    Attributes:
        splits: as :func:`hold_out` dealt them.
        identities: by data set (the one that has the chips: HOSS for HOSS_O2S) the identities as it numbers them.
    """

    splits: list[Split]
    identities: Mapping[str, set[Any]]

    @classmethod
    def of(cls, cfg: Any) -> HeldOutChips:
        """The chips that a training with this config holds out."""
        datasets = open_training(cfg)
        items = join_items(dataset.train for dataset in datasets)
        _, splits = hold_out(cfg, items, _SPLITS)
        held = {pid for part in splits[0] for _, pid, _ in part}
        own = [(base_name(dataset), pid) for dataset in datasets for _, pid, _ in dataset.train]
        identities: dict[str, set[Any]] = {}
        for (name, number), (_, pid, _) in zip(own, items, strict=True):
            if pid in held:
                identities.setdefault(name, set()).add(number)
        return cls(splits, identities)

    @property
    def items(self) -> list[Item]:
        """Each chip once."""
        query, gallery = self.splits[0]
        return [*query, *gallery]


@dataclass(frozen=True)
class _Used:
    """Generated chips of one list of chips: numbers of their files, rows of the list, places among the samples."""

    file: Ints
    owner: Ints
    place: Ints
    sources: int
    fewer: int
    without: int

    def chips(self, features: NDArray[np.float32] | None) -> GeneratedChips:
        if features is None or not len(self.file):
            return GeneratedChips(np.empty((0, 0), np.float32), self.owner[:0], self.place[:0])
        return GeneratedChips(features[self.file], self.owner, self.place)


class FusedTests:
    """What testing with fused features needs beside the test chips themselves.

    Making one opens the folder ``TEST.FUSION.ROOT``, verifies its files, compares its settings with the config's and
    finds the generated chips of every chip: all that can be refused is, before the model runs. :meth:`run` then passes
    the generated chips through the model, each file once whatever number of data sets has its chip, and settles alpha.
    The labels of test chips are not taken.

    Args:
        cfg: the config; with ``MODEL.WEIGHTS`` set and ``TEST.FUSION.ALPHA`` "auto" that checkpoint must have had the
            same held-out identities.
        tests: for each data set the (path, modality) of its test chips, queries first.

    Raises:
        ConfigError: the generated chips are of another direction or of another reading of SAR chips.
        CheckpointError: the re-identifier's checkpoint held out other identities, or does not say which.
        DatasetError: a manifest or a file of the folder that is not as it was left, samples that there are not, or a
            bridge that was trained on held-out identities.
    """

    def __init__(self, cfg: Any, tests: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        self.cfg = cfg
        fusion = cfg.TEST.FUSION
        self.samples = sorted(fusion.SAMPLES) if len(fusion.SAMPLES) else list(range(fusion.K))
        self.source_modality, self.target_modality = DIRECTIONS[fusion.DIRECTION]
        self.synthetic = _opened(fusion.ROOT)
        check_settings_agree(self.synthetic, cfg)
        self.held: HeldOutChips | None = None
        if fusion.ALPHA == "auto":
            self.held = HeldOutChips.of(cfg)
            check_holdout_agrees(cfg)
            check_bridge_is_strange(self.synthetic, self.held.identities)
        self.files: list[tuple[str, tuple[int, int]]] = []
        self._numbers: dict[str, int] = {}
        self._used = {name: self._match(name, chips) for name, chips in tests.items()}
        self._held_used: _Used | None = None
        if self.held is not None:
            chips = [(path, modality) for path, _, modality in self.held.items]
            sources = [path for path, modality in chips if modality == self.source_modality]
            if not any(self.synthetic.match(sources)):
                raise DatasetError(self._no_held_out_chips())
            self._held_used = self._match("held-out training identities", chips)
        self.synthetic.verify()
        self._features: NDArray[np.float32] | None = None
        self._choices: dict[str, Choice] = {}
        self._curves: dict[str, Any] = {}
        self._evidence: dict[str, float] | None = None

    @classmethod
    def of(cls, cfg: Any, datasets: Mapping[str, Any]) -> FusedTests:
        """For data sets with ``query`` and ``gallery`` items (path, identity, modality)."""
        return cls(
            cfg,
            {
                name: [(item[0], item[2]) for item in (*dataset.query, *dataset.gallery)]
                for name, dataset in datasets.items()
            },
        )

    def _match(self, name: str, chips: Sequence[tuple[str, int]]) -> _Used:
        fusion = self.cfg.TEST.FUSION
        owners = [row for row, (_, modality) in enumerate(chips) if modality == self.source_modality]
        found = self.synthetic.select([chips[row][0] for row in owners], self.samples, fusion.ALLOW_MISSING)
        places = {number: place for place, number in enumerate(self.samples)}
        used = [
            (self._number(row), owner, places[row.sample])
            for owner, rows in zip(owners, found, strict=True)
            for row in rows
        ]
        table = np.array(used, np.int64).reshape(-1, 3)
        without = sum(not rows for rows in found)
        fewer = sum(0 < len(rows) < len(self.samples) for rows in found)
        kind = ("optical", "SAR")[self.source_modality]
        gaps = f"; {fewer} of them have fewer and {without} none, and those stay unfused" if fewer or without else ""
        logger.info(f"Fusion: {name}: {len(owners)} of {len(chips)} chips are {kind}, {len(used)} generated ones{gaps}")
        return _Used(table[:, 0], table[:, 1], table[:, 2], len(owners), fewer, without)

    def _number(self, row: ChipRecord) -> int:
        """Number of a row's file, the same for each chip that uses it."""
        path = self.synthetic.path(row)
        if path not in self._numbers:
            self._numbers[path] = len(self.files)
            self.files.append((path, row.source_size))
        return self._numbers[path]

    def _no_held_out_chips(self) -> str:
        return (
            f"{self.synthetic.root}: holds nothing generated from the held-out training identities, on which "
            "TEST.FUSION.ALPHA auto chooses; make it, with TEST.HOLDOUT as here "
            f"({self.synthetic.facts.remedy} BRIDGE.SAMPLE.SPLITS \"['holdout']\"), or set a number"
        )

    def run(self, infer: Infer) -> None:
        """Extract the features of the generated chips, and with ``TEST.FUSION.ALPHA`` "auto" choose alpha and k.

        Args:
            infer: passes a loader's batches through the model into an evaluator; called in every process.
        """
        fusion = self.cfg.TEST.FUSION
        settings = EvalSettings.from_cfg(self.cfg)
        if self.files:
            passed = GeneratedPass([path for path, _ in self.files])
            infer(build_generated_loader(self.cfg, self.files, self.target_modality), passed)
            self._features = passed.features
        if self.held is None or self._held_used is None:
            alpha = float(fusion.ALPHA)
            choice = Choice(alpha, len(self.samples)) if alpha else Choice(0.0, 0)
            self._choices = {name: choice for name, *_ in settings.protocols}
            return
        kept = ChipPass(len(self.held.splits[0][0]))
        infer(build_test_loader(self.cfg, self.held.items), kept)
        if kept.chips is not None:  # the first process
            curves = measure_curves(
                kept.chips, self.held.splits, self._held_used.chips(self._features), settings,
                fusion.ALPHAS, len(self.samples),
            )  # fmt: skip
            self._choices = choose(curves, settings)
            self._curves = {name: curve.as_dict() for name, curve in curves.items()}
            self._evidence = dict(zip(("found", "needed"), evidence(curves.values()), strict=True))

    def fusion(self, name: str) -> Fusion:
        """How the chips of a data set are fused; :meth:`run` comes before. Features are in the first process only."""
        used, facts = self._used[name], self.synthetic.facts
        record = {
            "root": self.synthetic.root,
            "checkpoint": facts.checkpoint,
            "direction": facts.direction,
            "steps": facts.steps,
            "rule": facts.rule,
            "samples": self.samples,
            "chips": used.sources,
            "missing": {"without": used.without, "fewer": used.fewer},
            "settings": fusion_settings(self.cfg),
            "curves": self._curves,
            "evidence": self._evidence,  # of auto, in standard errors over ships
        }
        return Fusion(used.chips(self._features), "mean", self._choices, record)


def _opened(root: str) -> GeneratedSet:
    try:
        return open_generated(root)
    except DatasetError as error:
        raise DatasetError(f"TEST.FUSION.ROOT: {error}") from None


def fusion_settings(cfg: Any) -> dict[str, Any] | None:
    """``TEST.FUSION`` for the record; None where nothing is fused."""
    fusion = cfg.TEST.FUSION
    if not fusion.ENABLED:
        return None
    settings = {
        key: list(value) if isinstance(value, (list, tuple)) else value
        for key, value in sorted(fusion.items())
        if key != "ENABLED"
    }
    return {**settings, "ROOT": os.path.realpath(os.path.expanduser(fusion.ROOT))}


def check_settings_agree(synthetic: GeneratedSet, cfg: Any) -> None:
    """Refuse chips generated in the other direction, or by a bridge that knew SAR chips otherwise than the model does.

    Raises:
        ConfigError: one line with the key.
    """
    facts = synthetic.facts
    if facts.direction != cfg.TEST.FUSION.DIRECTION:
        raise ConfigError(
            f"TEST.FUSION.DIRECTION: {cfg.TEST.FUSION.DIRECTION}, but the chips in {synthetic.root} were generated "
            f"{facts.direction}; set it to that, or TEST.FUSION.ROOT to another folder"
        )
    for one in sar_differences(facts.sar, cfg):
        raise ConfigError(
            f"{one.key}: {one.here}, but the bridge of {synthetic.root} was trained with {one.there}; the model and "
            "the bridge must read SAR chips alike: test with the bridge's, or generate the chips by another bridge"
        )


def check_holdout_agrees(cfg: Any) -> None:
    """Refuse to choose alpha on identities that the re-identifier was trained on.

    Raises:
        CheckpointError: ``MODEL.WEIGHTS`` held out others, or does not say which. Without it the model is this run's.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        return
    checkpoint = read_torch(path) if path.endswith(".pth") and os.path.isfile(path) else None
    saved = saved_config(checkpoint)
    own = saved_config({"config": cfg.dump()})
    way_on = "set TEST.FUSION.ALPHA to a number (the paper's is 0.02)"
    if not set(_HOLDOUT_KEYS) <= set(saved):
        raise CheckpointError(
            f"{path}: does not say which identities its training held out, on which TEST.FUSION.ALPHA auto chooses; "
            f"{way_on}, or test a checkpoint of tools/train_net.py"
        )
    differing = [f"{key} {saved[key]} (now {own[key]})" for key in _HOLDOUT_KEYS if saved[key] != own[key]]
    if differing:
        raise CheckpointError(
            f"{path}: was trained with {', '.join(differing)}, so identities held out here are ones it was trained on; "
            f"TEST.FUSION.ALPHA auto cannot choose on them: test with its settings, or {way_on}"
        )


def check_bridge_is_strange(synthetic: GeneratedSet, identities: Mapping[str, Iterable[Any]]) -> None:
    """Refuse to choose alpha on identities that the bridge was trained on.

    Args:
        synthetic: the generated chips.
        identities: by data set those held out.

    Raises:
        DatasetError: it was trained on some, or does not say on which.
    """
    trained = synthetic.facts.trained_identities
    way_on = "or set TEST.FUSION.ALPHA to a number (the paper's is 0.02)"
    if not trained:  # a bridge of tools/train_bbdm.py lists at least one data set
        raise DatasetError(
            f"{synthetic.root}: does not say which identities its bridge was trained on, and TEST.FUSION.ALPHA auto "
            f"chooses on ones it does not know; train one with tools/train_bbdm.py, {way_on}"
        )
    for name, own in identities.items():
        known = sorted({str(pid) for pid in own} & {str(pid) for pid in trained.get(name, ())})
        if known:
            raise DatasetError(
                f"{synthetic.root}: its bridge was trained on {len(known)} of the held-out identities of {name} "
                f"({', '.join(known[:3])}{' ...' * (len(known) > 3)}), on which TEST.FUSION.ALPHA auto chooses; train "
                f"it with the same TEST.HOLDOUT, {way_on}"
            )
