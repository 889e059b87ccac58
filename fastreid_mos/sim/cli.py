"""The command line of ``mos simulate`` and ``tools/make_sim_hoss.py``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields

from ..errors import MOSError
from .tables import LIST_FOLDERS, plan_list, write_list
from .writer import FOLDERS, MANIFEST, SimConfig, plan, write_hoss

# Options after the fields of SimConfig, with its defaults.
_HELP = {
    "seed": "of everything: the same seed gives the same bytes",
    "chips_per_id": "passes of each ship",
    "test_fraction": "share of the identities that are tested",
    "single_modality_fraction": "share of the identities without SAR chips",
    "distractors_per_test_id": "gallery chips of identity -1, per test identity",
    "enl": "equivalent number of looks of the speckle (of the intensity)",
}
EXAMPLES = """  mos simulate --ids 40 --output output/ships
  mos simulate --ids 40 --chips-per-id 2 --layout list --square 256 --output output/challenge
"""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def _option(name: str) -> str:
    return "--ids" if name == "num_ids" else f"--{name.replace('_', '-')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool. Returns the exit status: 0, or with one line on standard error 2, and 130 after Ctrl-C."""
    p = argparse.ArgumentParser(
        prog="mos simulate",
        description="Write a simulated data set: ships as geometry, optical and SAR chips.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=_Help,
    )
    p.add_argument("--ids", type=int, required=True, help="identities, train and test together")
    p.add_argument("--output", required=True, help="folder to write to")
    p.add_argument(
        "--layout",
        choices=("hoss", "list"),
        default="hoss",
        help="hoss: HOSS ReID's folders and names, give OUTPUT as FASTREID_DATASETS; list: labels.csv, task.json, "
        "truth.json and names that tell nothing of the ship, as challenges have it",
    )
    p.add_argument("--square", type=int, default=0, help="of list: pixels a side of square, padded chips; 0: as cut")
    for field in fields(SimConfig):
        if field.name in _HELP:
            p.add_argument(_option(field.name), type=type(field.default), default=field.default, help=_HELP[field.name])
    p.add_argument("--workers", type=int, default=1, help="processes")
    args = p.parse_args(argv)
    settings = {name: getattr(args, name) for name in _HELP}
    start = time.perf_counter()
    listed = args.layout == "list"
    try:
        if listed:
            write_list(args.output, args.ids, square=args.square, workers=args.workers, **settings)
        elif args.square:
            raise ValueError("square: needs --layout list; HOSS's chips are as long and broad as their ships")
        else:
            write_hoss(args.output, args.ids, workers=args.workers, **settings)
    except (MOSError, ValueError) as error:
        name, _, rest = str(error).partition(": ")
        where = name if isinstance(error, MOSError) else _option(name)
        print(f"error: {where}: {rest}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    config = SimConfig(args.ids, **settings)
    chips, folders = (plan_list(config).chips, LIST_FOLDERS) if listed else (plan(config), FOLDERS)
    filled = {chip.folder for chip in chips}
    empty = ", ".join(folder for folder in folders if folder not in filled)
    print(
        f"simulated {'set with a table' if listed else 'HOSS'}: {args.ids} identities, {len(chips)} chips in "
        f"{args.output} ({time.perf_counter() - start:.1f} s); parameters in {MANIFEST}"
        f"{f'; empty with these numbers: {empty}' if empty else ''}"
    )
    return 0
