#!/usr/bin/env python
"""Draw queries of a test run beside the five gallery chips ranked nearest to each.

    python tools/draw_ranks.py output/mos_vit
    python tools/draw_ranks.py output/mos_vit --protocol O2S --count 20 --output o2s.png

RUN_FOLDER holds the query_ranks.csv of a test. Right chips have a green border and a tick, wrong ones a red border and
a cross; where the query's identity has no match in the gallery the borders are grey.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def program(args: argparse.Namespace) -> None:
    from fastreid_mos.errors import MOSError
    from fastreid_mos.evaluation.pictures import draw_top_lists, read_top_lists
    from fastreid_mos.evaluation.report import RANKS

    if args.count < 1:
        raise MOSError(f"--count: at least 1, got {args.count}")
    output = args.output or args.run_folder / "top5.png"
    if output.is_dir():
        raise MOSError(f"{output}: is a folder; give --output a file name")
    if output.exists() and not args.force:
        raise MOSError(f"{output}: exists already; give another --output, or --force to replace it")
    if not args.run_folder.is_dir():
        raise MOSError(f"{args.run_folder}: no such folder; give the OUTPUT_DIR of a test")
    protocol, lists = read_top_lists(args.run_folder / RANKS, args.protocol, args.count, unmatched=True)
    try:
        draw_top_lists(output, lists, f"{protocol}: nearest gallery chips")
    except OSError as error:
        raise MOSError(f"{output}: cannot be written ({os.strerror(error.errno or 0)})") from None
    print(f"{len(lists)} queries of {protocol}: {output}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN_FOLDER", help="OUTPUT_DIR of a test")
    parser.add_argument("--protocol", default="", help="of TEST.PROTOCOLS (default: the first that was tested)")
    parser.add_argument("--count", type=int, default=8, help="queries, spread evenly over those there are (default 8)")
    parser.add_argument("--output", type=Path, help="the picture, PNG (default RUN_FOLDER/top5.png)")
    parser.add_argument("--force", action="store_true", help="replace an existing picture")
    args = parser.parse_args(argv)
    import tools  # noqa: F401  what all of them do first
    from fastreid_mos.cli import run

    return run(lambda: program(args))


if __name__ == "__main__":
    sys.exit(main())
