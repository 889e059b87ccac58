"""Every key of MOS, and the rules of fast-reid's. A key without a rule is checked by what it is given to."""

from __future__ import annotations

import copy
import re
from typing import Any

import fastreid.config
import torch

from .bridge_keys import BRIDGE_KEYS, DIRECTIONS, FILTERS
from .rules import Key, Rule, above, any_of, at_least, between, different, each, one_of, rising


def _is_alpha(value: str) -> bool:
    try:
        return value == "auto" or 0 <= float(value) <= 1
    except ValueError:
        return False


def _is_optimizer(name: str) -> bool:
    # Two classes are no use here: the base of all, and the one for sparse gradients.
    return isinstance(getattr(torch.optim, name, None), type) and name not in ("Optimizer", "SparseAdam")


def _are_protocols(rows: Any) -> bool:
    sides = ("all", "optical", "sar")
    complete = all(len(row) == 3 and str(row[0]).strip() and row[1] in sides and row[2] in sides for row in rows)
    return bool(rows) and complete and len({row[0] for row in rows}) == len(rows)


MOS_KEYS = [
    Key("SEED", 0, "Seed of batches, augmentation and weights; -1: a new one in each run.", between(-1, 2**32 - 1)),
    Key("DATASETS.CHIPLISTS", {},
        "Tables of chips: name -> {CSV, ROOT, COLUMNS}; a name can stand in NAMES and TESTS. CSV has the columns "
        "image_id, ship_id, modality, image_path, and may have split, spacing, width, height; COLUMNS names other "
        "headers for them; paths start from ROOT, or from the CSV's folder."),
    Key("DATASETS.SYNTHETIC", [],
        "Folders of generated chips: those of the training ships (BRIDGE.SAMPLE.SPLITS 'train') are trained on too, as "
        "chips of their source's identity and of the modality that they were generated in.",
        different("folders of generated chips")),
    Key("DATASETS.SYNTHETIC_K", 1, "How many of each training chip: the first K.", at_least(1)),
    Key("INPUT.SAR.TRANSFORM", "SARDenoise", "SAR chip to image: a name in TRANSFORM_REGISTRY, such as SARMaxScale."),
    Key("INPUT.SAR.LOW_PERCENTILE", 5.0, "Percentile of the pixels that SARDenoise maps to 0."),
    Key("INPUT.SAR.HIGH_PERCENTILE", 100.0, "Percentile of the pixels that SARDenoise maps to 255."),
    Key("INPUT.SAR.CHANNEL", "auto",
        "Channel of a SAR file that has several: 'auto' (negative values in 2 or 4 channels are I/Q: their magnitude; "
        "else the first), 'magnitude', 'mean', or a number as text.",
        Rule("'auto', 'magnitude', 'mean' or a channel number", re.compile("auto|magnitude|mean|[0-9]+").fullmatch)),
    Key("INPUT.SAR.CACHE", "none",
        "Keep decoded chips, SAR ones denoised: 'none', 'memory' (up to 1 GiB per loader worker) or 'disk' (in "
        "CACHE_DIR). A chip is read again when its file or these settings change.", one_of("none", "memory", "disk")),
    Key("INPUT.SAR.CACHE_DIR", "", "Folder of the cache on disk."),
    Key("INPUT.RESIZE.TRAIN", "bicubic", "Interpolation of the resize, with antialiasing.", one_of(*FILTERS)),
    Key("INPUT.RESIZE.TEST", "bilinear", "The same at test.", one_of(*FILTERS)),
    Key("INPUT.AUGMENT.ORDER", ["resize", "flip", "pad_crop", "erase"],
        "Order of the training steps; whether each is on is fast-reid's own key (FLIP, PADDING, REA ...)."),
    Key("INPUT.REA.MODE", "pixel",
        "Random erasing: 'pixel' = normal noise on the normalized image (the recipe), 'const' = REA.VALUE.",
        one_of("pixel", "const")),
    Key("INPUT.REA.SCALE", [0.02, 0.3333], "Erased share of the image's area.", rising(0, 1)),
    Key("INPUT.REA.RATIO", [0.3, 3.3333], "Height / width of the erased part.", rising(0.001, 1000)),
    Key("MODEL.TRANSOSS.PATCH_SIZE", 16, "Side of a patch, in pixels."),
    Key("MODEL.TRANSOSS.EMBED_DIM", 768, "Width of a token; a multiple of NUM_HEADS."),
    Key("MODEL.TRANSOSS.DEPTH", 12, "Blocks."),
    Key("MODEL.TRANSOSS.NUM_HEADS", 12, "Attention heads."),
    Key("MODEL.TRANSOSS.MLP_RATIO", 4.0, "Hidden width of the MLPs, times EMBED_DIM."),
    Key("MODEL.TRANSOSS.MIE", True, "Add a learned vector per modality, times MIE_SCALE, to every token."),
    Key("MODEL.TRANSOSS.MIE_SCALE", 3.0, "Factor of MIE."),
    Key("MODEL.TRANSOSS.SSE", True, "One more token, made from the ship's size."),
    Key("MODEL.TRANSOSS.MODALITY_PATCH_EMBED", True, "One patch embedding per modality instead of a shared one."),
    Key("MODEL.TRANSOSS.GRAD_CHECKPOINT", False, "Recompute the blocks in the backward pass: less memory, more time."),
    Key("MODEL.TRANSOSS.SPECIFIC_TOKEN", False,
        "SDF-Net's second class token, one per modality; its feature comes beside the first one's: FEAT_DIM doubles."),
    Key("MODEL.BACKBONE.SAR_LAYERS", [],
        "Layers of the backbone of which SAR chips have a copy of their own, such as ['conv1', 'bn1']."),
    Key("MODEL.STRUCTURE.LAYER", "",
        "For StructureLoss: the backbone's layer whose output it compares, such as 'blocks.5' or 'layer2'."),
    Key("MODEL.TIMM.NAME", "efficientnet_lite0", "Model of build_timm_backbone (extra `pretrained` installs timm)."),
    Key("MODEL.HEADS.TEST_NECK_FEAT", "before",
        "The feature at test, from before or after the batch-norm neck.", one_of("before", "after")),
    Key("MODEL.HEADS.JOIN", [],
        "Joined to the pooled feature of backbones that take images only.", any_of("size", "modality")),
    Key("MODEL.HEADS.JOIN_DIM", 32, "Numbers that each of JOIN becomes."),
    Key("MODEL.HEADS.JOIN_GAIN", 3.0, "Deviation of the size numbers at the start: how much size counts then."),
    Key("MODEL.HEADS.SPECIFIC_DIM", 0,
        "SharedSpecificHead: width of the feature of its linear maps; 0: the backbone gives both (SPECIFIC_TOKEN).",
        at_least(0)),
    Key("MODEL.HEADS.STRIPES", 0,
        "Above 0: so many horizontal stripes of the feature map, STRIPE_DIM numbers each, instead of POOL_LAYER."),
    Key("MODEL.HEADS.STRIPE_DIM", 128, "Numbers of a stripe."),
    Key("MODEL.LOSSES.CMAL.SCALE", 2.0, "Weight of the class-wise modality alignment loss.", at_least(0)),
    Key("MODEL.LOSSES.CMAL.MEAN_WEIGHT", 1.0, "Weight of its term on means.", at_least(0)),
    Key("MODEL.LOSSES.CMAL.VAR_WEIGHT", 1.0, "Weight of its term on variances.", at_least(0)),
    Key("MODEL.LOSSES.CMAL.GATHER", False, "Compute it on the batch of all processes, not on each one's share."),
    Key("MODEL.LOSSES.INFONCE.SCALE", 1.0, "Weight of CrossModalInfoNCE.", at_least(0)),
    Key("MODEL.LOSSES.INFONCE.TEMPERATURE", 0.1, "Its cosines are divided by this.", above(0)),
    Key("MODEL.LOSSES.CROSS_TRI.SCALE", 1.0, "Weight of CrossModalTriplet.", at_least(0)),
    Key("MODEL.LOSSES.CROSS_TRI.MARGIN", 0.0, "Its margin; 0: the soft one.", at_least(0)),
    Key("MODEL.LOSSES.CROSS_TRI.GAIN", 10.0, "Factor of its cosines under the soft margin.", above(0)),
    Key("MODEL.LOSSES.STRUCTURE.SCALE", 1.0, "Weight of StructureLoss (SDF-Net).", at_least(0)),
    Key("MODEL.LOSSES.ORTHOGONALITY.SCALE", 10.0, "Weight of OrthogonalityLoss (SDF-Net).", at_least(0)),
    # SCHED WarmupCosineLR: linear from WARMUP_FACTOR, then a cosine that counts from epoch 0.
    Key("SOLVER.WARMUP_EPOCHS", 5, "Epochs of the linear warm-up of WarmupCosineLR.", at_least(0)),
    Key("SOLVER.ETA_MIN_FACTOR", 0.002, "Where its cosine ends, times BASE_LR.", between(0, 1)),
    Key("SOLVER.AMP.DTYPE", "auto", "Number format of mixed precision; 'auto': float16 on CUDA, bfloat16 on CPU.",
        one_of("auto", "float16", "bfloat16")),
    Key("TEST.EVALUATOR", "FusionReidEvaluator", "A name in EVALUATOR_REGISTRY, or ReidEvaluator for fast-reid's own."),
    Key("TEST.PROTOCOLS", [["ALL", "all", "all"], ["O2S", "optical", "sar"], ["S2O", "sar", "optical"]],
        "Protocols: name, modality of the queries, modality of the gallery.",
        Rule("rows [name, query, gallery], each name once, with 'all', 'optical' or 'sar'", _are_protocols)),
    Key("TEST.REMOVE_SAME_CAMERA", False,
        "fast-reid's habit (drops gallery chips of the query's own identity and modality); the papers do not do it."),
    Key("TEST.CMC_RANKS", [1, 5, 10, 20], "The k of the Rank-k figures.",
        Rule("numbers from 1 on, with 1 among them", lambda ranks: 1 in ranks and min(ranks) == 1)),
    Key("TEST.BLOCK_MB", 256, "Bound on the memory of one block of distances, in MiB.", at_least(1)),
    Key("TEST.NUM_WORKERS", -1, "Loader workers at test; below 0: as many as in training."),
    Key("TEST.RANDOM_DRAWS", 100, "Random rankings averaged in the random row.", at_least(1)),
    Key("TEST.BOOTSTRAP.SAMPLES", 1000,
        "Resamplings of the ships, each with all its queries, for the 95 % intervals; 0: none.", at_least(0)),
    Key("TEST.BOOTSTRAP.SEED", 0, "Their seed.", at_least(0)),
    Key("TEST.BEST_METRIC", "mAP", "What the best checkpoint is best at on the hold-out, as the mean over protocols.",
        one_of("mAP", "Rank-1", "mINP")),
    Key("TEST.HOLDOUT.FRACTION", 0.0,
        "Share of the training identities set aside for choosing; 0: train on all, choose nothing.", between(0, 0.9)),
    Key("TEST.HOLDOUT.SPLITS", 1, "Seeded query/gallery splits of the hold-out.", at_least(1)),
    Key("TEST.HOLDOUT.SEED", 0, "Their seed.", at_least(0)),
    Key("TEST.ADAPT_BN.WEIGHT", 0.0,
        "Share of the backbone's batch-norm statistics taken, by modality and without labels, from the chips that are "
        "tested (transductive).", between(0, 1)),
    Key("TEST.ENSEMBLE.WEIGHTS", [],
        "Checkpoints of other runs, of any backbone: the row `ensemble` is of them and the tested model together."),
    Key("TEST.ENSEMBLE.METHOD", "cosine", "'cosine': the mean of the cosines; 'rrf': reciprocal rank fusion.",
        one_of("cosine", "rrf")),
    Key("TEST.ENSEMBLE.K", 3.0, "rrf: a rank r counts 1 / (K + r).", at_least(0)),
    Key("TEST.ENSEMBLE.DEPTH", 100, "rrf: ranks beyond it count nothing.", at_least(1)),
    Key("TEST.FUSION.ENABLED", False, "Fuse features with those of generated chips."),
    Key("TEST.FUSION.ROOT", "", "Folder of the generated chips, with its manifest."),
    Key("TEST.FUSION.K", 5, "Generated chips used for each source: the first K.", at_least(1)),
    Key("TEST.FUSION.SAMPLES", [], "Their sample indices (from 0), instead of the first K.",
        Rule("different sample indices from 0 on",
             lambda values: len(set(values)) == len(values) and min(values, default=0) >= 0, int)),
    Key("TEST.FUSION.ALPHA", "0.02",
        "Weight of the generated chips' feature; 0.02 is the paper's. 'auto' chooses it, and K, on the hold-out (see "
        "evaluation/alpha.py).", Rule("'auto' or a number 0 to 1", _is_alpha)),
    Key("TEST.FUSION.ALPHAS", [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        "What ALPHA 'auto' chooses from.", each(between(0, 1), least=1)),
    Key("TEST.FUSION.MODE", "mean",
        "'mean': the features of the generated chips as they are (the paper); 'mapped': after a linear map to those of "
        "real chips, fitted on training ships, of which the folder holds generated chips too (evaluation/mapping.py); "
        "'source': such a map of the source's own feature in their place, which tells what a generator adds to a map.",
        one_of("mean", "mapped", "source")),
    Key("TEST.FUSION.DIRECTION", "optical_to_sar",
        "Which rows are fused: 'optical_to_sar' the optical ones, 'sar_to_optical' the SAR ones.", one_of(*DIRECTIONS)),
    Key("TEST.FUSION.ALLOW_MISSING", False, "Let a chip have fewer than K generated ones, or none, without an error."),
    *BRIDGE_KEYS,
]  # fmt: skip
# fast-reid's own keys, by rule. torchvision checks those of INPUT.CJ, fast-reid that of CLIP_TYPE.
FASTREID_RULES = {
    key: rule
    for rule, keys in (
        (between(0, 1), "INPUT.FLIP.PROB INPUT.CJ.PROB INPUT.AUTOAUG.PROB INPUT.AUGMIX.PROB INPUT.REA.PROB "
            "INPUT.RPT.PROB SOLVER.MOMENTUM SOLVER.WARMUP_FACTOR TEST.RERANK.LAMBDA"),
        (at_least(0), "MODEL.HEADS.NUM_CLASSES MODEL.HEADS.EMBEDDING_DIM MODEL.LOSSES.CE.SCALE MODEL.LOSSES.TRI.SCALE "
            "MODEL.LOSSES.TRI.MARGIN MODEL.LOSSES.CIRCLE.SCALE MODEL.LOSSES.COSFACE.SCALE INPUT.PADDING.SIZE "
            "DATALOADER.NUM_WORKERS SOLVER.HEADS_LR_FACTOR SOLVER.BIAS_LR_FACTOR SOLVER.WEIGHT_DECAY "
            "SOLVER.WEIGHT_DECAY_NORM SOLVER.WEIGHT_DECAY_BIAS SOLVER.DELAY_EPOCHS SOLVER.ETA_MIN_LR "
            "SOLVER.WARMUP_ITERS SOLVER.FREEZE_ITERS TEST.EVAL_PERIOD TEST.AQE.ALPHA"),
        (at_least(1), "DATALOADER.NUM_INSTANCE SOLVER.MAX_EPOCH SOLVER.CHECKPOINT_PERIOD SOLVER.IMS_PER_BATCH "
            "TEST.IMS_PER_BATCH TEST.AQE.QE_TIME TEST.AQE.QE_K TEST.RERANK.K1 TEST.RERANK.K2"),
        (above(0), "SOLVER.BASE_LR SOLVER.GAMMA SOLVER.CLIP_GRADIENTS.CLIP_VALUE"),
        # Whole numbers in fast-reid's defaults, and a list that is empty there.
        (above(0, float), "MODEL.HEADS.SCALE"),
        (at_least(0, float), "MODEL.LOSSES.FL.GAMMA MODEL.LOSSES.CIRCLE.GAMMA MODEL.LOSSES.COSFACE.GAMMA"),
        (each(at_least(0, float)), "DATALOADER.SET_WEIGHT"),
        (Rule("1 or less", lambda value: value <= 1), "MODEL.LOSSES.CE.EPSILON"),  # below 0: adaptive smoothing
        (each(between(8, 4096), count=2), "INPUT.SIZE_TRAIN INPUT.SIZE_TEST INPUT.CROP.SIZE"),
        (each(above(0), count=3), "MODEL.PIXEL_STD"),
        (Rule("three numbers", lambda values: len(values) == 3), "MODEL.PIXEL_MEAN INPUT.REA.VALUE"),
        (rising(0, 1), "INPUT.CROP.SCALE"),
        (rising(0.001, 1000), "INPUT.CROP.RATIO"),
        (different("losses", least=1), "MODEL.LOSSES.NAME"),
        (different("data sets"), "DATASETS.NAMES DATASETS.TESTS"),
        (one_of("before", "after"), "MODEL.HEADS.NECK_FEAT"),
        (one_of("constant", "edge", "reflect", "symmetric"), "INPUT.PADDING.MODE"),
        (one_of("WarmupCosineLR", "CosineAnnealingLR", "MultiStepLR"), "SOLVER.SCHED"),
        (one_of("linear", "constant", "exp"), "SOLVER.WARMUP_METHOD"),
        (one_of("cosine", "euclidean"), "TEST.METRIC"),
        (Rule("an optimizer of torch.optim such as SGD, Adam or AdamW", _is_optimizer), "SOLVER.OPT"),
        (Rule("'cpu', 'cuda', 'cuda:0' ... or 'mps'", re.compile(r"cpu|mps|cuda(:\d+)?").fullmatch), "MODEL.DEVICE"),
    )
    for key in keys.split()
}  # fmt: skip
# Values of earlier versions, by key, so that configs of earlier runs can be read: the default is taken, with a line.
GONE = {"TEST.FUSION.MODE": ("inverse_variance", "densest")}
RULES = {**{key.name: key.rule for key in MOS_KEYS if key.rule}, **FASTREID_RULES}


def add_mos_config(cfg: Any) -> None:
    """Add every MOS key with its default, in place, to what ``fastreid.config.get_cfg()`` returns."""
    for name, default, *_ in MOS_KEYS:
        *groups, last = name.split(".")
        node = cfg
        for group in groups:
            node = node.setdefault(group, type(cfg)())
        node[last] = copy.deepcopy(default) if default != {} else type(cfg)()


def get_cfg() -> Any:
    """fast-reid's default config with the MOS keys added, as a fresh copy."""
    cfg = fastreid.config.get_cfg()
    add_mos_config(cfg)
    return cfg
