"""Score the answer to a task: Rank-1, mAP@k and mAP of each query type with 95 % intervals, and a weighted total.

AP@k, with k 10 or the depth of the lists if that is less, is divided by min(k, right images in the gallery). Queries
without a right image in the gallery of their type do not count, and are named. The total is the weighted mean over
types of (Rank-1 + mAP@k) / 2, by default 0.45 O2S + 0.45 S2O + 0.1 O2O; types without a query that counts leave their
share to the others.
"""

from __future__ import annotations

import argparse

from . import make_parser, run

EXAMPLE = "mos score --task task.json --prediction prediction.json --truth truth.json"


def program(args: argparse.Namespace) -> None:
    import json

    from tabulate import tabulate

    from ..evaluation.figures import figure_text
    from ..files import atomic_write, expect_new_file
    from ..tasks import check_prediction, own_images, read_task
    from ..tasks.scoring import parse_weights, read_truth, score
    from ..tasks.uniting import read_lists

    if args.json is not None:
        expect_new_file("--json", args.json, args.force, args.task, args.prediction, args.truth)
    weights = parse_weights(args.weights) if args.weights is not None else None
    task = read_task(args.task, images=False)
    (lists, _), truth, own = read_lists(args.prediction), read_truth(args.truth), own_images(task)
    check_prediction(args.prediction, task, lists, own=own)
    found = score(task, lists, truth, args.top, weights, own, args.truth)
    rows = []
    for kind, one in found.types.items():
        figures = {name: figure_text(*values) for name, values in one.figures().items()}
        rows.append({"type": kind, "queries": one.queries, "counted": one.counted, **figures})
    print(f"{args.prediction}: lists {found.depth} deep; percent [95 % interval over ships]")
    print(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True))
    if total := found.total():
        sum_ = " + ".join(f"{share:.3g} {kind}" for kind, share in found.weights.items())
        print(f"total {figure_text(*total)}: {sum_}, of (Rank-1 + mAP@{found.top}) / 2")
    for note in found.notes:
        print(f"note: {note}")
    if args.json:
        with atomic_write(args.json) as stream:
            stream.write(json.dumps(found.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("score", __doc__, f"example:\n  {EXAMPLE}")
    parser.add_argument("--task", required=True, metavar="FILE", help="the task; its images need not be there")
    parser.add_argument(
        "--prediction", required=True, metavar="FILE", help="JSON {query_id: [image_id, ...]}, or CSV with scores"
    )
    parser.add_argument("--truth", required=True, metavar="FILE", help="JSON {query_id: [right image_id, ...]}")
    parser.add_argument("--top", type=int, metavar="K", help="the k of mAP@k: cut the lists there")
    parser.add_argument("--weights", metavar="O2S=0.45,...", help="of the types in the total")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--force", action="store_true", help="replace an existing --json")
    return run(program, parser.parse_args(argv))
