"""``mos check``: what is in a folder of chips, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence

from . import make_parser, run

_EPILOG = """
examples:
  mos check output/ships
  mos check output/ships --html check.html --json > check.json
  mos check labels.csv --root /data/images --columns ship_id=mmsi image_path=file

exit status: 0 nothing is wrong, or notes only; 3 warnings: probably a mistake; 4 errors: training or testing on it is
wrong. As of every command: 1 the system fails, 2 wrong input, 130 Ctrl-C.
"""


def program(args: argparse.Namespace) -> None:
    from ..audit import check
    from ..audit.html import page
    from ..files import atomic_write, expect_new_file

    if args.html is not None:  # before chips are read for minutes; an earlier page is replaced
        expect_new_file("--html", args.html, True, args.where, start=b"<!doctype html")
    report = check(args.where, args.workers, args.root, dict(args.columns))
    if args.html:
        with atomic_write(args.html) as stream:
            stream.write(page(report, args.command))
    print(json.dumps(report.as_json(), indent=1) if args.json else report.text())
    if args.html:
        print(f"page: {args.html}", file=sys.stderr)
    args.status = report.status


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"a number of processes from 1 to 256 is needed, got {text!r}")
    return int(text)


def _column(text: str) -> tuple[str, str]:
    name, equals, header = text.partition("=")
    if not (name and equals and header):
        raise argparse.ArgumentTypeError(f"NAME=HEADER is needed, such as ship_id=mmsi, got {text!r}")
    return name, header


def table_options(parser: argparse.ArgumentParser) -> None:
    """Where a table's paths start, and its headers."""
    root = "folder that a table's paths start from; else its own"
    columns = (
        "headers of a table that differ from image_id, ship_id, modality, image_path, split, spacing, width, height"
    )
    parser.add_argument("--root", default="", metavar="DIR", help=root)
    parser.add_argument("--columns", nargs="+", type=_column, default=[], metavar="NAME=HEADER", help=columns)


def main(argv: Sequence[str] | None = None) -> int:
    description = "Say what is in a folder of chips, and what is wrong with it. Nothing in it is changed."
    parser = make_parser("check", description, _EPILOG)
    where = "a folder of HOSS's or OptiSar_Pair's layout, any other folder of chips, or a CSV table of chips"
    parser.add_argument("where", metavar="ROOT_OR_CSV", help=where)
    table_options(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures of what is found")
    parser.add_argument("--json", action="store_true", help="print JSON, with every file of every finding")
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    parser.add_argument("--workers", type=_workers, default=workers, help=f"processes that read chips (here {workers})")
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    args.command = f"mos check {shlex.join(words)}"
    args.status = 0
    return run(program, args) or int(args.status)
