"""The keys of the Brownian bridge (tools/train_bbdm.py).

Those of its scheduler have no rule here: BrownianBridgeScheduler checks its own arguments.
"""

from __future__ import annotations

from .rules import Key, above, any_of, at_least, below_one, between, different, each, one_of

DIRECTIONS = ("optical_to_sar", "sar_to_optical")
FILTERS = ("bilinear", "bicubic", "nearest", "lanczos")
PRECISIONS = ("no", "bf16", "fp16")

BRIDGE_KEYS = (
    Key("BRIDGE.DIRECTION", "optical_to_sar", "Source and target. SAR is read as INPUT.SAR says.", one_of(*DIRECTIONS)),
    Key("BRIDGE.SIZE", [256, 256], "Height and width of the images.", each(at_least(1), count=2)),
    Key("BRIDGE.RESIZE", "bilinear", "Filter that brings source and target to SIZE.", one_of(*FILTERS)),
    Key("BRIDGE.DATA.NAMES", ("HOSS",),
        "Data sets whose training chips are paired: HOSS, OptiSarPair, QXSSAROPT; or a folder of files <name>_RGB.* "
        "and <name>_SAR.* side by side.", different("data sets or folders of pairs", least=1)),
    Key("BRIDGE.DATA.PAIRING", "random",
        "Several chips of one ship: 'random' takes every source once an epoch with a target drawn anew each time, "
        "'all' goes through every combination, 'ordered' pairs them in the order of their names.",
        one_of("random", "all", "ordered")),
    Key("BRIDGE.DATA.FLIP", 0.5, "Probability of mirroring a pair left to right, both chips alike.", between(0, 1)),
    Key("BRIDGE.SCHEDULER.TIMESTEPS", 1000, "Timesteps of training."),
    Key("BRIDGE.SCHEDULER.MT_TYPE", "linear", "Course of m_t: 'linear' or 'sin'."),
    Key("BRIDGE.SCHEDULER.M_MIN", 0.001, "m_t at the start."),
    Key("BRIDGE.SCHEDULER.M_MAX", 0.999, "m_t at the end."),
    Key("BRIDGE.SCHEDULER.MAX_VAR", 1.0, "Variance factor s."),
    Key("BRIDGE.SCHEDULER.OBJECTIVE", "grad", "What the network predicts: 'grad', 'noise' or 'ysubx'."),
    Key("BRIDGE.UNET.CHANNELS", [128, 512, 1024], "Channels of each level.", each(at_least(1), least=1)),
    Key("BRIDGE.UNET.LAYERS", 2, "Residual blocks a level.", at_least(1)),
    Key("BRIDGE.UNET.ATTENTION", [0, 1, 2], "Levels with attention, from 0; the middle always has it."),
    Key("BRIDGE.UNET.HEAD_DIM", 64, "Width of an attention head.", at_least(1)),
    Key("BRIDGE.UNET.GROUPS", 32, "Groups of the norms; divides every number in CHANNELS.", at_least(1)),
    Key("BRIDGE.UNET.DROPOUT", 0.0, "Dropout of the residual blocks.", below_one()),
    Key("BRIDGE.UNET.SCALE_SHIFT", True, "Time as scale and shift of the norms, instead of a bias."),
    Key("BRIDGE.UNET.RESAMPLE", "resnet", "Resampling between levels.", one_of("resnet", "conv")),
    Key("BRIDGE.UNET.CONDITION", "none",
        "'none': the network sees x_t only (the paper); 'concat': the source beside it.", one_of("none", "concat")),
    Key("BRIDGE.UNET.ATTENTION_NORM", False,
        "A group norm before the middle's attention, which BBDM has and diffusers leaves out beside SCALE_SHIFT."),
    Key("BRIDGE.UNET.INIT", "default",
        "Weights at the start: 'default' (torch's), or 'normal': N(0, 0.02), attention's output at 0, as BBDM.",
        one_of("default", "normal")),
    Key("BRIDGE.LATENT.PATH", "",
        "A diffusers VQModel or AutoencoderKL, a folder or hub id: the bridge is in its latents. Empty: in pixels, or "
        "in the latents of an autoencoder trained on the data set's own chips (TRAIN)."),
    Key("BRIDGE.LATENT.TRAIN", False, "Train an autoencoder first; the keys below are its own."),
    Key("BRIDGE.LATENT.NORMALIZE", True,
        "Latents times the autoencoder's scaling_factor (a new one's is measured: deviation 1). False: as they are."),
    Key("BRIDGE.LATENT.CHANNELS", [32, 64, 128], "Channels of each level.", each(at_least(1), least=1)),
    Key("BRIDGE.LATENT.LAYERS", 1, "Residual blocks a level.", at_least(1)),
    Key("BRIDGE.LATENT.LATENT_CHANNELS", 3, "Channels of the latents.", at_least(1)),
    Key("BRIDGE.LATENT.CODES", 1024, "Vectors in the code book.", at_least(2)),
    Key("BRIDGE.LATENT.STEPS", 5000, "Steps of its training.", at_least(1)),
    Key("BRIDGE.LATENT.BATCH", 8, "Chips in a step.", at_least(1)),
    Key("BRIDGE.LATENT.LR", 0.0001, "Its learning rate.", above(0)),
    Key("BRIDGE.SOLVER.STEPS", 100000, "Optimizer updates.", at_least(1)),
    Key("BRIDGE.SOLVER.BATCH", 8, "Pairs in a forward pass of one process.", at_least(1)),
    Key("BRIDGE.SOLVER.ACCUMULATE", 1, "Forward passes added up before each update.", at_least(1)),
    Key("BRIDGE.SOLVER.LR", 0.0001, "Learning rate.", above(0)),
    Key("BRIDGE.SOLVER.WARMUP_STEPS", 0, "Steps in which the rate rises from 0.", at_least(0)),
    Key("BRIDGE.SOLVER.SCHED", "constant",
        "Course of the rate after the warm-up: 'constant', 'cosine' to 0, or 'plateau' (BBDM; no warm-up): torch's "
        "ReduceLROnPlateau on the loss of the last batch of every step, the mean over processes.",
        one_of("constant", "cosine", "plateau")),
    Key("BRIDGE.SOLVER.PLATEAU.FACTOR", 0.5, "The rate times this at a plateau.", below_one()),
    Key("BRIDGE.SOLVER.PLATEAU.PATIENCE", 3000, "Steps without a better loss that make a plateau.", at_least(0)),
    Key("BRIDGE.SOLVER.PLATEAU.THRESHOLD", 0.0001, "Better: below the best loss by this share of it.", between(0, 1)),
    Key("BRIDGE.SOLVER.PLATEAU.COOLDOWN", 3000, "Steps after a change of the rate that do not count.", at_least(0)),
    Key("BRIDGE.SOLVER.PLATEAU.MIN_LR", 5e-7, "The lowest rate.", at_least(0)),
    Key("BRIDGE.SOLVER.LOSS", "l1", "Distance of the prediction from its target.", one_of("l1", "l2")),
    Key("BRIDGE.SOLVER.EMA", 0.995, "Decay of the averaged weights, which are the result.", below_one()),
    Key("BRIDGE.SOLVER.EMA_EVERY", 1, "Steps between two updates of them.", at_least(1)),
    Key("BRIDGE.SOLVER.EMA_START", 0,
        "The step from which on they are averaged; before it they are copies. At 0 the decay rises to EMA: (1 + n) / "
        "(10 + n) in update n. With INIT_FROM and a start above 0, averaging begins at the first step.", at_least(0)),
    Key("BRIDGE.SOLVER.CLIP_NORM", 0.0, "Bound on the gradient's norm; 0: none.", at_least(0)),
    Key("BRIDGE.SOLVER.PRECISION", "no", "Mixed precision of training; 'no': float32.", one_of(*PRECISIONS)),
    Key("BRIDGE.SOLVER.CHECKPOINT_PERIOD", 1000, "Steps between two checkpoints.", at_least(1)),
    Key("BRIDGE.SOLVER.KEEP_CHECKPOINTS", 2, "Checkpoints kept, the newest ones.", at_least(1)),
    Key("BRIDGE.SOLVER.SAMPLE_PERIOD", 5000, "Steps between two image grids in tensorboard; 0: none.", at_least(0)),
    Key("BRIDGE.INIT_FROM", "", "A pipeline folder whose weights training starts from; --init-from sets it."),
    Key("BRIDGE.SAMPLE.STEPS", 200, "Network calls for a generated chip.", at_least(1)),
    Key("BRIDGE.SAMPLE.RULE", "bbdm", "The update: 'bbdm' or 'dbim'."),
    Key("BRIDGE.SAMPLE.ETA", 1.0, "Noise of the update, 0 to 1."),
    Key("BRIDGE.SAMPLE.ORDER", 1, "Order of the multistep update; 2 and 3: RULE dbim with ETA 0."),
    Key("BRIDGE.SAMPLE.SPACING", "linear", "'linear', 'leading', 'trailing', 'quadratic' or 'variance'."),
    Key("BRIDGE.SAMPLE.CLIP", True, "Clamp the predicted target to -1..1; never in latents."),
    Key("BRIDGE.SAMPLE.K", 5, "Generated chips of each source.", at_least(1)),
    Key("BRIDGE.SAMPLE.BATCH", 16, "Chips generated at a time.", at_least(1)),
    Key("BRIDGE.SAMPLE.SEED", 0, "Seed of all generated chips.", at_least(0)),
    Key("BRIDGE.SAMPLE.PRECISION", "no", "Mixed precision of the network, not of an autoencoder.", one_of(*PRECISIONS)),
    Key("BRIDGE.SAMPLE.SPLITS", ["query", "gallery", "holdout"],
        "What is dumped after training: 'query', 'gallery', 'holdout' (the training identities of TEST.HOLDOUT, on "
        "which alpha is chosen), 'train' (all training chips).", any_of("query", "gallery", "holdout", "train")),
    Key("BRIDGE.SAMPLE.OUTPUT", "", "Folder of the dump; empty: OUTPUT_DIR/synthetic."),
)  # fmt: skip
