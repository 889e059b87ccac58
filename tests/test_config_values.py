"""Values of the config: what is taken for what, and which are refused, in one line that names the key."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

import fastreid_mos
from fastreid_mos.errors import ConfigError

DEBUG = str(Path(__file__).parents[1] / "configs/HOSS/demo/debug.yml")


def value_of(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def refusal(*opts, config=DEBUG):
    with pytest.raises(ConfigError) as caught:
        fastreid_mos.load_cfg(config, list(opts))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


TAKEN = [
    ("TEST.HOLDOUT.FRACTION", "0", 0.0),
    ("MODEL.LOSSES.CMAL.SCALE", "2", 2.0),
    ("SOLVER.WEIGHT_DECAY", "0", 0.0),
    ("INPUT.FLIP.PROB", "1", 1.0),
    ("SOLVER.BASE_LR", "1", 1.0),
    ("SOLVER.BASE_LR", "1e-4", 1e-4),
    ("INPUT.REA.SCALE", "[0, 1]", [0.0, 1.0]),
    ("MODEL.PIXEL_STD", "(64, 64, 64)", [64.0, 64.0, 64.0]),
    ("MODEL.HEADS.SCALE", "0.5", 0.5),
    ("MODEL.LOSSES.NAME", "CMALLoss", ("CMALLoss",)),
    ("MODEL.LOSSES.NAME", "CMALLoss, TripletLoss", ("CMALLoss", "TripletLoss")),
    ("MODEL.LOSSES.NAME", "['CMALLoss']", ("CMALLoss",)),
    ("DATASETS.NAMES", "HOSS", ("HOSS",)),
    ("DATASETS.TESTS", "()", ()),
    ("MODEL.BACKBONE.DEPTH", "50", "50"),
    ("OUTPUT_DIR", "1234", "1234"),
    ("OUTPUT_DIR", "1e5", "1e5"),
    ("OUTPUT_DIR", "None", "None"),
    ("OUTPUT_DIR", "'quoted'", "quoted"),
    ("INPUT.FLIP.ENABLED", "false", False),
    ("MODEL.BACKBONE.STRIDE_SIZE", "[8, 8]", (8, 8)),
]


@pytest.mark.parametrize(("key", "text", "value"), TAKEN)
def test_an_option_becomes_its_keys_type(key, text, value):
    taken = value_of(fastreid_mos.load_cfg(DEBUG, [key, text]), key)
    assert taken == value and type(taken) is type(value)
    if isinstance(value, (list, tuple)):
        assert [type(part) for part in taken] == [type(part) for part in value]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("TEST: {HOLDOUT: {FRACTION: 0}}", "TEST.HOLDOUT.FRACTION", 0.0),
        ("OUTPUT_DIR: 1234", "OUTPUT_DIR", "1234"),
        ("OUTPUT_DIR: 1e5", "OUTPUT_DIR", "1e5"),
        ("MODEL: {WEIGHTS: }", "MODEL.WEIGHTS", ""),
        ("DATASETS: {NAMES: HOSS}", "DATASETS.NAMES", ("HOSS",)),
        ("SOLVER: {BASE_LR: 1e-4}", "SOLVER.BASE_LR", 1e-4),
        ("INPUT: {REA: {SCALE: [0, 1]}}", "INPUT.REA.SCALE", [0.0, 1.0]),
    ],
)
def test_a_value_in_a_file_becomes_its_keys_type(tmp_path, text, key, value):
    path = tmp_path / "values.yml"
    path.write_text(f"_BASE_: {DEBUG}\n{text}\n")
    taken = value_of(fastreid_mos.load_cfg(str(path)), key)
    assert taken == value and type(taken) is type(value)


def test_what_a_run_saves_reads_as_the_same_config(tmp_path):
    cfg = fastreid_mos.load_cfg(DEBUG, ["INPUT.SAR.CHANNEL", "1", "OUTPUT_DIR", "12"])
    path = tmp_path / "saved.yml"
    path.write_text(cfg.dump())
    assert fastreid_mos.load_cfg(str(path)) == cfg


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("INPUT.SIZE_TRAIN", "flip", "INPUT.SIZE_TRAIN: a list such as [64, 32] is wanted, got 'flip'"),
        ("SOLVER.MAX_EPOCH", "2.5", "SOLVER.MAX_EPOCH: a whole number such as 2 is wanted, got 2.5"),
        ("SEED", "None", "SEED: a whole number such as 0 is wanted, got None"),
        ("SOLVER.BASE_LR", "fast", "SOLVER.BASE_LR: a number such as 0.0005 is wanted, got 'fast'"),
        ("SOLVER.BASE_LR", "nan", "SOLVER.BASE_LR: a number"),
        ("SOLVER.BASE_LR", "1e999", "SOLVER.BASE_LR: a number"),
        ("INPUT.FLIP.ENABLED", "1", "INPUT.FLIP.ENABLED: True or False is wanted, got 1"),
        ("MODEL.PIXEL_MEAN", "['a', 1, 2]", "MODEL.PIXEL_MEAN: a list such as"),
        ("DATASETS.NAMES", "[1]", "DATASETS.NAMES: a list of names"),
        ("MODEL.HEADS.JOIN", "3", "MODEL.HEADS.JOIN: a list of names such as ['name'] is wanted, got 3"),
        ("MODEL", "3", "MODEL: a group of keys (MODEL.DEVICE"),
        ("SOLVER.BASE_LR.X", "3", "no such key SOLVER.BASE_LR.X"),
        ("_BASE_", "other.yml", "_BASE_: belongs in a config file"),
        ("", "3", "no such key"),
        ("OUTPUT_DIR", "out\udcb4\udcac", r"OUTPUT_DIR: is not UTF-8 text, which a config cannot hold: out\xb4\xac"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_our_words(key, text, message):
    refused = refusal(key, text)
    assert refused.startswith(message) and len(refused) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("_BASE_: 3", "_BASE_: the name of another config file is wanted, got 3"),
        ("_BASE_:", "_BASE_: the name of another config file is wanted, got None"),
        ("_BASE_: wrong.yml", "comes back to"),
        ("_BASE_: .", "is a folder"),
        ("3: 4", "3: keys are names"),
        ("SOLVER: {3: 4}", "SOLVER.3: keys are names"),
        ("# only words", "holds no keys"),
        ("SOLVER: {BASE_LR: .inf}", "SOLVER.BASE_LR: a number"),
        ("OUTPUT_DIR: [a]", "OUTPUT_DIR: text is wanted"),
        ("a: &a {b: *a}", "no such key a"),
        ("SEED: !!python/object:os.system {}", "not a readable YAML"),
        ("SEED: 1\n\nSEED: 1", "SEED stands in line 1 and again in line 3; join them"),
        ("SOLVER: {BASE_LR: 0.1}\nSEED: 1\nSOLVER: {MAX_EPOCH: 3}", "SOLVER stands in line 1 and again in line 3"),
        ("TEST:\n  FUSION:\n    K: 1\n    'K': 2", "TEST.FUSION.K stands in line 3 and again in line 4"),
        ("SOLVER: {MAX_EPOCH: 4}\nSOLVER.MAX_EPOCH: 3", "SOLVER.MAX_EPOCH stands in line 1 and again in line 2"),
        ("_BASE_: a.yml\n_BASE_: b.yml", "_BASE_ stands in line 1 and again in line 2"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, words):
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    message = refusal(config=str(path))
    assert "wrong.yml" in message or words == "is a folder"
    assert words in message


def test_a_key_twice_is_refused_in_the_file_below_too_and_one_in_each_of_two_files_is_none(tmp_path):
    (tmp_path / "base.yml").write_text("SOLVER: {MAX_EPOCH: 7}\nSOLVER: {BASE_LR: 0.1}")
    (tmp_path / "own.yml").write_text("_BASE_: base.yml\nSOLVER: {MAX_EPOCH: 9}")
    assert refusal(config=str(tmp_path / "own.yml")).startswith(f"{tmp_path / 'base.yml'}: SOLVER stands in line 1")
    # An own key beside a merged one is YAML's way of overriding.
    (tmp_path / "base.yml").write_text("SOLVER: {<<: &one {MAX_EPOCH: 7}, MAX_EPOCH: 8}")
    assert fastreid_mos.load_cfg(str(tmp_path / "base.yml")).SOLVER.MAX_EPOCH == 8
    assert fastreid_mos.load_cfg(str(tmp_path / "own.yml")).SOLVER.MAX_EPOCH == 9


def test_a_folder_and_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    assert "is a folder" in refusal(config=str(tmp_path))
    path = tmp_path / "closed.yml"
    path.write_text("SEED: 1")
    whole = builtins.open

    def closed(file, *args, **kwargs):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied")
        return whole(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", closed)
    assert "cannot be read (Permission denied)" in refusal(config=str(path))


def test_a_fault_in_the_base_names_the_base(tmp_path):
    (tmp_path / "base.yml").write_text("SOLVER: {BASE_LR: fast}")
    (tmp_path / "top.yml").write_text("_BASE_: base.yml\nSOLVER: {BASE_LR: 0.1}")
    assert "base.yml: SOLVER.BASE_LR" in refusal(config=str(tmp_path / "top.yml"))


RESNET = ["MODEL.BACKBONE.NAME", "build_resnet_backbone"]
REFUSED = [
    (["MODEL.HEADS.NAME", "EmbeddingHead"], "MODEL.HEADS.NAME: EmbeddingHead pools a map, and TransOSS"),
    (["MODEL.HEADS.NORM", "FrozenBN"], "MODEL.HEADS.NORM: one of BN, syncBN, GhostBN, GN, got 'FrozenBN'"),
    (["MODEL.TRANSOSS.EMBED_DIM", "4000000"], "MODEL.TRANSOSS.EMBED_DIM: 1 to 16384, got 4000000"),
    (["MODEL.TRANSOSS.DEPTH", "9999"], "MODEL.TRANSOSS.DEPTH: 1 to 256"),
    (["MODEL.HEADS.STRIPE_DIM", "0"], "MODEL.HEADS.STRIPE_DIM: 1 to 16384"),
    (["SEED", "4294967296"], "SEED: at most"),
    (["TEST.HOLDOUT.SEED", "-1"], "TEST.HOLDOUT.SEED: 0 or more, got -1"),
    (["TEST.IMS_PER_BATCH", "0"], "TEST.IMS_PER_BATCH: 1 or more"),
    (["TEST.EVAL_PERIOD", "-1"], "TEST.EVAL_PERIOD: 0 or more"),
    (["SOLVER.MOMENTUM", "1.5"], "SOLVER.MOMENTUM: 0 to 1, got 1.5"),
    (["SOLVER.MOMENTUM", "-1"], "SOLVER.MOMENTUM: 0 to 1"),
    (["SOLVER.NESTEROV", "True", "SOLVER.MOMENTUM", "0"], "SOLVER.NESTEROV needs"),
    (["SOLVER.WEIGHT_DECAY", "-1"], "SOLVER.WEIGHT_DECAY: 0 or more"),
    (["SOLVER.WEIGHT_DECAY_NORM", "-1"], "SOLVER.WEIGHT_DECAY_NORM: 0 or more"),
    (["SOLVER.ETA_MIN_FACTOR", "2"], "SOLVER.ETA_MIN_FACTOR: 0 to 1"),
    (["SOLVER.WARMUP_FACTOR", "-0.1"], "SOLVER.WARMUP_FACTOR: 0 to 1"),
    (["SOLVER.SCHED", "CosineAnnealingLR", "SOLVER.WARMUP_METHOD", "slow"], "SOLVER.WARMUP_METHOD: one of linear"),
    (["SOLVER.SCHED", "MultiStepLR", "SOLVER.STEPS", "[]"], "SOLVER.STEPS: epochs in rising order"),
    (["SOLVER.SCHED", "MultiStepLR", "SOLVER.STEPS", "[9, 3]"], "SOLVER.STEPS: epochs in rising order"),
    (["SOLVER.OPT", "LBFGS"], "SOLVER.OPT: LBFGS needs a closure"),
    (["SOLVER.OPT", "SparseAdam"], "SOLVER.OPT: SparseAdam"),
    (["SOLVER.OPT", "Muon"], "SOLVER.OPT: "),
    (["SOLVER.OPT", "Optimizer"], "SOLVER.OPT: Optimizer is the base class"),
    (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "hard"], "SOLVER.CLIP_GRADIENTS.CLIP_TYPE"),
    (["MODEL.DEVICE", "meta"], "MODEL.DEVICE: 'cpu'"),
    (["MODEL.DEVICE", "xpu"], "MODEL.DEVICE: 'cpu'"),
    (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE: 'cpu'"),
    (["MODEL.TRANSOSS.MLP_RATIO", "0"], "MODEL.TRANSOSS.MLP_RATIO: must be above 0"),
    (["MODEL.TRANSOSS.DEPTH", "0"], "MODEL.TRANSOSS.DEPTH: 1 to 256"),
    (["MODEL.BACKBONE.DROP_RATIO", "1.5"], "MODEL.BACKBONE.DROP_RATIO: 0 or more and below 1"),
    (["MODEL.BACKBONE.DROP_PATH_RATIO", "1"], "MODEL.BACKBONE.DROP_PATH_RATIO: 0 or more and below 1"),
    (["MODEL.BACKBONE.ATT_DROP_RATE", "-0.1"], "MODEL.BACKBONE.ATT_DROP_RATE: 0 or more and below 1"),
    (["MODEL.BACKBONE.STRIDE_SIZE", "(16,)"], "MODEL.BACKBONE.STRIDE_SIZE: (rows, columns)"),
    (["MODEL.BACKBONE.STRIDE_SIZE", "(65, 16)"], "MODEL.BACKBONE.STRIDE_SIZE: (rows, columns)"),
    (["MODEL.BACKBONE.STRIDE_SIZE", "(0, 16)"], "MODEL.BACKBONE.STRIDE_SIZE: (rows, columns)"),
    (["MODEL.HEADS.NUM_CLASSES", "-1"], "MODEL.HEADS.NUM_CLASSES: 0 or more"),
    (["MODEL.HEADS.EMBEDDING_DIM", "-1"], "MODEL.HEADS.EMBEDDING_DIM: 0 to 16384"),
    (["MODEL.HEADS.SCALE", "0"], "MODEL.HEADS.SCALE: must be above 0"),
    (
        [*RESNET, "MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.HEADS.JOIN", "size"],
        "MODEL.HEADS.JOIN: EmbeddingHead does not",
    ),
    (
        [*RESNET, "MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.HEADS.STRIPES", "2"],
        "MODEL.HEADS.STRIPES: EmbeddingHead does not",
    ),
    (["MODEL.LOSSES.CMAL.SCALE", "-1"], "MODEL.LOSSES.CMAL.SCALE: 0 or more"),
    (["MODEL.LOSSES.CE.EPSILON", "1.1"], "MODEL.LOSSES.CE.EPSILON: at most 1"),
    (["MODEL.LOSSES.TRI.MARGIN", "-1"], "MODEL.LOSSES.TRI.MARGIN: 0 or more"),
    (["MODEL.PIXEL_MEAN", "[1, 2]"], "MODEL.PIXEL_MEAN: three numbers"),
    (["MODEL.PIXEL_STD", "[1, 2, 3, 4]"], "MODEL.PIXEL_STD: three numbers"),
    (["MODEL.PIXEL_STD", "[1, 0, 1]"], "MODEL.PIXEL_STD: must be above 0"),
    (["DATALOADER.NUM_WORKERS", "100000"], "DATALOADER.NUM_WORKERS: at most"),
    (["TEST.NUM_WORKERS", "100000"], "TEST.NUM_WORKERS: at most"),
    (["INPUT.SIZE_TRAIN", "[100000, 100000]"], "INPUT.SIZE_TRAIN: pixels, at most 4096"),
    (["INPUT.SIZE_TEST", "[64, 4097]"], "INPUT.SIZE_TEST: pixels, at most 4096"),
    (["INPUT.SAR.CHANNEL", "\u00b2"], "INPUT.SAR.CHANNEL: 'auto'"),
    (["INPUT.PADDING.SIZE", "32"], "INPUT.PADDING.SIZE: below the shorter side of INPUT.SIZE_TRAIN, 32 pixels, got 32"),
    (["INPUT.CROP.SCALE", "[0.9, 0.5]"], "INPUT.CROP.SCALE: [smallest, largest] between 0 and 1"),
    (["INPUT.CROP.RATIO", "[0, 1]"], "INPUT.CROP.RATIO: [smallest, largest]"),
    (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[64, 100000]"], "INPUT.CROP.SIZE"),
    (["INPUT.CJ.HUE", "0.6"], "INPUT.CJ.HUE: a share of the colour circle, 0 to 0.5, got 0.6"),
    (["INPUT.CJ.CONTRAST", "-1"], "INPUT.CJ.CONTRAST: 0 or more"),
    (["TEST.FUSION.ALPHA", "much"], "TEST.FUSION.ALPHA: 'auto' or a number"),
    (["TEST.FUSION.ALPHA", "1.2"], "TEST.FUSION.ALPHA: 'auto' or a number"),
    (["TEST.FUSION.ALPHA", "nan"], "TEST.FUSION.ALPHA: 'auto' or a number"),
    (["TEST.FUSION.MODE", "median"], "TEST.FUSION.MODE"),
    (["TEST.RERANK.ENABLED", "True", "TEST.RERANK.K2", "21"], "TEST.RERANK.K2 (21) must not be above K1 (20)"),
    (["TEST.PROTOCOLS", "[['', 'all', 'all']]"], "TEST.PROTOCOLS: a protocol without a name"),
    (["DATASETS.NAMES", "HOSS,HOSS"], "DATASETS.NAMES: a data set twice"),
    (["DATASETS.TESTS", "HOSS,HOSS"], "DATASETS.TESTS: a data set twice"),
    (["DATASETS.NAMES", "HOSS,HOSS_S2O"], "DATASETS.NAMES: HOSS and HOSS_S2O have the same training chips"),
]


@pytest.mark.parametrize(("opts", "message"), REFUSED, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_what_cannot_work_is_refused(opts, message):
    assert refusal(*opts).startswith(message)


def test_what_baseline_cannot_do_is_refused():
    baseline = ["MODEL.META_ARCHITECTURE", "Baseline", *RESNET]
    losses = [*baseline, "MODEL.LOSSES.NAME", "CrossEntropy"]
    assert refusal(*losses).startswith("MODEL.LOSSES.NAME: 'CrossEntropy' is none of CrossEntropyLoss")
    join = [*baseline, "MODEL.LOSSES.NAME", "CrossEntropyLoss", "MODEL.HEADS.JOIN", "size"]
    assert refusal(*join).startswith("MODEL.HEADS.JOIN: Baseline gives the head images only")
    teacher = [*RESNET, "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.LOSSES.NAME", "CrossEntropyLoss"]
    assert refusal(*teacher).startswith("MODEL.META_ARCHITECTURE: Distiller needs a teacher")


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.DEVICE", "cuda"],  # a config for a GPU can be read without one
        ["SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "5"],  # a single epoch of a recipe that warms up for five
        ["MODEL.LOSSES.CE.EPSILON", "-1"],  # fast-reid's adaptive smoothing
        ["SEED", "-1"],
        ["SEED", "4294967295"],
        ["TEST.FUSION.ALPHA", "auto"],
        ["TEST.RERANK.K2", "21"],  # not enabled
        ["DATASETS.TESTS", "HOSS_O2S,HOSS_S2O"],
        ["SOLVER.SCHED", "MultiStepLR", "SOLVER.STEPS", "[1, 2]"],
        ["MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.BACKBONE.NAME", "build_resnet_backbone"],
    ],
)
def test_what_works_is_let_through(opts):
    assert fastreid_mos.load_cfg(DEBUG, opts).dump() != fastreid_mos.load_cfg(DEBUG).dump()
