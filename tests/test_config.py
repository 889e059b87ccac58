"""Configs: what is shipped reads, what a value is taken for, and a wrong file or value is one line naming it."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

import fastreid_mos
from fastreid_mos.config import building
from fastreid_mos.config.keys import FASTREID_RULES, MOS_KEYS, RULES
from fastreid_mos.errors import ConfigError, WeightsError

CONFIGS = Path(__file__).parents[1] / "configs"
VIT = str(CONFIGS / "HOSS/mos_vit.yml")
DEBUG = str(CONFIGS / "HOSS/demo/debug.yml")
RECIPE = """
SOLVER.OPT SGD SOLVER.MOMENTUM 0.9 SOLVER.BASE_LR 5e-4 SOLVER.BIAS_LR_FACTOR 2 SOLVER.WEIGHT_DECAY 1e-4
SOLVER.WEIGHT_DECAY_BIAS 1e-4 SOLVER.WEIGHT_DECAY_NORM 1e-4 SOLVER.MAX_EPOCH 100 SOLVER.WARMUP_EPOCHS 5
SOLVER.WARMUP_FACTOR 0.01 SOLVER.ETA_MIN_FACTOR 0.002 SOLVER.IMS_PER_BATCH 32 SOLVER.SCHED WarmupCosineLR
SOLVER.WARMUP_ITERS 0 SOLVER.AMP.ENABLED True DATALOADER.NUM_INSTANCE 4 DATALOADER.SAMPLER_TRAIN IdentitySampler
INPUT.SIZE_TRAIN [256,128] INPUT.SIZE_TEST [256,128] INPUT.FLIP.ENABLED True INPUT.FLIP.PROB 0.5
INPUT.PADDING.ENABLED True INPUT.PADDING.SIZE 10 INPUT.REA.ENABLED True INPUT.REA.PROB 0.5 INPUT.REA.MODE pixel
INPUT.RESIZE.TRAIN bicubic INPUT.RESIZE.TEST bilinear INPUT.SAR.TRANSFORM SARDenoise INPUT.SAR.LOW_PERCENTILE 5
INPUT.SAR.HIGH_PERCENTILE 100 MODEL.BACKBONE.DROP_PATH_RATIO 0.1 MODEL.HEADS.TEST_NECK_FEAT before
MODEL.LOSSES.NAME CrossEntropyLoss,TripletLoss,CMALLoss MODEL.LOSSES.CE.EPSILON 0 MODEL.LOSSES.TRI.MARGIN 0
MODEL.LOSSES.TRI.HARD_MINING True MODEL.LOSSES.CMAL.SCALE 2 TEST.METRIC cosine TEST.REMOVE_SAME_CAMERA False
"""


def test_every_shipped_config_reads_and_mos_vit_is_the_papers_recipe():
    for path in CONFIGS.rglob("*.yml"):
        model = fastreid_mos.load_cfg(str(path)).MODEL
        assert (model.META_ARCHITECTURE, model.DEVICE) == (
            "MOS",
            "cpu" if path.parent.name in ("demo", "zoo") else "cuda",
        )
    assert fastreid_mos.load_cfg(VIT, RECIPE.split()).dump() == fastreid_mos.load_cfg(VIT).dump()


def test_the_table_holds_every_key_once_and_defaults_keep_their_rules():
    names = [key.name for key in MOS_KEYS]
    assert len(set(names)) == len(names) and not set(names) & set(FASTREID_RULES)
    assert [key.name for key in MOS_KEYS if key.rule and not key.rule.holds(key.default)] == []
    one, other = fastreid_mos.get_cfg(), fastreid_mos.get_cfg()
    assert attrgetter(*RULES)(one)  # no rule of a key that is not there
    numbers = [key for key in RULES if isinstance(attrgetter(key)(one), float)]
    assert numbers and [key for key in numbers if RULES[key].holds(float("nan"))] == []
    one.TEST.PROTOCOLS[0].append("x")  # lists of two configs are their own
    assert one.TEST.PROTOCOLS != other.TEST.PROTOCOLS == fastreid_mos.get_cfg().TEST.PROTOCOLS


def test_what_a_run_saves_reads_as_the_same_config_whatever_the_version(tmp_path, caplog):
    cfg = fastreid_mos.load_cfg(VIT, ["INPUT.SAR.CHANNEL", "1", "OUTPUT_DIR", "12"])
    path, line = tmp_path / "saved.yml", "    MODE: mean\n"
    assert cfg.dump().count(line) == 1
    for value in (line, "", line.replace("mean", "densest"), line.replace("mean", "inverse_variance")):
        caplog.clear()
        path.write_text(cfg.dump().replace(line, value))
        assert fastreid_mos.load_cfg(str(path)) == cfg
        assert ("mean is taken" in caplog.text) == (value not in (line, ""))


FILES = [
    ("", "holds no keys"),
    (bytes(range(128, 256)) * 10, "YAML"),
    ("SEED: !!python/object:os.system {}", "YAML"),
    ("SOLVER: 3", "SOLVER: a group"),
    ("SOLVER: {BASE_LR: .inf}", "SOLVER.BASE_LR"),
    ("_BASE_: missing.yml\nSEED: 1", "missing.yml"),
    ("_BASE_:", "_BASE_"),
    ("_BASE_: wrong.yml", "comes back to"),
    ("TEST:\n  FUSION:\n    K: 1\n    'K': 2", "TEST.FUSION.K stands in line 3 and again in line 4"),
    ("SOLVER: {MAX_EPOCH: 4}\nSOLVER.MAX_EPOCH: 3", "SOLVER.MAX_EPOCH"),
]


@pytest.mark.parametrize(("text", "words"), FILES, ids=[words for _, words in FILES])
def test_a_wrong_file_is_one_line_with_its_name(tmp_path, text, words):
    path = tmp_path / "wrong.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        fastreid_mos.load_cfg(str(path))
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and words in message and "\n" not in message


def test_files_below_others(tmp_path):
    base, own = tmp_path / "base.yml", tmp_path / "own.yml"
    own.write_text("_BASE_: base.yml\nSOLVER: {MAX_EPOCH: 9}")
    base.write_text("SOLVER: {BASE_LR: fast}")
    with pytest.raises(ConfigError, match=f"^{base}: SOLVER.BASE_LR"):
        fastreid_mos.load_cfg(str(own))
    # An own key beside a merged one is YAML's way of overriding; a list that is emptied keeps its type.
    base.write_text("SOLVER: {<<: &one {MAX_EPOCH: 7}, MAX_EPOCH: 8, STEPS: []}")
    solvers = [fastreid_mos.load_cfg(str(path), ["SOLVER.STEPS", "[1, 2]"]).SOLVER for path in (base, own)]
    assert [(solver.MAX_EPOCH, solver.STEPS) for solver in solvers] == [(8, [1, 2]), (9, [1, 2])]


VALUES = [
    ("TEST.HOLDOUT.FRACTION", "0", 0.0),
    ("MODEL.BACKBONE.STRIDE_SIZE", "[8, 8]", (8, 8)),
    ("MODEL.HEADS.SCALE", "2", 2.0),  # a whole number in fast-reid's defaults
    ("DATALOADER.SET_WEIGHT", "[1, 2]", [1.0, 2.0]),  # empty in fast-reid's defaults
    ("MODEL.LOSSES.NAME", "CMALLoss, TripletLoss", ("CMALLoss", "TripletLoss")),
    ("DATASETS.TESTS", "()", ()),
    ("TEST.FUSION.ALPHA", "0.3", "0.3"),
    ("OUTPUT_DIR", "None", "None"),
    ("OUTPUT_DIR", "'quoted'", "quoted"),
    ("INPUT.FLIP.ENABLED", "false", False),
    # In a file:
    ("OUTPUT_DIR:", "2026-01-02", "2026-01-02"),
    ("MODEL.WEIGHTS:", "", ""),
    ("SOLVER.BASE_LR:", "1e-4", 1e-4),
    ("INPUT.SAR.CHANNEL:", "1", "1"),
]


@pytest.mark.parametrize(("key", "text", "value"), VALUES)
def test_a_value_becomes_its_keys_type(tmp_path, key, text, value):
    path, in_file = tmp_path / "values.yml", key.endswith(":")
    path.write_text(f"_BASE_: {DEBUG}\n" + f"{key} {text}\n" * in_file)
    cfg = fastreid_mos.load_cfg(str(path), [] if in_file else [key, text])
    assert repr(attrgetter(key.rstrip(":"))(cfg)) == repr(value)


# Options, and what the message must have besides the group of the last key.
REFUSED = """
SOLVER.MAX_EPOCHS=3 | SOLVER.MAX_EPOCH
CMAL.SCALE=3 | MODEL.LOSSES.CMAL.SCALE
MODEL=3 | MODEL.DEVICE
SOLVER.MAX_EPOCH=2.5 | whole
SOLVER.MAX_EPOCH=0 | 1 or more
SOLVER.BASE_LR=nan
INPUT.FLIP.ENABLED=1 | True or False
INPUT.FLIP.PROB=2.0
MODEL.PIXEL_STD=[1,0,1]
MODEL.HEADS.JOIN=['speed'] | size, modality
INPUT.SIZE_TRAIN=[256]
INPUT.SIZE_TEST=[192,480000] | 8 to 4096
INPUT.SIZE_TEST=[128,64] | SIZE_TRAIN
INPUT.SAR.TRANSFORM=SARDenoize | SARDenoise
INPUT.SAR.LOW_PERCENTILE=100.0 | percentiles
INPUT.SAR.CACHE=disk | INPUT.SAR.CACHE_DIR
DATASETS.NAMES=HOSS,HOSS
DATASETS.NAMES=HOSS,HOSS_S2O | same training chips
SOLVER.OPT=SparseAdam | AdamW
MODEL.DEVICE=meta | cuda
MODEL.BACKBONE.FEAT_DIM=512 | 48
MODEL.TRANSOSS.NUM_HEADS=7 | num_heads
MODEL.HEADS.NAME=EmbeddingHead | TransOSS
MODEL.WEIGHTS=/none.pth | no such
MODEL.LOSSES.CE.EPSILON=1.1
TEST.PROTOCOLS=[['X','radar','all']]
TEST.PROTOCOLS=[['A','all','all'],['A','sar','all']]
TEST.ROC.ENABLED=True | ReidEvaluator
TEST.RERANK.ENABLED=True TEST.RERANK.K2=21 | K1
TEST.FUSION.ENABLED=True | TEST.FUSION.ROOT
TEST.FUSION.ALPHA=1.2 | auto
TEST.FUSION.MODE=median | mapped
TEST.FUSION.SAMPLES=[1,1]
TEST.EVALUATOR=ReidEvaluator TEST.FUSION.ROOT=x TEST.FUSION.ENABLED=True | FusionReidEvaluator
TEST.FUSION.ENABLED=True TEST.FUSION.ROOT=x TEST.HOLDOUT.FRACTION=0 TEST.FUSION.ALPHA=auto | TEST.HOLDOUT.FRACTION
MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=TripletLoss MODEL.BACKBONE.NAME=build_transoss_backbone | MOS
MODEL.BACKBONE.NAME=build_timm_backbone MODEL.HEADS.NAME=EmbeddingHead MODEL.TIMM.NAME=resnet5O | timm
RESNET MODEL.HEADS.NAME=EmbeddingHead MODEL.HEADS.JOIN=size | CMALHead
RESNET MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=CMALLoss | MOS
RESNET MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=TripletLoss MODEL.HEADS.JOIN=size | MOS
RESNET MODEL.LOSSES.NAME=TripletLoss MODEL.META_ARCHITECTURE=Distiller | KD.MODEL_CONFIG
BRIDGE.SIZE=[15,8] | multiples
BRIDGE.LATENT.TRAIN=True BRIDGE.LATENT.CHANNELS=[8,8,8,8,8,8,8,8,8,8] | BRIDGE.SIZE
BRIDGE.LATENT.PATH=x BRIDGE.LATENT.TRAIN=True
BRIDGE.UNET.ATTENTION=[] BRIDGE.UNET.HEAD_DIM=5 | CHANNELS
BRIDGE.SOLVER.SCHED=cosine BRIDGE.SOLVER.WARMUP_STEPS=100000 | STEPS
BRIDGE.SOLVER.SCHED=plateau BRIDGE.SOLVER.WARMUP_STEPS=8
BRIDGE.SAMPLE.STEPS=2000 | TIMESTEPS
BRIDGE.SAMPLE.SPLITS=['test'] | holdout
"""
# A recipe with a longer warm-up, adaptive smoothing ...
TAKEN = """
SOLVER.MAX_EPOCH=1 SOLVER.WARMUP_EPOCHS=5
MODEL.LOSSES.CE.EPSILON=-1
DATASETS.TESTS=HOSS_O2S,HOSS_S2O
RESNET MODEL.HEADS.NAME=EmbeddingHead
TEST.FUSION.ENABLED=True TEST.FUSION.ROOT=x TEST.FUSION.ALPHA=auto TEST.HOLDOUT.FRACTION=0.2
"""


def load(words):
    words = words.replace("RESNET", "MODEL.BACKBONE.NAME=build_resnet_backbone").split()
    return fastreid_mos.load_cfg(DEBUG, [part for word in words for part in word.split("=", 1)])


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_cannot_work_is_refused_in_one_line_with_the_key(line):
    words, _, inside = line.partition(" | ")
    with pytest.raises(ConfigError) as caught:
        load(words)
    message = str(caught.value)
    assert words.split()[-1].split("=")[0].rpartition(".")[0] in message and inside in message
    assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("line", TAKEN.strip().splitlines())
def test_what_works_is_let_through(line):
    assert load(line).dump() != load("").dump()


def test_words_that_are_no_pairs():
    for opts, word in ((["SOLVER.MAX_EPOCH"], "KEY VALUE"), (["SEED", "1", "--resume", "x"], "--resume")):
        with pytest.raises(ConfigError, match=word):
            fastreid_mos.load_cfg(DEBUG, opts)


def test_what_a_wrong_value_leads_to_is_one_line_and_a_bug_is_not():
    for error in (ValueError, RuntimeError, KeyError, AssertionError, ZeroDivisionError):
        with pytest.raises(ConfigError, match="^SOLVER .*: two lines$"), building("SOLVER"):
            raise error("two\nlines")
    for bug in (TypeError, AttributeError, WeightsError, OSError):
        with pytest.raises(bug), building("MODEL"):
            raise bug("a")
