"""Make an index of folders of chips, or bring it up to date, to be searched by `mos search`.

The modality is in the files' names (..._RGB, ..._SAR, or the folder's name), in their pixels, or in --modality. A
second run does new and changed files only and drops those that are gone. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys

from . import make_parser, run

EXAMPLE = "mos index port --index output/port"
_SHOWN = 20


def program(args: argparse.Namespace) -> None:
    from ..errors import shown
    from ..files import atomic_write
    from ..predict import Predictor
    from ..predict.inputs import as_modalities
    from ..search.approximate import faiss_module, kind_for
    from ..search.together import own_device, update_together
    from ..search.update import find_chips
    from ..search.writer import known_weights

    found, _ = find_chips(args.chips)  # what is wrong with them is said before anything is made
    if "://" not in args.index and kind_for(len(found), args.kind or "auto") != "flat":
        faiss_module()  # not after hours
    before = known_weights(args.index)
    predictor = Predictor(args.weights or (before.name if before else "zoo:mos"), own_device())
    result = update_together(args.index, args.chips, predictor, as_modalities(args.modality, 1)[0], args.kind)
    if result is None:
        return
    parts = [("new", result.new), ("changed", result.changed), ("moved or touched", result.moved)]
    parts += [("as before", result.same), ("gone", result.removed), ("skipped", len(result.skipped))]
    print(f"{args.index}: {result.total} chips; " + ", ".join(f"{count} {name}" for name, count in parts if count))
    if result.side:
        what = (
            "which tells nothing of the ships' sizes; tight crops are found better, --max-length-difference needs them"
        )
        print(f"note: the chips are {result.side} x {result.side} pixels, {what}")
    for path, problem in list(result.skipped.items())[:_SHOWN]:
        print(f"  skipped {shown(path)}: {problem}")
    if "://" in args.index:
        return
    file = os.path.join(args.index, "skipped.csv")
    with atomic_write(file) as stream:
        rows = [(shown(path), problem) for path, problem in result.skipped.items()]
        csv.writer(stream, lineterminator="\n").writerows([("path", "problem"), *rows])
    if len(result.skipped) > _SHOWN:
        print(f"  ... all of them in {file}")


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("index", __doc__, f"example:\n  {EXAMPLE}")
    parser.add_argument("chips", nargs="+", metavar="CHIPS", help="folders, with their subfolders, and files")
    parser.add_argument("--index", required=True, metavar="OUT", help="a folder, or qdrant://HOST[:PORT]/COLLECTION")
    weights = "zoo:NAME or a file (default: those of the index; of a new one zoo:mos)"
    parser.add_argument("--weights", default="", metavar="WEIGHTS", help=weights)
    kinds = "flat looks at every chip, hnsw and ivf at likely ones; auto, the default, is flat up to 100,000 chips"
    parser.add_argument("--kind", choices=("auto", "flat", "hnsw", "ivf"), help=kinds)
    parser.add_argument("--modality", choices=("optical", "sar"), help="of all these chips, whatever their names say")
    args = parser.parse_args(argv)
    status = run(program, args)
    if status == 130:
        print("the chips done so far are kept: the same command goes on", file=sys.stderr)
    return status
