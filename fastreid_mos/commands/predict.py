"""Answer a task: for every query the most similar chips of the gallery.

The task is JSON (docs/tasks.md): queries with an image and a type such as O2S, optical to SAR, and a gallery. The
answer is {query_id: [image_id, ...]}, the most similar first, of the modality that the type asks for and without the
query's own image. Features are kept in OUT.features/: stopped anywhere, the same command goes on, and another --top or
--ensemble need not read a chip again.
"""

from __future__ import annotations

import argparse

from . import make_parser, open_predictors, require_least, run

EXAMPLE = "mos predict --task task.json --weights zoo:mos --top 10 --out prediction.json --csv scores.csv"


def program(args: argparse.Namespace) -> None:
    from ..errors import MOSError
    from ..files import expect_new_file
    from ..tasks import (
        check_prediction,
        expect_enough,
        own_images,
        rank_task,
        read_task,
        write_prediction,
        write_scores,
    )

    names = args.ensemble or [args.weights]
    shares = args.member_weights or [1.0] * len(names)
    if len(shares) != len(names) or not all(0 < share < float("inf") for share in shares):
        given = " ".join(f"{share:g}" for share in shares)
        raise MOSError(f"--member-weights {given}: give a number above 0 for each of the {len(names)} weights")
    require_least(args, top=1, depth=1, k=0)
    if not args.task:
        raise MOSError("--task: is empty; name a file")
    outputs = [path for path in (args.csv, args.features) if path is not None]
    expect_new_file("--out", args.out, args.force, args.task, *outputs)
    if args.csv is not None:
        expect_new_file("--csv", args.csv, args.force, args.task, *outputs[1:], start=b"query_id")
    task = read_task(args.task, args.root)
    own = own_images(task)
    expect_enough(task, args.top, own)

    from ..tasks.features import open_caches, sized, task_features

    predictors = open_predictors(names, args)
    task, side = sized(task)
    if side:
        what = "which tells nothing of the ships' sizes: all count as the mean ship"
        print(f"{args.task}: chips of {side} x {side} pixels, {what}; if you know them give 'width' and 'height'")
    with open_caches(args.features or f"{args.out}.features", predictors) as caches:
        members = task_features(task, predictors, caches)
    lists, scores = rank_task(task, members, args.top, own, args.method, args.k, args.depth, shares)
    check_prediction(args.out, task, lists, args.top, own)
    if args.csv:
        write_scores(args.csv, lists, scores)
    write_prediction(args.out, lists)
    by_type = ", ".join(f"{sum(query.type == type for query in task.queries)} {type}" for type in task.types)
    print(f"{args.out}: {len(lists)} queries ({by_type}), {args.top} of {len(task.gallery)} images each")


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("predict", __doc__, f"example:\n  {EXAMPLE}")
    parser.add_argument("--task", required=True, metavar="FILE", help="queries and gallery, JSON")
    parser.add_argument("--root", metavar="FOLDER", help="where the paths in the task start; the task's own folder")
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--weights", default="zoo:mos", metavar="W", help="zoo:NAME, a checkpoint or an exported file; zoo:mos"
    )
    model.add_argument("--ensemble", nargs="+", metavar="W", help="several weights, united")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="images a query; 10")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new file, JSON")
    parser.add_argument("--csv", metavar="FILE", help="a new file, query_id,rank,image_id,score")
    parser.add_argument("--method", choices=("cosine", "rrf"), default="cosine",
                        help="of an ensemble: mean cosine, or reciprocal rank fusion; cosine")  # fmt: skip
    parser.add_argument("--member-weights", type=float, nargs="+", metavar="X", help="how much each counts; alike")
    parser.add_argument(
        "--k", type=float, default=3.0, help="of rrf: the larger, the less the first ranks stand out; 3"
    )
    parser.add_argument("--depth", type=int, default=100, help="of rrf: ranks beyond it count nothing; 100")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; a GPU where there is one")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="chips at a time; 64")
    parser.add_argument("--features", metavar="FOLDER", help="where features are kept; OUT.features")
    parser.add_argument("--force", action="store_true", help="replace an existing --out and --csv")
    return run(program, parser.parse_args(argv))
