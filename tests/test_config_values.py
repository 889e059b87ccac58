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
BASELINE = f"MODEL.META_ARCHITECTURE=Baseline {RESNET}"


def load(words, config=DEBUG):
    """The config with options written as ``KEY=VALUE``."""
    return fastreid_mos.load_cfg(config, [part for word in words.split() for part in word.split("=", 1)])


TAKEN = [
    ("TEST.HOLDOUT.FRACTION", "0", 0.0),
    ("SOLVER.BASE_LR", "1e-4", 1e-4),
    ("INPUT.REA.SCALE", "[0, 1]", [0.0, 1.0]),
    ("MODEL.PIXEL_STD", "(64, 64, 64)", [64.0, 64.0, 64.0]),
    ("MODEL.BACKBONE.STRIDE_SIZE", "[8, 8]", (8, 8)),
    ("MODEL.HEADS.SCALE", "0.5", 0.5),  # a whole number in fast-reid's defaults
    ("MODEL.HEADS.SCALE", "2", 2.0),
    ("DATALOADER.SET_WEIGHT", "[1, 2]", [1.0, 2.0]),  # empty in fast-reid's defaults
    ("TEST.FUSION.SAMPLES", "[0, 2]", [0, 2]),
    ("MODEL.LOSSES.NAME", "CMALLoss", ("CMALLoss",)),
    ("MODEL.LOSSES.NAME", "CMALLoss, TripletLoss", ("CMALLoss", "TripletLoss")),
    ("MODEL.LOSSES.NAME", "['CMALLoss']", ("CMALLoss",)),
    ("DATASETS.TESTS", "()", ()),
    ("MODEL.BACKBONE.DEPTH", "50", "50"),
    ("TEST.FUSION.ALPHA", "0.3", "0.3"),
    ("OUTPUT_DIR", "1e5", "1e5"),
    ("OUTPUT_DIR", "None", "None"),
    ("OUTPUT_DIR", "'quoted'", "quoted"),
    ("INPUT.FLIP.ENABLED", "false", False),
]  # fmt: skip
IN_FILES = [
    ("TEST.HOLDOUT.FRACTION", "0", 0.0),
    ("OUTPUT_DIR", "1234", "1234"),
    ("OUTPUT_DIR", "1e5", "1e5"),
    ("OUTPUT_DIR", "2026-01-02", "2026-01-02"),
    ("MODEL.WEIGHTS", "", ""),
    ("DATASETS.NAMES", "HOSS", ("HOSS",)),
    ("SOLVER.BASE_LR", "1e-4", 1e-4),
    ("INPUT.REA.SCALE", "[0, 1]", [0.0, 1.0]),
    ("INPUT.SAR.CHANNEL", "1", "1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text", "value", "in_file"), [(*t, False) for t in TAKEN] + [(*t, True) for t in IN_FILES]
)
def test_a_value_becomes_its_keys_type(tmp_path, key, text, value, in_file):
    path = tmp_path / "values.yml"
    path.write_text(f"_BASE_: {DEBUG}\n{key}: {text}\n")
    cfg = fastreid_mos.load_cfg(str(path)) if in_file else fastreid_mos.load_cfg(DEBUG, [key, text])
    taken = attrgetter(key)(cfg)
    assert taken == value and type(taken) is type(value)
    if isinstance(value, (list, tuple)):
        assert [type(part) for part in taken] == [type(part) for part in value]


def test_a_list_that_a_file_has_emptied_keeps_its_type(tmp_path):
    path = tmp_path / "empty.yml"
    path.write_text(f"_BASE_: {DEBUG}\nSOLVER: {{STEPS: []}}\n")
    assert fastreid_mos.load_cfg(str(path), ["SOLVER.STEPS", "[1, 2]"]).SOLVER.STEPS == [1, 2]


