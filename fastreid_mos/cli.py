"""What the command-line tools share: errors in one line, exit codes, and the training program itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

from .errors import MOSError

# Exit status of a program stopped by bad input, as argparse uses it.
BAD_INPUT = 2


def run(program: Callable[[], Any]) -> int:
    """Run a program; what it says to the user goes to standard error in one line.

    Returns:
        The process's exit status: 0, :data:`BAD_INPUT` for an error of ours, 130 for Ctrl-C.
    """
    try:
        program()
    except MOSError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except mp.ProcessExitedException as error:
        return error.exit_code if error.exit_code and error.exit_code > 0 else 1
    except (BrokenPipeError, MemoryError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _run_in_process(program: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """One of several processes: an error of ours is said by the process that met it, without a traceback."""
    try:
        program(args)
    except MOSError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(BAD_INPUT)


def train_program(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or with ``--eval-only`` test, as the arguments and the config say.

    Returns:
        The test results (first process only).
    """
    from .engine import MOSTrainer, setup
    from .errors import WeightsError
    from .modeling import load_reid_weights

    cfg = setup(args)
    if args.eval_only:
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False  # everything comes from MODEL.WEIGHTS
        weights = cfg.MODEL.WEIGHTS or _last_checkpoint(cfg.OUTPUT_DIR)
        model = MOSTrainer.build_model(cfg)
        report = load_reid_weights(model, weights)
        backbone = [name for name in report.missing if not name.startswith("heads.weight")]
        if backbone:
            raise WeightsError(
                f"{weights}: {len(backbone)} of the model's weights are not in it, {backbone[0]} first; "
                "testing a half-loaded model gives meaningless figures: use the config it was trained with"
            )
        return MOSTrainer.test(cfg, model)
    trainer = MOSTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def _last_checkpoint(output_dir: str) -> str:
    tag = os.path.join(output_dir, "last_checkpoint")
    if not os.path.isfile(tag):
        raise MOSError(f"--eval-only: set MODEL.WEIGHTS to a checkpoint ({output_dir} holds none)")
    with open(tag, encoding="utf-8") as stream:
        return os.path.join(output_dir, stream.read().strip())


def train(argv: list[str] | None = None) -> int:
    """``tools/train_net.py`` and the ``mos-train`` command."""
    from fastreid.engine import default_argument_parser, launch

    parser = default_argument_parser()
    parser.description = "Train or test MOS and any fast-reid model on HOSS."
    parser.set_defaults(dist_url="auto")
    args = parser.parse_args(argv)
    workers = args.num_gpus * args.num_machines
    if workers == 1:
        return run(lambda: train_program(args))
    return run(
        lambda: launch(
            _run_in_process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(train_program, args),
        )
    )
