"""Configs: what is shipped reads, and what is wrong is one line naming the key."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastreid_mos
from fastreid_mos.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yml"))
VIT = str(Path(__file__).parents[1] / "configs/HOSS/mos_vit.yml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_reads(path):
    assert fastreid_mos.load_cfg(str(path)).MODEL.META_ARCHITECTURE == "MOS"


def test_mos_vit_is_the_papers_recipe():
    cfg = fastreid_mos.load_cfg(VIT)
    solver, losses = cfg.SOLVER, cfg.MODEL.LOSSES
    assert (solver.OPT, solver.MOMENTUM, solver.BASE_LR, solver.BIAS_LR_FACTOR) == ("SGD", 0.9, 5e-4, 2.0)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_BIAS, solver.WEIGHT_DECAY_NORM) == (1e-4, 1e-4, 1e-4)
    assert (solver.MAX_EPOCH, solver.WARMUP_EPOCHS, solver.WARMUP_FACTOR, solver.ETA_MIN_FACTOR) == (
        100,
        5,
        0.01,
        0.002,
    )
    assert (solver.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE, solver.AMP.ENABLED) == (32, 4, True)
    assert (solver.SCHED, solver.WARMUP_ITERS, cfg.DATALOADER.SAMPLER_TRAIN) == ("WarmupCosineLR", 0, "IdentitySampler")
    assert (losses.CE.EPSILON, losses.TRI.MARGIN, losses.TRI.HARD_MINING, losses.CMAL.SCALE) == (0.0, 0.0, True, 2.0)
    assert set(losses.NAME) == {"CrossEntropyLoss", "TripletLoss", "CMALLoss"}
    assert list(cfg.INPUT.SIZE_TRAIN) == list(cfg.INPUT.SIZE_TEST) == [256, 128]
    assert all(cfg.INPUT[step].ENABLED for step in ("FLIP", "PADDING", "REA"))
    assert (cfg.INPUT.FLIP.PROB, cfg.INPUT.PADDING.SIZE, cfg.INPUT.REA.PROB, cfg.INPUT.REA.MODE) == (
        0.5,
        10,
        0.5,
        "pixel",
    )
    assert (cfg.INPUT.RESIZE.TRAIN, cfg.INPUT.RESIZE.TEST) == ("bicubic", "bilinear")
    assert (cfg.INPUT.SAR.TRANSFORM, cfg.INPUT.SAR.LOW_PERCENTILE, cfg.INPUT.SAR.HIGH_PERCENTILE) == (
        "SARDenoise",
        5.0,
        100.0,
    )
    assert cfg.MODEL.HEADS.TEST_NECK_FEAT == "before" and cfg.TEST.METRIC == "cosine"
    assert not cfg.TEST.REMOVE_SAME_CAMERA and cfg.MODEL.BACKBONE.DROP_PATH_RATIO == 0.1


def test_every_mos_key_has_a_comment():
    """A key is explained by a comment above it, or above the group of keys that it stands in."""
    lines = (Path(fastreid_mos.__file__).parent / "config/core.py").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if "def add_mos_config" in line)
    stop = next(i for i, line in enumerate(lines) if "def get_cfg" in line)
    unexplained, explained = [], False
    for line in (line.strip() for line in lines[start:stop]):
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        elif line.startswith("cfg.") and not line.endswith("= node()") and not explained:
            unexplained.append(line)
    assert unexplained == []


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["SOLVER.MAX_EPOCHS", "3"], ["no such key SOLVER.MAX_EPOCHS", "SOLVER.MAX_EPOCH"]),
        (["CMAL.SCALE", "3"], ["no such key CMAL.SCALE", "MODEL.LOSSES.CMAL.SCALE"]),
        (["SOLVER.MAX_EPOCH", "many"], ["SOLVER.MAX_EPOCH: a whole number", "'many'"]),
        (["SOLVER.MAX_EPOCH"], ["KEY VALUE pairs"]),
        (["SOLVER.MAX_EPOCH", "0"], ["SOLVER.MAX_EPOCH", "at least 1"]),
        (["SOLVER.BASE_LR", "-1.0"], ["SOLVER.BASE_LR"]),
        (["SOLVER.IMS_PER_BATCH", "30"], ["SOLVER.IMS_PER_BATCH", "multiple"]),
        (["SOLVER.SCHED", "Cosine"], ["SOLVER.SCHED", "WarmupCosineLR"]),
        (["SOLVER.AMP.DTYPE", "float8"], ["SOLVER.AMP.DTYPE"]),
        (["INPUT.SAR.TRANSFORM", "SARDenoize"], ["INPUT.SAR.TRANSFORM", "SARDenoise"]),
        (["INPUT.SAR.LOW_PERCENTILE", "100.0"], ["LOW_PERCENTILE"]),
        (["INPUT.SAR.CHANNEL", "first"], ["INPUT.SAR.CHANNEL"]),
        (["INPUT.SAR.CACHE", "ram"], ["INPUT.SAR.CACHE", "memory"]),
        (["INPUT.SAR.CACHE", "disk"], ["INPUT.SAR.CACHE_DIR"]),
        (["INPUT.SIZE_TRAIN", "[256]"], ["INPUT.SIZE_TRAIN"]),
        (["INPUT.SIZE_TEST", "[128, 64]"], ["SIZE_TRAIN and INPUT.SIZE_TEST must be equal"]),
        (["INPUT.RESIZE.TRAIN", "cubic"], ["INPUT.RESIZE.TRAIN", "bicubic"]),
        (["INPUT.REA.MODE", "random"], ["INPUT.REA.MODE"]),
        (["INPUT.FLIP.PROB", "2.0"], ["INPUT.FLIP.PROB"]),
        (["DATALOADER.NUM_WORKERS", "-1"], ["DATALOADER.NUM_WORKERS"]),
        (["DATALOADER.SAMPLER_TRAIN", "CrossModalIdentitySampler", "DATALOADER.NUM_INSTANCE", "1"], ["at least 2"]),
        (["MODEL.BACKBONE.NAME", "build_transos_backbone"], ["MODEL.BACKBONE.NAME", "build_transoss_backbone"]),
        (["MODEL.HEADS.NAME", "CMALhead"], ["MODEL.HEADS.NAME", "CMALHead"]),
        (["MODEL.META_ARCHITECTURE", "Mos"], ["MODEL.META_ARCHITECTURE", "MOS"]),
        (["MODEL.META_ARCHITECTURE", "Baseline"], ["build_transoss_backbone needs the modality"]),
        (["MODEL.TRANSOSS.NUM_HEADS", "7"], ["EMBED_DIM", "multiple of NUM_HEADS"]),
        (["MODEL.BACKBONE.FEAT_DIM", "512"], ["FEAT_DIM", "768"]),
        (["MODEL.HEADS.JOIN", "['speed']"], ["MODEL.HEADS.JOIN"]),
        (["DATASETS.NAMES", "('HOS',)"], ["DATASETS", "HOSS"]),
        (["TEST.PROTOCOLS", "[['X','radar','all']]"], ["TEST.PROTOCOLS", "optical"]),
        (["TEST.PROTOCOLS", "[['A','all','all'],['A','sar','all']]"], ["one name"]),
        (["TEST.METRIC", "manhattan"], ["TEST.METRIC"]),
        (["TEST.CMC_RANKS", "[5]"], ["TEST.CMC_RANKS"]),
        (["TEST.HOLDOUT.FRACTION", "1.5"], ["TEST.HOLDOUT.FRACTION"]),
        (["TEST.FUSION.ENABLED", "True"], ["TEST.FUSION.ROOT"]),
        (["TEST.EVALUATOR", "FusionEvaluator"], ["TEST.EVALUATOR", "FusionReidEvaluator"]),
        (["DATALOADER.SAMPLER_TRAIN", "RandomSampler"], ["DATALOADER.SAMPLER_TRAIN", "IdentitySampler"]),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_with_the_key(opts, words):
    with pytest.raises(ConfigError) as caught:
        fastreid_mos.load_cfg(VIT, opts)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no keys"]),
        ("just words", ["holds no keys"]),
        ("SOLVER: [1, 2", ["not a readable YAML", '.yml", line 1']),
        ("SOLVER: 3", ["SOLVER: a group of keys"]),
        ("SOLVERR: {MAX_EPOCH: 3}", ["no such key SOLVERR"]),
        ("_BASE_: missing.yml\nSEED: 1", ["_BASE_ is missing"]),
        ("- a\n- b", ["holds no keys"]),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(tmp_path, text, words):
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        fastreid_mos.load_cfg(str(path))
    message = str(caught.value)
    assert "wrong.yml" in message and "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        fastreid_mos.load_cfg(str(tmp_path / "none.yml"))
    path = tmp_path / "binary.yml"
    path.write_bytes(bytes(range(128, 256)) * 10)
    with pytest.raises(ConfigError, match=r"binary\.yml"):
        fastreid_mos.load_cfg(str(path))


def test_numbers_are_taken_as_text_where_the_key_is_text(tmp_path):
    path = tmp_path / "numbers.yml"
    path.write_text(f"_BASE_: {VIT}\nINPUT: {{SAR: {{CHANNEL: 1}}}}\nTEST: {{FUSION: {{ALPHA: 0.1}}}}\n")
    cfg = fastreid_mos.load_cfg(str(path), ["TEST.FUSION.ALPHA", "0.3"])
    assert cfg.INPUT.SAR.CHANNEL == "1" and cfg.TEST.FUSION.ALPHA == "0.3"
