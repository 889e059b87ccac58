"""Train a Brownian bridge between optical and SAR chips, then generate chips for fused testing.

    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml
    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml --init-from output/hoss/bbdm_pretrain_qxs/pipeline
    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml --dump-only BRIDGE.SAMPLE.STEPS 10
    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml --dump-only --init-from zoo:bridge

Killed anywhere, the same command resumes. ``--num-gpus N`` starts N processes, each on a GPU of its own, or with
MODEL.DEVICE cpu on the CPU; so does ``accelerate launch tools/train_bbdm.py ...``. KEY VALUE pairs come last.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from argparse import REMAINDER, Namespace
from functools import partial
from typing import Any

if missing := [name for name in ("diffusers", "accelerate") if importlib.util.find_spec(name) is None]:
    sys.exit(f"error: {' and '.join(missing)} not installed; run: {sys.executable} -m pip install diffusers accelerate")

from ..bridge.dump.run import dump, split_items
from ..bridge.train.leaks import open_data
from ..bridge.train.network import build_scheduler
from ..bridge.train.run import bridge_folder, log_to, start_log, train
from ..bridge.train.start import open_start
from ..bridge.train.trainer import make_accelerator
from ..checks import load_cfg
from ..cli import run, start_processes
from ..config import require_device, settle_output
from ..errors import ConfigError
from . import make_parser

EXAMPLES = """  mos train-bbdm --config-file configs/HOSS/bbdm.yml
  mos train-bbdm --config-file configs/HOSS/bbdm.yml --dump-only --init-from zoo:bridge
"""


def train_and_dump(cfg: Any, args: Namespace) -> None:
    """One process of a run."""
    accelerator = make_accelerator(cfg)
    start_log(accelerator.is_main_process)
    if args.dump_only:
        folder = bridge_folder(cfg)
    else:
        data = open_data(cfg)  # pairs of training ships; test ships are refused, held-out ones left out
        folder = train(cfg, data, open_start(cfg, data))  # from BRIDGE.INIT_FROM, if any; what is missing of it
    if cfg.BRIDGE.SAMPLE.SPLITS:
        with log_to(cfg.OUTPUT_DIR, accelerator.is_main_process):
            share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
            dump(cfg, folder, split_items(cfg), device=accelerator.device, command=args.command, **share)
    accelerator.wait_for_everyone()


def start(args: Namespace) -> None:
    """Read the config, so that a fault in it is reported once, and start the processes."""
    if not args.config_file:
        raise ConfigError("--config-file: name one, such as configs/HOSS/bbdm.yml (configs/HOSS/demo/ for a CPU)")
    if "LOCAL_RANK" in os.environ and (args.num_gpus, args.num_machines) != (1, 1):
        raise ConfigError("--num-gpus: a launcher has started the processes already; leave it out")
    cfg = load_cfg(args.config_file, [*args.opts, *(["BRIDGE.INIT_FROM", args.init_from] if args.init_from else [])])
    require_device(cfg, int(os.environ.get("LOCAL_WORLD_SIZE") or args.num_gpus), args.num_machines)
    settle_output(cfg)
    build_scheduler(cfg)  # which checks its own keys
    start_processes(partial(train_and_dump, cfg), args, cfg.MODEL.DEVICE)


def parse(argv: list[str]) -> Namespace:
    parser = make_parser("train-bbdm", (__doc__ or "").partition("\n")[0], f"examples:\n{EXAMPLES}")
    parser.add_argument("--config-file", default="", metavar="FILE", help="such as configs/HOSS/bbdm.yml")
    dump = "generate chips with OUTPUT_DIR/pipeline or, where there is none, with --init-from"
    parser.add_argument("--dump-only", action="store_true", help=dump)
    start = "start from the weights of a pipeline folder; zoo:bridge is the one that comes with the package"
    parser.add_argument("--init-from", default="", metavar="FOLDER", help=start)
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto", help="where the processes meet: auto or tcp://ADDRESS:PORT")
    parser.add_argument("--traceback", action="store_true", help="show the whole error instead of its one line")
    parser.add_argument("opts", nargs=REMAINDER, metavar="KEY VALUE", help="override the config file; they come last")
    args = parser.parse_args(argv)
    # Recorded in the dump, to be run again by hand.
    name = os.path.basename(sys.argv[0]).removesuffix(".exe")
    script = sys.argv[0] if name == "train_bbdm.py" else "tools/train_bbdm.py"
    installed = {"mos": "mos train-bbdm", "mos-train-bbdm": "mos-train-bbdm"}
    program = installed.get(name, f"python {shlex.quote(script)}")
    args.command = f"{program} {shlex.join(argv)}"
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    return run(lambda: start(args), args.traceback)
