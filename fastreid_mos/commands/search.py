"""Search an index for the chips that are most like yours, among those that the filters let through.

Of each query chip a table: rank, cosine, the probability of one ship (among as many pairs of one ship as of two), and
the ship's length. Files of the query's own content are left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys

from . import make_parser, run

EXAMPLE = "mos search port/12_RGB.tif --index output/port -k 5 --modality sar --html output/found.html"


def program(args: argparse.Namespace) -> None:
    from ..data.doubts import Doubts
    from ..errors import MOSError
    from ..files import expect_new_file
    from ..predict import Predictor
    from ..predict.inputs import as_modalities
    from ..search import open_index
    from ..search.answer import answer, page, read_queries, text
    from ..search.records import require_weights
    from ..search.update import weights_for

    if args.k < 1:
        raise MOSError(f"-k {args.k}: at least 1")
    if args.max_length_difference is not None and not 0 <= args.max_length_difference < 100:
        raise MOSError(f"--max-length-difference {args.max_length_difference}: a share of the length, such as 0.1")
    if args.html is not None:  # an earlier page is replaced
        expect_new_file("--html", args.html, True, *args.images, start=b"<!doctype html")
    index = open_index(args.index)
    predictor = Predictor(args.weights or index.weights.name)
    fits = predictor.dim == index.weights.dim
    if not (fits and args.force):
        advice = "index the chips anew" + ", or --force if both are one network" * fits
        require_weights(args.index, index.weights, weights_for(index, predictor), advice)
    doubts, answers = Doubts(), []
    for query in read_queries(args.images, predictor, as_modalities(args.query_modality, 1)[0]):
        doubts.note(query.path, query.doubts)
        hits = answer(index, query, predictor, args.k, args.modality, args.max_length_difference, args.keep_self)
        answers.append((query, hits))
    doubts.report()
    if args.html:
        facts = {"Index": f"{args.index}, {len(index)} chips", "Weights": index.weights.name}
        page(args.html, answers, facts, shlex.join(["mos", "search", *args.words]))
    if args.json:
        print(json.dumps([{"query": query.path, "chips": [hit.record for hit in hits]} for query, hits in answers]))
    else:
        print("\n\n".join(text(query, hits) for query, hits in answers))


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("search", __doc__, f"example:\n  {EXAMPLE}")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="chips that are searched for")
    parser.add_argument("--index", required=True, metavar="OUT", help="of mos index")
    parser.add_argument("-k", type=int, default=20, help="chips for each query (%(default)s)")
    parser.add_argument("--modality", choices=("optical", "sar"), help="of the chips to be found")
    parser.add_argument("--query-modality", choices=("optical", "sar"), help="where neither name nor pixels tell it")
    share = "only ships whose length differs by at most this share of the query's, such as 0.1"
    parser.add_argument("--max-length-difference", type=float, metavar="SHARE", help=share)
    parser.add_argument("--keep-self", action="store_true", help="do not leave out the query's own file and copies")
    parser.add_argument("--html", metavar="FILE", help="write a page with thumbnails, too")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--weights", default="", help="default: those of the index")
    parser.add_argument("--force", action="store_true", help="search with other weights than the index's")
    args = parser.parse_args(argv)
    args.words = list(sys.argv[2:] if argv is None else argv)
    return run(program, args)
