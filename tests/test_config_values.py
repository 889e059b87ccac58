"""Values of the config: what is taken for what, and which are refused, in one line that names the key."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

import fastreid_mos
from fastreid_mos.config import building
from fastreid_mos.config.keys import RULES
from fastreid_mos.errors import ConfigError, WeightsError

DEBUG = str(Path(__file__).parents[1] / "configs/HOSS/demo/debug.yml")
RESNET = "MODEL.BACKBONE.NAME=build_resnet_backbone"


def load(words):
    """The debug config with options written as ``KEY=VALUE``."""
    return fastreid_mos.load_cfg(DEBUG, [part for word in words.split() for part in word.split("=", 1)])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("TEST.HOLDOUT.FRACTION", "0", 0.0),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("MODEL.PIXEL_STD", "(64, 64, 64)", [64.0, 64.0, 64.0]),
        ("MODEL.BACKBONE.STRIDE_SIZE", "[8, 8]", (8, 8)),
        ("MODEL.HEADS.SCALE", "2", 2.0),  # a whole number in fast-reid's defaults
        ("DATALOADER.SET_WEIGHT", "[1, 2]", [1.0, 2.0]),  # empty in fast-reid's defaults
        ("TEST.FUSION.SAMPLES", "[0, 2]", [0, 2]),
        ("MODEL.LOSSES.NAME", "CMALLoss, TripletLoss", ("CMALLoss", "TripletLoss")),
        ("MODEL.LOSSES.NAME", "['CMALLoss']", ("CMALLoss",)),
        ("DATASETS.TESTS", "()", ()),
        ("TEST.FUSION.ALPHA", "0.3", "0.3"),
        ("OUTPUT_DIR", "None", "None"),
        ("OUTPUT_DIR", "'quoted'", "quoted"),
        ("INPUT.FLIP.ENABLED", "false", False),
        # In a file:
        ("OUTPUT_DIR:", "1e5", "1e5"),
        ("OUTPUT_DIR:", "2026-01-02", "2026-01-02"),
        ("MODEL.WEIGHTS:", "", ""),
        ("DATASETS.NAMES:", "HOSS", ("HOSS",)),
        ("SOLVER.BASE_LR:", "1e-4", 1e-4),
        ("INPUT.REA.SCALE:", "[0, 1]", [0.0, 1.0]),
        ("INPUT.SAR.CHANNEL:", "1", "1"),
    ],
)
def test_a_value_becomes_its_keys_type(tmp_path, key, text, value):
    path, opts = tmp_path / "values.yml", [key, text]
    path.write_text(f"_BASE_: {DEBUG}\n")
    if key.endswith(":"):
        path.write_text(f"_BASE_: {DEBUG}\n{key} {text}\n")
        opts = []
    assert repr(attrgetter(key.rstrip(":"))(fastreid_mos.load_cfg(str(path), opts))) == repr(value)


def test_a_list_that_a_file_has_emptied_keeps_its_type(tmp_path):
    path = tmp_path / "empty.yml"
    path.write_text(f"_BASE_: {DEBUG}\nSOLVER: {{STEPS: []}}\n")
    assert fastreid_mos.load_cfg(str(path), ["SOLVER.STEPS", "[1, 2]"]).SOLVER.STEPS == [1, 2]


# A key, values that it refuses, and what the message must have besides the key.
VALUES = """
SOLVER.MAX_EPOCHS 3 | SOLVER.MAX_EPOCH
CMAL.SCALE 3 | MODEL.LOSSES.CMAL.SCALE
SOLVER.BASE_LR.X 3
_BASE_ other.yml
MODEL 3 | MODEL.DEVICE
SOLVER.MAX_EPOCH many 2.5 True | whole
SOLVER.MAX_EPOCH 0 | 1 or more
SEED None 4294967296
SOLVER.BASE_LR nan -1.0
INPUT.FLIP.ENABLED 1 | True or False
INPUT.FLIP.PROB 2.0
MODEL.PIXEL_MEAN ['a',1,2] [1,2]
MODEL.PIXEL_STD [1,0,1]
MODEL.HEADS.JOIN ['speed'] | size, modality
INPUT.SIZE_TRAIN [256]
INPUT.SIZE_TEST [128,64] | SIZE_TRAIN
INPUT.SAR.TRANSFORM SARDenoize | SARDenoise
INPUT.SAR.LOW_PERCENTILE 100.0 | percentiles
INPUT.SAR.CHANNEL first \u00b2
INPUT.SAR.CACHE ram | memory
INPUT.SAR.CACHE disk | INPUT.SAR.CACHE_DIR
INPUT.CROP.SCALE [0.9,0.5]
DATALOADER.SAMPLER_TRAIN RandomSampler | IdentitySampler
DATASETS.NAMES HOSS,HOSS
DATASETS.NAMES HOSS,HOSS_S2O | same training chips
SOLVER.OPT Adamm Optimizer SparseAdam | AdamW
MODEL.DEVICE meta cuda:x | cuda
MODEL.META_ARCHITECTURE Mos | MOS
MODEL.BACKBONE.FEAT_DIM 512 | 48
MODEL.BACKBONE.DROP_PATH_RATIO 1 | drop_path_rate
MODEL.BACKBONE.STRIDE_SIZE (16,) | stride_size
MODEL.TRANSOSS.NUM_HEADS 7 | num_heads
MODEL.TRANSOSS.PATCH_SIZE 33 | patch
MODEL.HEADS.NAME EmbeddingHead | TransOSS
MODEL.HEADS.NORM FrozenBN | syncBN
MODEL.HEADS.SCALE 0
MODEL.WEIGHTS /none.pth | no such
MODEL.LOSSES.CMAL.SCALE -1
MODEL.LOSSES.CE.EPSILON 1.1
TEST.EVALUATOR FusionEvaluator | FusionReidEvaluator
TEST.PROTOCOLS [['X','radar','all']] [['A','all']] [['A','all','all'],['A','sar','all']] [['','all','all']] []
TEST.CMC_RANKS [5]
TEST.ROC.ENABLED True | ReidEvaluator
TEST.FUSION.ENABLED True | TEST.FUSION.ROOT
TEST.FUSION.ALPHA much 1.2 -0.1 nan | auto
TEST.FUSION.ALPHAS [] [0.1,2.0]
TEST.FUSION.SAMPLES [1,1] [-1]
BRIDGE.SIZE [15,8] | multiples
BRIDGE.UNET.HEAD_DIM 5 | CHANNELS
BRIDGE.UNET.ATTENTION [5] | 0 to
BRIDGE.SOLVER.EMA 1.0
BRIDGE.SAMPLE.STEPS 2000 | TIMESTEPS
BRIDGE.SAMPLE.SPLITS ['test'] | holdout
"""
# Options that do not go together; the message must have the last key.
TOGETHER = """
MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=TripletLoss MODEL.BACKBONE.NAME=build_transoss_backbone | MOS
MODEL.BACKBONE.PRETRAIN=True MODEL.BACKBONE.PRETRAIN_PATH=/none.pth | no such
MODEL.BACKBONE.NAME=build_timm_backbone MODEL.HEADS.NAME=EmbeddingHead MODEL.TIMM.NAME=resnet5O | timm
RESNET MODEL.HEADS.NAME=EmbeddingHead MODEL.HEADS.JOIN=size | CMALHead
RESNET MODEL.HEADS.NAME=EmbeddingHead MODEL.HEADS.STRIPES=2 | CMALHead
RESNET MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=CMALLoss | MOS
RESNET MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=TripletLoss MODEL.HEADS.JOIN=size | MOS
RESNET MODEL.LOSSES.NAME=TripletLoss MODEL.META_ARCHITECTURE=Distiller | KD.MODEL_CONFIG
TEST.RERANK.ENABLED=True TEST.RERANK.K2=21 | K1
TEST.EVALUATOR=ReidEvaluator TEST.FUSION.ROOT=x TEST.FUSION.ENABLED=True | FusionReidEvaluator
TEST.FUSION.ENABLED=True TEST.FUSION.ROOT=x TEST.HOLDOUT.FRACTION=0 TEST.FUSION.ALPHA=auto | TEST.HOLDOUT.FRACTION
BRIDGE.UNET.ATTENTION=[] BRIDGE.UNET.HEAD_DIM=5 | CHANNELS
BRIDGE.LATENT.PATH=x BRIDGE.LATENT.TRAIN=True
BRIDGE.LATENT.TRAIN=True BRIDGE.LATENT.CHANNELS=[8,8,8,8,8,8,8,8,8,8] | BRIDGE.SIZE
BRIDGE.SOLVER.SCHED=cosine BRIDGE.SOLVER.WARMUP_STEPS=100000 | STEPS
BRIDGE.SOLVER.SCHED=plateau BRIDGE.SOLVER.WARMUP_STEPS=8
"""


@pytest.mark.parametrize("line", [*VALUES.strip().splitlines(), *TOGETHER.strip().splitlines()])
def test_what_cannot_work_is_refused_in_one_line_with_the_key(line):
    words, _, inside = line.replace("RESNET", RESNET).partition(" | ")
    if "=" not in words:
        key, *values = words.split()
    for options in [words] if "=" in words else [f"{key}={value}" for value in values]:
        with pytest.raises(ConfigError) as caught:
            load(options)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 500
        assert options.split()[-1].split("=")[0].rpartition(".")[0] in message and inside in message


def test_words_that_are_no_pairs():
    for opts, word in ((["SOLVER.MAX_EPOCH"], "KEY VALUE"), (["SEED", "1", "--resume", "x"], "--resume")):
        with pytest.raises(ConfigError, match=word):
            fastreid_mos.load_cfg(DEBUG, opts)


def test_what_a_wrong_value_leads_to_is_one_line_and_a_bug_is_not():
    for error in (ValueError, RuntimeError, KeyError, IndexError, AssertionError, ZeroDivisionError):
        with (
            pytest.raises(ConfigError, match=r"^SOLVER: the optimizer .*: two lines$"),
            building("SOLVER: the optimizer"),
        ):
            raise error("two\nlines")
    for bug in (TypeError("a"), AttributeError("a"), WeightsError("a"), OSError("a")):
        with pytest.raises(type(bug)) as caught, building("MODEL"):
            raise bug
        assert caught.value is bug


def test_nan_keeps_no_rule_on_numbers():
    cfg = fastreid_mos.get_cfg()
    numbers = [key for key in RULES if isinstance(attrgetter(key)(cfg), float)]
    assert numbers and [key for key in numbers if RULES[key].holds(float("nan"))] == []


@pytest.mark.parametrize(
    "words",
    [
        "MODEL.DEVICE=cuda:11",  # a config for a GPU can be read without one
        "SOLVER.MAX_EPOCH=1 SOLVER.WARMUP_EPOCHS=5",  # a single epoch of a recipe that warms up for five
        "MODEL.LOSSES.CE.EPSILON=-1",  # fast-reid's adaptive smoothing
        "SEED=-1",
        "TEST.FUSION.ALPHA=auto",
        "TEST.RERANK.K2=21",  # not enabled
        "DATASETS.TESTS=HOSS_O2S,HOSS_S2O",
        f"MODEL.HEADS.NAME=EmbeddingHead {RESNET}",
        "TEST.FUSION.ENABLED=True TEST.FUSION.ROOT=x TEST.FUSION.ALPHA=auto TEST.HOLDOUT.FRACTION=0.2",
    ],
)
def test_what_works_is_let_through(words):
    assert load(words).dump() != load("").dump()