# Options (in the debug config), and what the message must have besides the key of the last one.
REFUSED = """
SOLVER.MAX_EPOCHS=3 | SOLVER.MAX_EPOCH
CMAL.SCALE=3 | MODEL.LOSSES.CMAL.SCALE
SOLVER.BASE_LR.X=3
_BASE_=other.yml
MODEL=3 | MODEL.DEVICE
SOLVER.MAX_EPOCH=many | 'many'
SOLVER.MAX_EPOCH=2.5 | whole
SOLVER.MAX_EPOCH=True | whole
SOLVER.MAX_EPOCH=0 | 1 or more
SEED=None
SEED=4294967296
SOLVER.BASE_LR=fast | number
SOLVER.BASE_LR=nan
SOLVER.BASE_LR=1e999
SOLVER.BASE_LR=-1.0
INPUT.FLIP.ENABLED=1 | True or False
MODEL.PIXEL_MEAN=['a',1,2]
MODEL.PIXEL_MEAN=[1,2] | three
MODEL.PIXEL_STD=[1,0,1]
MODEL.HEADS.JOIN=3
MODEL.HEADS.JOIN=['speed'] | size, modality
INPUT.SIZE_TRAIN=flip | [256, 128]
INPUT.SIZE_TRAIN=[256]
INPUT.SIZE_TEST=[128,64] | SIZE_TRAIN
INPUT.SAR.TRANSFORM=SARDenoize | SARDenoise
INPUT.SAR.LOW_PERCENTILE=100.0 | percentiles
INPUT.SAR.CHANNEL=first
INPUT.SAR.CHANNEL=\u00b2
INPUT.SAR.CACHE=ram | memory
INPUT.SAR.CACHE=disk | INPUT.SAR.CACHE_DIR
INPUT.RESIZE.TRAIN=cubic | bicubic
INPUT.REA.MODE=random
INPUT.FLIP.PROB=2.0
INPUT.CROP.SCALE=[0.9,0.5]
INPUT.CROP.RATIO=[0,1]
INPUT.CJ.HUE=0.6 | 0.5
INPUT.CJ.CONTRAST=-1
DATALOADER.NUM_WORKERS=-1
DATALOADER.SAMPLER_TRAIN=RandomSampler | IdentitySampler
DATASETS.NAMES=HOS | HOSS
DATASETS.NAMES=HOSS,HOSS
DATASETS.TESTS=HOSS,HOSS
DATASETS.NAMES=HOSS,HOSS_S2O | same training chips
SOLVER.SCHED=Cosine | WarmupCosineLR
SOLVER.WARMUP_METHOD=slow | linear
SOLVER.OPT=Adamm | AdamW
SOLVER.AMP.DTYPE=float8
SOLVER.MOMENTUM=1.5
SOLVER.WEIGHT_DECAY_NORM=-1
SOLVER.ETA_MIN_FACTOR=2
SOLVER.CLIP_GRADIENTS.CLIP_TYPE=hard | norm
MODEL.DEVICE=meta | cuda
MODEL.DEVICE=gpu
MODEL.DEVICE=cuda:x
MODEL.META_ARCHITECTURE=Mos | MOS
MODEL.META_ARCHITECTURE=Baseline MODEL.LOSSES.NAME=TripletLoss MODEL.BACKBONE.NAME=build_transoss_backbone | MOS
MODEL.BACKBONE.NAME=build_transos_backbone | build_transoss_backbone
MODEL.BACKBONE.NORM=BM | BN
MODEL.BACKBONE.FEAT_DIM=512 | 48
MODEL.HEADS.NAME=CMALhead | CMALHead
MODEL.HEADS.NAME=EmbeddingHead | TransOSS
MODEL.HEADS.NORM=FrozenBN | syncBN
MODEL.HEADS.POOL_LAYER=MaxPol | GlobalMaxPool
MODEL.HEADS.SCALE=0
MODEL.LOSSES.CMAL.SCALE=-1
MODEL.WEIGHTS=/none.pth | no such
MODEL.BACKBONE.PRETRAIN=True MODEL.BACKBONE.PRETRAIN_PATH=/none.pth | no such
MODEL.LOSSES.CE.EPSILON=1.1
MODEL.LOSSES.NAME=CrossEntropy | CrossEntropyLoss
RESNET MODEL.HEADS.NAME=EmbeddingHead MODEL.HEADS.JOIN=size | CMALHead
RESNET MODEL.HEADS.NAME=EmbeddingHead MODEL.HEADS.STRIPES=2 | CMALHead
BASELINE MODEL.LOSSES.NAME=CMALLoss | MOS
BASELINE MODEL.LOSSES.NAME=TripletLoss MODEL.HEADS.JOIN=size | MOS
RESNET MODEL.LOSSES.NAME=TripletLoss MODEL.META_ARCHITECTURE=Distiller | KD.MODEL_CONFIG
TEST.EVALUATOR=FusionEvaluator | FusionReidEvaluator
TEST.PROTOCOLS=[['X','radar','all']] | optical
TEST.PROTOCOLS=[['A','all']]
TEST.PROTOCOLS=[['A','all','all'],['A','sar','all']]
TEST.PROTOCOLS=[['','all','all']]
TEST.PROTOCOLS=[]
TEST.METRIC=manhattan | cosine
TEST.CMC_RANKS=[5]
TEST.RANDOM_DRAWS=0
TEST.BOOTSTRAP.SAMPLES=-1
TEST.HOLDOUT.FRACTION=1.5
TEST.HOLDOUT.SEED=-1
TEST.RERANK.LAMBDA=1.5
TEST.RERANK.ENABLED=True TEST.RERANK.K2=21 | K1
TEST.AQE.QE_K=0
TEST.ROC.ENABLED=True | ReidEvaluator
TEST.FUSION.ENABLED=True | TEST.FUSION.ROOT
TEST.EVALUATOR=ReidEvaluator TEST.FUSION.ROOT=x TEST.FUSION.ENABLED=True | FusionReidEvaluator
TEST.FUSION.ENABLED=True TEST.FUSION.ROOT=x TEST.HOLDOUT.FRACTION=0 TEST.FUSION.ALPHA=auto | TEST.HOLDOUT.FRACTION
TEST.FUSION.ALPHA=much | auto
TEST.FUSION.ALPHA=1.2
TEST.FUSION.ALPHA=-0.1
TEST.FUSION.ALPHA=nan
TEST.FUSION.ALPHAS=[]
TEST.FUSION.ALPHAS=[0.1,2.0]
TEST.FUSION.DIRECTION=both | sar_to_optical
TEST.FUSION.K=0
TEST.FUSION.SAMPLES=[1,1]
TEST.FUSION.SAMPLES=[-1]
BRIDGE.DIRECTION=up | optical_to_sar
BRIDGE.SIZE=[15,8] | multiples
BRIDGE.SIZE=[16]
BRIDGE.DATA.NAMES=[]
BRIDGE.DATA.PAIRING=best | ordered
BRIDGE.UNET.HEAD_DIM=5 | CHANNELS
BRIDGE.UNET.ATTENTION=[] BRIDGE.UNET.HEAD_DIM=5 | CHANNELS
BRIDGE.UNET.ATTENTION=[5] | 0 to
BRIDGE.UNET.CHANNELS=[]
BRIDGE.UNET.INIT=zeros
BRIDGE.LATENT.LAYERS=0
BRIDGE.LATENT.PATH=x BRIDGE.LATENT.TRAIN=True
BRIDGE.LATENT.TRAIN=True BRIDGE.LATENT.CHANNELS=[8,8,8,8,8,8,8,8,8,8] | BRIDGE.SIZE
BRIDGE.SOLVER.EMA=1.0
BRIDGE.SOLVER.EMA_START=-1
BRIDGE.SOLVER.LR=0
BRIDGE.SOLVER.SCHED=step | plateau
BRIDGE.SOLVER.SCHED=cosine BRIDGE.SOLVER.WARMUP_STEPS=100000 | STEPS
BRIDGE.SOLVER.SCHED=plateau BRIDGE.SOLVER.WARMUP_STEPS=8
BRIDGE.SAMPLE.PRECISION=float16 | fp16
BRIDGE.SAMPLE.STEPS=2000 | TIMESTEPS
BRIDGE.SAMPLE.SPLITS=['test'] | holdout
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_cannot_work_is_refused_in_one_line_with_the_key(line):
    words, _, inside = line.replace("RESNET", RESNET).replace("BASELINE", BASELINE).partition(" | ")
    with pytest.raises(ConfigError) as caught:
        load(words)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert words.split()[-1].split("=")[0].rpartition(".")[0] in message and inside in message


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("MODEL.TRANSOSS.NUM_HEADS=7", "num_heads"),
        ("MODEL.TRANSOSS.EMBED_DIM=50 MODEL.BACKBONE.FEAT_DIM=0", "embed_dim"),
        ("MODEL.TRANSOSS.DEPTH=0", "depth"),
        ("MODEL.TRANSOSS.MLP_RATIO=0", "mlp_ratio"),
        ("MODEL.TRANSOSS.PATCH_SIZE=33", "patch"),
        ("MODEL.BACKBONE.DROP_PATH_RATIO=1", "drop_path_rate"),
        ("MODEL.BACKBONE.ATT_DROP_RATE=-0.1", "attn_drop_rate"),
        ("MODEL.BACKBONE.STRIDE_SIZE=(16,)", "stride_size"),
        ("MODEL.BACKBONE.STRIDE_SIZE=(0,16)", "stride_size"),
    ],
)  # fmt: skip
def test_transoss_checks_its_own_arguments_before_any_data_is_read(option, name):
    with pytest.raises(ConfigError, match=name):
        load(option)


def test_words_that_are_no_pairs():
    for opts, word in ((["SOLVER.MAX_EPOCH"], "KEY VALUE"), (["SEED", "1", "--resume", "x"], "--resume")):
        with pytest.raises(ConfigError, match=word):
            fastreid_mos.load_cfg(DEBUG, opts)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, IndexError, AssertionError, ZeroDivisionError])
def test_what_a_wrong_value_leads_to_is_one_line(error):
    with pytest.raises(ConfigError) as caught, building("SOLVER: the optimizer"):
        raise error("two\nlines")
    assert str(caught.value).startswith("SOLVER: the optimizer") and str(caught.value).endswith(": two lines")


@pytest.mark.parametrize("error", [TypeError("a"), AttributeError("a"), WeightsError("a"), OSError("a")])
def test_a_bug_is_no_wrong_setting(error):
    with pytest.raises(type(error)) as caught, building("MODEL"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("key", RULES)
def test_nan_keeps_no_rule_on_numbers(key):
    default = attrgetter(key)(fastreid_mos.get_cfg())
    if isinstance(default, float):
        assert not RULES[key].holds(float("nan"))


@pytest.mark.parametrize(
    "words",
    [
        "MODEL.DEVICE=cuda",  # a config for a GPU can be read without one
        "MODEL.DEVICE=cuda:11",
        "SOLVER.MAX_EPOCH=1 SOLVER.WARMUP_EPOCHS=5",  # a single epoch of a recipe that warms up for five
        "MODEL.LOSSES.CE.EPSILON=-1",  # fast-reid's adaptive smoothing
        "SEED=-1",
        "SEED=4294967295",
        "TEST.FUSION.ALPHA=auto",
        "TEST.RERANK.K2=21",  # not enabled
        "DATASETS.TESTS=HOSS_O2S,HOSS_S2O",
        "SOLVER.SCHED=MultiStepLR SOLVER.STEPS=[1,2]",
        f"MODEL.HEADS.NAME=EmbeddingHead {RESNET}",
        "TEST.FUSION.ENABLED=True TEST.FUSION.ROOT=x TEST.FUSION.ALPHA=auto TEST.HOLDOUT.FRACTION=0.2",
    ],
)
def test_what_works_is_let_through(words):
    assert load(words).dump() != load("").dump()
