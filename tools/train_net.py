#!/usr/bin/env python
"""Train or test MOS, or any fast-reid model, with fast-reid's command line.

    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml
    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml --resume
    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml --eval-only MODEL.WEIGHTS model_final.pth

``--num-gpus N`` starts N processes, each on a GPU of its own, or with MODEL.DEVICE cpu on the CPU. KEY VALUE pairs
come last.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

# Read when torch is loaded: threads that wait sleep, and leave the cores to loader workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    from fastreid_mos.cli import argument_parser, run, start_processes
    from fastreid_mos.engine import MOSTrainer
    from fastreid_mos.engine.folder import claim_folder, own_folder, refuse_earlier_run
    from fastreid_mos.engine.setup import read_config, setup
    from fastreid_mos.engine.testing import evaluate
except Exception as error:  # fast-reid is missing: the message has the command that installs it
    if type(error).__name__ != "MOSError":
        raise
    sys.exit(f"error: {error}")


def train_or_test(cfg: Any, args: Namespace) -> dict[str, Any]:
    """One process of a run; the results are in the first."""
    setup(cfg, args)
    with own_folder(cfg.OUTPUT_DIR):
        if args.eval_only:
            return evaluate(cfg, MOSTrainer.build_model(cfg))
        refuse_earlier_run(cfg.OUTPUT_DIR, args.resume)
        trainer = MOSTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        claim_folder(cfg.OUTPUT_DIR, trainer.cfg, "config.yaml")
        return trainer.train()


def start(args: Namespace) -> None:
    """Read the config, so that a fault in it is reported once, and start the processes."""
    cfg = read_config(args)
    start_processes(partial(train_or_test, cfg), args, cfg.MODEL.DEVICE)


def main(argv: list[str] | None = None) -> int:
    args = argument_parser("Train or test MOS and any fast-reid model on HOSS.").parse_args(argv)
    return run(lambda: start(args), args.traceback)


if __name__ == "__main__":
    sys.exit(main())
