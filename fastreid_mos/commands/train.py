"""Train or test MOS, or any fast-reid model, with fast-reid's command line.

    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml
    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml --resume
    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml --eval-only MODEL.WEIGHTS model_final.pth

``--num-gpus N`` starts N processes, each on a GPU of its own, or with MODEL.DEVICE cpu on the CPU. KEY VALUE pairs
come last.
"""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from functools import partial
from typing import Any

from fastreid.utils import comm

from ..checks import load_cfg
from ..cli import argument_parser, run, start_processes
from ..config import require_device, settle_output
from ..engine import MOSTrainer
from ..engine.folder import claim_folder, refuse_earlier_run, setup
from ..engine.testing import evaluate
from ..errors import ConfigError
from ..files import only_run

EXAMPLES = """  mos train --config-file configs/HOSS/mos_vit.yml
  mos train --config-file configs/HOSS/mos_vit.yml --resume
  mos train --config-file configs/HOSS/mos_vit.yml --eval-only MODEL.WEIGHTS output/mos_vit/model_final.pth
  mos train --config-file configs/HOSS/demo/debug.yml OUTPUT_DIR output/from_list \\
    DATASETS.CHIPLISTS.ships.CSV output/list/labels.csv DATASETS.NAMES ships, DATASETS.TESTS ships,
"""


def train_or_test(cfg: Any, args: Namespace) -> dict[str, Any]:
    """One process of a run; the results are in the first."""
    setup(cfg, args)
    with only_run(cfg.OUTPUT_DIR, comm.is_main_process()):
        if args.eval_only:
            return evaluate(cfg, MOSTrainer.build_model(cfg))
        refuse_earlier_run(cfg.OUTPUT_DIR, args.resume)
        trainer = MOSTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        claim_folder(cfg.OUTPUT_DIR, trainer.cfg, "config.yaml")
        return trainer.train()


def start(args: Namespace) -> None:
    """Read the config, so that a fault in it is reported once, and start the processes."""
    if not args.config_file:
        raise ConfigError("--config-file: name one, such as configs/HOSS/mos_vit.yml (configs/HOSS/demo/ for a CPU)")
    cfg = load_cfg(args.config_file, args.opts)
    require_device(cfg, args.num_gpus, args.num_machines)
    if args.eval_only:
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False  # everything comes from MODEL.WEIGHTS
    settle_output(cfg)
    start_processes(partial(train_or_test, cfg), args, cfg.MODEL.DEVICE)


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser("Train or test MOS, or any fast-reid model: fast-reid's command line.")
    parser.prog, parser.epilog = "mos train", f"examples:\n{EXAMPLES}"
    parser.formatter_class = RawDescriptionHelpFormatter
    args = parser.parse_args(argv)
    return run(lambda: start(args), args.traceback)
