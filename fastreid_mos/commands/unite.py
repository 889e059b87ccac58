"""Unite the answers of several models, or of several people, to one task.

rrf, reciprocal rank fusion, needs ranks only: an image scores the sum over lists of weight / (k + rank). mean takes the
mean of the scores in CSV files (query_id,rank,image_id,score). Lists may be of any depth. Images of equal score are in
the order of the first list. With --task the result is checked as an answer to it.
"""

from __future__ import annotations

import argparse
import os

from . import make_parser, run

EXAMPLE = "mos unite a.json b.json --weights 2 1 --task task.json --top 10 --out united.json"


def program(args: argparse.Namespace) -> None:
    from ..errors import MOSError
    from ..files import expect_new_file
    from ..tasks import check_prediction, own_images, read_task, write_prediction, write_scores
    from ..tasks.uniting import read_lists, unite

    count = len(args.lists)
    if count < 2:
        raise MOSError(f"{args.lists[0]}: is one list; name two or more to unite")
    files = [os.path.realpath(path) for path in args.lists]
    if same := [path for row, path in enumerate(args.lists) if files[row] in files[:row]]:
        raise MOSError(f"{same[0]}: is named twice; name it once, and let it count more with --weights")
    if not args.out.lower().endswith((".json", ".csv")):
        raise MOSError(f"--out {args.out}: must end in .json, or .csv for a table with scores")
    start = b"query_id" if args.out.lower().endswith(".csv") else b"{"
    expect_new_file("--out", args.out, args.force, *args.lists, *filter(None, [args.task]), start=start)
    task = read_task(args.task, images=False) if args.task else None
    lists, scored = zip(*map(read_lists, args.lists), strict=True)
    own = own_images(task) if task else {}
    for path, one in zip(args.lists, lists, strict=True):
        if task:
            check_prediction(path, task, one, own=own)
    try:
        united = unite(args.lists, lists, scored, args.method, args.k, args.weights, args.top)
    except ValueError as error:  # k, weights or top
        raise MOSError(f"--{error}") from None
    if args.top and (short := [id_ for id_, images in united.items() if len(images) < args.top]):
        what = f"query {short[0]!r} has {len(united[short[0]])} images in all lists together"
        raise MOSError(f"--top {args.top}: {what}; give deeper lists, or a smaller --top")
    if args.out.lower().endswith(".csv"):
        write_scores(args.out, {id_: list(images) for id_, images in united.items()},
                     {id_: list(images.values()) for id_, images in united.items()})  # fmt: skip
    else:
        write_prediction(args.out, {id_: list(images) for id_, images in united.items()})
    depth = sorted({len(images) for images in united.values()})
    deep = f"{depth[0]}" if len(depth) == 1 else f"{depth[0]} to {depth[-1]}"
    print(f"{args.out}: {len(united)} queries, {deep} images each, of {count} lists by {args.method}")


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("unite", __doc__, f"example:\n  {EXAMPLE}")
    parser.add_argument("lists", nargs="+", metavar="FILE", help="JSON {query_id: [image_id, ...]}, or CSV with scores")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new file, .json or .csv")
    parser.add_argument("--method", choices=("rrf", "mean"), default="rrf")
    parser.add_argument("--k", type=float, default=3.0, help="rrf: the larger, the less the first ranks stand out; 3")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="how much each list counts; alike")
    parser.add_argument("--task", metavar="FILE", help="check the lists, and the result, against this task")
    parser.add_argument("--top", type=int, metavar="N", help="images a query; as many as the longest list has")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    return run(program, parser.parse_args(argv))
