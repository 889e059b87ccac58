"""The configuration keys of the Brownian bridge (tools/train_bbdm.py)."""

from __future__ import annotations

from typing import Any


def add_bridge_config(cfg: Any) -> None:
    """Add every BRIDGE key with its default to a fast-reid config, in place.

    Args:
        cfg: what ``fastreid.config.get_cfg()`` returns.
    """
    node = type(cfg)
    cfg.BRIDGE = node()
    # What is made of what: "optical_to_sar" or "sar_to_optical". The SAR side is read as INPUT.SAR says.
    cfg.BRIDGE.DIRECTION = "optical_to_sar"
    # Height and width of the images, and the filter that brings both sides to it.
    cfg.BRIDGE.SIZE = [256, 256]
    cfg.BRIDGE.RESIZE = "bilinear"

    cfg.BRIDGE.DATA = node()
    # Data sets whose training chips are paired: HOSS, OptiSarPair, QXSSAROPT; or a folder of files <name>_RGB.* and
    # <name>_SAR.* side by side.
    cfg.BRIDGE.DATA.NAMES = ("HOSS",)
    # Several chips of one ship: "random" takes every source chip once an epoch with a target drawn anew each time,
    # "all" goes through every combination, "ordered" pairs them in the order of their names.
    cfg.BRIDGE.DATA.PAIRING = "random"
    # Probability of mirroring a pair left to right, both sides alike.
    cfg.BRIDGE.DATA.FLIP = 0.5

    cfg.BRIDGE.SCHEDULER = node()
    # The bridge: steps of training, course of m_t ("linear", "sin"), its ends, variance factor s, what the network
    # predicts ("grad", "noise", "ysubx").
    cfg.BRIDGE.SCHEDULER.TIMESTEPS = 1000
    cfg.BRIDGE.SCHEDULER.MT_TYPE = "linear"
    cfg.BRIDGE.SCHEDULER.M_MIN = 0.001
    cfg.BRIDGE.SCHEDULER.M_MAX = 0.999
    cfg.BRIDGE.SCHEDULER.MAX_VAR = 1.0
    cfg.BRIDGE.SCHEDULER.OBJECTIVE = "grad"

    cfg.BRIDGE.UNET = node()
    # diffusers' UNet2DModel: channels of each level, residual blocks a level, levels with attention (from 0), width of
    # an attention head, groups of the norms, dropout, time as scale and shift, resampling ("resnet" or "conv").
    cfg.BRIDGE.UNET.CHANNELS = [128, 512, 1024]
    cfg.BRIDGE.UNET.LAYERS = 2
    cfg.BRIDGE.UNET.ATTENTION = [0, 1, 2]
    cfg.BRIDGE.UNET.HEAD_DIM = 64
    cfg.BRIDGE.UNET.GROUPS = 32
    cfg.BRIDGE.UNET.DROPOUT = 0.0
    cfg.BRIDGE.UNET.SCALE_SHIFT = True
    cfg.BRIDGE.UNET.RESAMPLE = "resnet"
    # "none": the network sees x_t only (the paper); "concat": the source beside it.
    cfg.BRIDGE.UNET.CONDITION = "none"
    # A group norm before the attention in the middle, which diffusers leaves out beside SCALE_SHIFT and BBDM has.
    cfg.BRIDGE.UNET.ATTENTION_NORM = False
    # Weights at the start: "default" (torch's own), or "normal": N(0, 0.02), attention's output at 0, as BBDM.
    cfg.BRIDGE.UNET.INIT = "default"

    cfg.BRIDGE.LATENT = node()
    # A diffusers VQModel or AutoencoderKL, a folder or hub id: the bridge lives in its latents. Empty: in pixels, or in
    # the latents of an autoencoder trained on the data set's own chips (TRAIN).
    cfg.BRIDGE.LATENT.PATH = ""
    cfg.BRIDGE.LATENT.TRAIN = False
    # Latents times the autoencoder's scaling_factor (a new one's is measured: deviation 1); False: as they are, which
    # the bridge's signal to noise depends on.
    cfg.BRIDGE.LATENT.NORMALIZE = True
    # A new one: channels of each level, residual blocks a level, channels of the latents, codes, and its training.
    cfg.BRIDGE.LATENT.CHANNELS = [32, 64, 128]
    cfg.BRIDGE.LATENT.LAYERS = 1
    cfg.BRIDGE.LATENT.LATENT_CHANNELS = 3
    cfg.BRIDGE.LATENT.CODES = 1024
    cfg.BRIDGE.LATENT.STEPS = 5000
    cfg.BRIDGE.LATENT.BATCH = 8
    cfg.BRIDGE.LATENT.LR = 0.0001

    cfg.BRIDGE.SOLVER = node()
    # Steps of the optimizer; pairs in a step of one process, and such steps added up before each update.
    cfg.BRIDGE.SOLVER.STEPS = 100000
    cfg.BRIDGE.SOLVER.BATCH = 8
    cfg.BRIDGE.SOLVER.ACCUMULATE = 1
    cfg.BRIDGE.SOLVER.LR = 0.0001
    cfg.BRIDGE.SOLVER.WARMUP_STEPS = 0
    # Course of the rate after the warm-up: "constant", "cosine" to 0, or "plateau" (BBDM; no warm-up): torch's
    # ReduceLROnPlateau, told the loss of the last batch of every step, the mean over processes.
    cfg.BRIDGE.SOLVER.SCHED = "constant"
    cfg.BRIDGE.SOLVER.PLATEAU = node()
    # The rate is multiplied by FACTOR, down to MIN_LR, after PATIENCE steps in a row of which none fell below the best
    # loss by its THRESHOLD-th part; for COOLDOWN steps after that none counts.
    cfg.BRIDGE.SOLVER.PLATEAU.FACTOR = 0.5
    cfg.BRIDGE.SOLVER.PLATEAU.PATIENCE = 3000
    cfg.BRIDGE.SOLVER.PLATEAU.THRESHOLD = 0.0001
    cfg.BRIDGE.SOLVER.PLATEAU.COOLDOWN = 3000
    cfg.BRIDGE.SOLVER.PLATEAU.MIN_LR = 5e-7
    cfg.BRIDGE.SOLVER.LOSS = "l1"
    # The averaged weights, which are the result: their decay; steps between two updates of them; the step from which on
    # they are averaged: before it they are copies. At EMA_START 0 the decay rises to EMA, (1 + n) / (10 + n) in update
    # n. With INIT_FROM and an EMA_START above 0, averaging begins at the first step.
    cfg.BRIDGE.SOLVER.EMA = 0.995
    cfg.BRIDGE.SOLVER.EMA_EVERY = 1
    cfg.BRIDGE.SOLVER.EMA_START = 0
    # Bound on the gradient's norm; 0: none.
    cfg.BRIDGE.SOLVER.CLIP_NORM = 0.0
    # "no", "bf16" or "fp16".
    cfg.BRIDGE.SOLVER.PRECISION = "no"
    cfg.BRIDGE.SOLVER.CHECKPOINT_PERIOD = 1000
    cfg.BRIDGE.SOLVER.KEEP_CHECKPOINTS = 2
    # Steps between two sample grids in tensorboard; 0: none.
    cfg.BRIDGE.SOLVER.SAMPLE_PERIOD = 5000
    # A pipeline folder whose weights training starts from (pretraining on pairs, then HOSS); --init-from sets it.
    cfg.BRIDGE.INIT_FROM = ""

    cfg.BRIDGE.SAMPLE = node()
    # Network calls a sample, rule ("bbdm", "dbim"), eta, order of the multistep rule (2 and 3: dbim with eta 0),
    # spacing of the timesteps ("linear", "trailing", "quadratic", "variance"), and clamping of the predicted target to
    # -1..1.
    cfg.BRIDGE.SAMPLE.STEPS = 200
    cfg.BRIDGE.SAMPLE.RULE = "bbdm"
    cfg.BRIDGE.SAMPLE.ETA = 1.0
    cfg.BRIDGE.SAMPLE.ORDER = 1
    cfg.BRIDGE.SAMPLE.SPACING = "linear"
    cfg.BRIDGE.SAMPLE.CLIP = True
    # Samples of each chip, images generated at a time, the seed of all, and what the network runs in: "no" (single
    # precision), "bf16" or "fp16"; an autoencoder stays in single.
    cfg.BRIDGE.SAMPLE.K = 5
    cfg.BRIDGE.SAMPLE.BATCH = 16
    cfg.BRIDGE.SAMPLE.SEED = 0
    cfg.BRIDGE.SAMPLE.PRECISION = "no"
    # What is dumped after training: chips of "query", "gallery", and "holdout", the held-out training identities
    # (TEST.HOLDOUT) on which alpha is chosen; "train" dumps all training chips. The folder: empty is
    # OUTPUT_DIR/synthetic.
    cfg.BRIDGE.SAMPLE.SPLITS = ["query", "gallery", "holdout"]
    cfg.BRIDGE.SAMPLE.OUTPUT = ""
