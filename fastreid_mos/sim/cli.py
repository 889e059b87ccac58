"""The command line of ``tools/make_sim_hoss.py``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields

from ..errors import MOSError
from .writer import FOLDERS, MANIFEST, SimConfig, plan, write_hoss

# Options after the fields of SimConfig, with its defaults.
_HELP = {
    "seed": "of everything: the same seed gives the same bytes",
    "chips_per_id": "passes of each ship",
    "test_fraction": "share of the identities that are tested",
    "single_modality_fraction": "share of the identities without SAR chips",
    "distractors_per_test_id": "gallery chips of identity -1",
    "enl": "equivalent number of looks of the speckle (of the intensity)",
}


def _option(name: str) -> str:
    return "--ids" if name == "num_ids" else f"--{name.replace('_', '-')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool. Returns the exit status: 0, or 2 with one line on standard error."""
    p = argparse.ArgumentParser(
        prog="make_sim_hoss.py",
        description="Write a simulated HOSS ReID data set in HOSS's layout: ships as geometry, optical and SAR chips.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--ids", type=int, required=True, help="identities, train and test together")
    p.add_argument("--output", required=True, help="folder to write to; give it as FASTREID_DATASETS afterwards")
    for field in fields(SimConfig):
        if field.name in _HELP:
            p.add_argument(_option(field.name), type=type(field.default), default=field.default, help=_HELP[field.name])
    p.add_argument("--workers", type=int, default=1, help="processes")
    args = p.parse_args(argv)
    settings = {name: getattr(args, name) for name in _HELP}
    start = time.perf_counter()
    try:
        write_hoss(args.output, args.ids, workers=args.workers, **settings)
    except (MOSError, ValueError) as error:
        name, _, rest = str(error).partition(": ")
        where = name if isinstance(error, MOSError) else _option(name)
        print(f"error: {where}: {rest}", file=sys.stderr)
        return 2
    chips = plan(SimConfig(args.ids, **settings))
    empty = [folder for folder in FOLDERS if all(chip.folder != folder for chip in chips)]
    note = f"; empty with these numbers: {', '.join(empty)}" if empty else ""
    print(
        f"simulated HOSS: {args.ids} identities, {len(chips)} chips in {args.output} "
        f"({time.perf_counter() - start:.1f} s); parameters in {MANIFEST}{note}"
    )
    return 0
