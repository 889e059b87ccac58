"""``tools/train_bbdm.py``: train a bridge, then dump generated chips; the same command again does what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import shlex
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from ..checks import load_cfg
from ..cli import OTHERS_WAIT, run, start_processes
from ..config import require_device, settle_output
from ..errors import ConfigError, MOSError

logger = logging.getLogger("fastreid_mos.bridge")

_EXTRA = {"diffusers": "diffusers>=0.30", "accelerate": "accelerate>=0.34"}


def parser() -> argparse.ArgumentParser:
    """The arguments, named as those of ``tools/train_net.py``."""
    made = argparse.ArgumentParser(
        prog="train_bbdm.py", description="Train a Brownian bridge between optical and SAR chips, and dump its chips."
    )
    made.add_argument("--config-file", default="", metavar="FILE", help="such as configs/HOSS/bbdm.yml")
    made.add_argument("--dump-only", action="store_true", help="generate chips with OUTPUT_DIR/pipeline")
    made.add_argument("--init-from", default="", metavar="FOLDER", help="start from the weights of a pipeline folder")
    made.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    made.add_argument("--num-machines", type=int, default=1)
    made.add_argument("--machine-rank", type=int, default=0)
    made.add_argument("--dist-url", default="auto", help="where the processes meet: auto or tcp://ADDRESS:PORT")
    made.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="over the config file, in the end")
    return made


def main(argv: list[str] | None = None) -> int:
    """``tools/train_bbdm.py`` and the ``mos-train-bbdm`` command."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(words)
    args.command = f"{_called()} {shlex.join(words)}"
    return run(lambda: _first_speaks(args))


def _called() -> str:
    """How this program was called, to be run again by hand from where it was run."""
    name = os.path.basename(sys.argv[0])
    if name.startswith("mos-train-bbdm"):
        return "mos-train-bbdm"
    return f"python {shlex.quote(sys.argv[0] if name == 'train_bbdm.py' else 'tools/train_bbdm.py')}"


def _first_speaks(args: argparse.Namespace) -> None:
    """Of the processes that a launcher started, the first says what all of them meet; its end ends the others."""
    try:
        _launch(args)
    except MOSError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(OTHERS_WAIT)
        raise


def _launch(args: argparse.Namespace) -> None:
    require_extra()
    cfg = read_config(args)  # what is wrong with it is said once, before the processes start
    if (args.num_gpus, args.num_machines) == (1, 1):
        program(args)
        return
    if "LOCAL_RANK" in os.environ:
        raise ConfigError("--num-gpus: a launcher has started the processes already; leave it out")
    start_processes(_program_of_several, args, cfg.MODEL.DEVICE)


def _program_of_several(args: argparse.Namespace) -> None:
    """One of the processes that fast-reid's launch started: accelerate is told by the environment, as it expects."""
    from fastreid.utils import comm

    # accelerate finds the process group made; the address is read only where there is none.
    told = {
        "RANK": comm.get_rank(),
        "WORLD_SIZE": comm.get_world_size(),
        "LOCAL_RANK": comm.get_rank() % args.num_gpus,
        "LOCAL_WORLD_SIZE": args.num_gpus,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or max((os.cpu_count() or 1) // args.num_gpus, 1),
    }
    os.environ.update({name: str(value) for name, value in told.items()})
    # Its own lock is shared between processes, and Python would warn of it when this one ends.
    tqdm.set_lock(threading.RLock())
    program(args)


def require_extra() -> None:
    """Stop where diffusers or accelerate is not installed.

    Raises:
        MOSError: one line with the command that installs them.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f'"{spec}"' for spec in _EXTRA.values())
        raise MOSError(f"{' and '.join(missing)} not installed; run: {sys.executable} -m pip install {wanted}")


def read_config(args: argparse.Namespace) -> Any:
    """The frozen config of the arguments.

    Raises:
        ConfigError: one line with what is wrong.
    """
    if not args.config_file:
        raise ConfigError(
            "--config-file: name one, such as configs/HOSS/bbdm.yml (configs/HOSS/demo/bbdm_debug.yml for a CPU)"
        )
    from .train.building import build_scheduler

    options = list(args.opts or [])
    if args.init_from:
        options += ["BRIDGE.INIT_FROM", args.init_from]
    cfg = load_cfg(args.config_file, options)
    # A launcher's processes, or those that --num-gpus asks for.
    require_device(cfg, int(os.environ.get("LOCAL_WORLD_SIZE") or args.num_gpus), args.num_machines)
    settle_output(cfg)
    build_scheduler(cfg)  # which checks its own keys
    return cfg


def program(args: argparse.Namespace) -> None:
    """Train (unless ``--dump-only``) and dump what ``BRIDGE.SAMPLE.SPLITS`` names.

    Raises:
        MOSError: anything that the user can put right.
    """
    from accelerate import PartialState

    from .dump.run import dump_splits
    from .train.logs import log_to, start_log
    from .train.run import PIPELINE, train
    from .train.trainer import make_accelerator

    cfg = read_config(args)
    state = make_accelerator(cfg).state
    start_log(state.is_main_process)
    folder = os.path.join(cfg.OUTPUT_DIR, PIPELINE)
    if args.dump_only:
        if not os.path.isfile(os.path.join(folder, "model_index.json")):
            raise MOSError(f"{folder}: no bridge there; train it first: {_without(args.command, '--dump-only')}")
        log_to(cfg.OUTPUT_DIR, state.is_main_process)
    else:
        train(cfg)
    if cfg.BRIDGE.SAMPLE.SPLITS:
        dump_splits(cfg, folder, PartialState(), args.command)
    if state.num_processes > 1:
        PartialState().wait_for_everyone()


def _without(command: str, flag: str) -> str:
    return " ".join(word for word in command.split(" ") if word != flag)
