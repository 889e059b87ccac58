"""The command line of ``tools/make_sim_hoss.py``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ..errors import ConfigError, MOSError
from .speckle import DEFAULT_ENL
from .writer import FOLDERS, MANIFEST, SimConfig, plan, write_hoss


def parser() -> argparse.ArgumentParser:
    """Arguments of the tool; the defaults are those of :func:`write_hoss`."""
    base = SimConfig(1)
    p = argparse.ArgumentParser(
        prog="make_sim_hoss.py",
        description="Write a simulated HOSS ReID data set in HOSS's layout: ships as geometry, optical and SAR chips.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--ids", type=int, required=True, help="identities, train and test together")
    p.add_argument("--seed", type=int, default=0, help="of everything: the same seed gives the same bytes")
    p.add_argument("--output", required=True, help="folder to write to; give it as FASTREID_DATASETS afterwards")
    p.add_argument("--chips-per-id", type=int, default=base.chips_per_id, help="passes of each ship")
    p.add_argument(
        "--test-fraction", type=float, default=base.test_fraction, help="share of the identities that are tested"
    )
    p.add_argument(
        "--single-modality-fraction",
        type=float,
        default=base.single_modality_fraction,
        help="share of the identities without SAR chips",
    )
    p.add_argument(
        "--distractors-per-test-id",
        type=float,
        default=base.distractors_per_test_id,
        help="gallery chips of identity -1",
    )
    p.add_argument(
        "--enl", type=float, default=DEFAULT_ENL, help="equivalent number of looks of the speckle (of the intensity)"
    )
    p.add_argument("--workers", type=int, default=1, help="processes")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool. Returns the exit status: 0, or 2 with one line on standard error."""
    args = parser().parse_args(argv)
    settings = {
        "seed": args.seed,
        "chips_per_id": args.chips_per_id,
        "test_fraction": args.test_fraction,
        "single_modality_fraction": args.single_modality_fraction,
        "distractors_per_test_id": args.distractors_per_test_id,
        "enl": args.enl,
    }
    start = time.perf_counter()
    try:
        try:
            write_hoss(args.output, args.ids, workers=args.workers, **settings)
        except ValueError as error:
            # The message begins with the argument's name in Python.
            name, _, rest = str(error).partition(" ")
            option = "--ids" if name == "num_ids" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} {rest}") from None
        chips = plan(SimConfig(args.ids, **settings))
    except MOSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    empty = [folder for folder in FOLDERS if all(chip.folder != folder for chip in chips)]
    note = f"; empty with these numbers: {', '.join(empty)}" if empty else ""
    print(
        f"simulated HOSS: {args.ids} identities, {len(chips)} chips in {args.output} "
        f"({seconds:.1f} s); parameters in {MANIFEST}{note}"
    )
    return 0
