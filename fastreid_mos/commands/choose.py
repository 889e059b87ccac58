"""Choose which models to unite, with which weights and how, on ships that none of them was trained on.

The combination that is best on some ships is partly the luckiest there. So the choice is made again without each of
--splits parts of the ships and measured on that part: that gain is what to expect of other ships. Measured is the total
of `mos score`, every chip being searched for among all others. Features are kept in --features: stopped anywhere, the
same command goes on, and further candidates cost no more than their own.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import make_parser, open_predictors, require_least, run
from .check import table_options

if TYPE_CHECKING:
    from ..tasks.choosing import Choice, Union
    from ..tasks.scoring import Figure

EXAMPLE = "mos choose --runs output/run_a output/run_b zoo:mos --splits 5"


def program(args: argparse.Namespace) -> None:
    import json

    from ..errors import MOSError
    from ..files import atomic_write, expect_new_file
    from ..tasks.scoring import WEIGHTS, parse_weights

    weights = WEIGHTS if args.weights is None else parse_weights(args.weights)
    require_least(args, splits=2, seed=0)
    if not args.features:
        raise MOSError("--features: is empty; name a folder")
    if args.json is not None:
        expect_new_file("--json", args.json, args.force)

    from tqdm import tqdm

    from ..tasks.choosing import METHODS, Chips, choose, expect_ships
    from ..tasks.features import open_caches, sized, task_features
    from ..tasks.labelled import as_task, at_most, find_candidates, labelled_items, ships_and_modalities, without_copies

    names = find_candidates(args.runs)
    items, source = labelled_items(args.chips, names, args.root, dict(args.columns))
    items, every = at_most(without_copies(items), args.seed), len(items)
    ships, modalities = ships_and_modalities(items)
    expect_ships(Chips([], ships, modalities), args.splits, weights)
    task, side = sized(as_task(items, source))
    print(f"{len(items)} of {every} chips: {source}" + f"; {side} x {side} pixels, sizes do not count" * bool(side))
    predictors = open_predictors(names, args)
    with open_caches(args.features, predictors) as caches:
        features = [made for _, made in task_features(task, predictors, caches)]
    with tqdm(total=(args.splits + 1) * len(METHODS), desc="choosing") as bar:
        found = choose(Chips(features, ships, modalities), args.splits, args.seed, weights, bar.update)
    content = report(found, names, args.splits, source)
    if args.json is not None:
        with atomic_write(args.json) as stream:
            stream.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def report(found: Choice, names: Sequence[str], splits: int, source: str) -> dict[str, Any]:
    """Print what was found; the same for JSON."""
    from tabulate import tabulate

    from ..evaluation.figures import figure_text
    from ..tasks.choosing import Union

    best = names[found.single.members[0]]
    alone = [
        Union("cosine", 0.0, tuple(int(row == number) for row in range(len(names)))) for number in range(len(names))
    ]
    rows = {name: found.figures(union) for name, union in zip(names, alone, strict=True)}
    rows["chosen"] = found.figures(found.union)
    table = [
        {"ranked by": name, **{kind: figure_text(*values) for kind, values in row.items()}}
        for name, row in rows.items()
    ]
    share = " + ".join(f"{weight:.3g} {kind}" for kind, weight in found.trial.weights.items())
    print(f"percent of (Rank-1 + mAP@10) / 2 [95 % interval over ships]; the total is {share}")
    print(tabulate(table, headers="keys", tablefmt="pipe", disable_numparse=True))
    gains = {"in_sample": found.in_sample.percent, "cross_validated": found.validated.percent}
    inside, outside = (figure_text(*gain, "+.1f") for gain in gains.values())
    several = len(found.union.members) > 1
    print(f"chosen: {described(found.union, names)}" + "; no union is better on these ships" * (not several))
    print(f"gain above {best} alone, on the ships that it was chosen on: {inside}")
    print(f"gain on ships that it was not chosen on, {splits} folds: {outside}, which is what to expect")
    for union, count in Counter(found.folds).most_common():
        print(f"  in {count} of {splits} folds: {described(union, names)}")
    line = command(found.union, names)
    if several and found.validated.low <= 0:
        print(f"so the gain may be chance; {best} alone:\n  {command(found.single, names)}\nthe choice:")
    print(f"  {line}")
    chosen = {"members": [names[row] for row in found.union.members], "method": found.union.method, "k": found.union.k,
              "weights": [found.union.weights[row] for row in found.union.members]}  # fmt: skip
    about = {"unit": "percent; intervals are 95 % bootstrap intervals over ships", "chips": source, "splits": splits}
    figures = {name: _for_json(row) for name, row in rows.items()}
    return {**about, "total": found.trial.weights, "figures": figures, "best_alone": best, "chosen": chosen,
            "gain": _for_json(gains), "command": line}  # fmt: skip


def _for_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: {"value": one.value, "interval": one.ends} for name, one in figures.items()}


def described(union: Union, names: Sequence[str]) -> str:
    parts = [f"{union.weights[row]} x {names[row]}" for row in union.members]
    how = f"reciprocal ranks, k {union.k:g}" if union.method == "rrf" else "mean of cosines"
    return f"{' + '.join(parts)}, {how}" if len(parts) > 1 else f"{names[union.members[0]]} alone"


def command(union: Union, names: Sequence[str]) -> str:
    """What answers a task with a union."""
    members = union.members
    words = ["mos", "predict", "--task", "task.json"]
    if len(members) == 1:
        words += ["--weights", names[members[0]]]
    else:
        words += ["--ensemble", *(names[row] for row in members)]
        words += ["--member-weights", *(str(union.weights[row]) for row in members), "--method", union.method]
        words += ["--k", f"{union.k:g}"] if union.method == "rrf" else []
    return shlex.join([*words, "--top", "10", "--out", "prediction.json"])


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("choose", __doc__, f"example:\n  {EXAMPLE}")
    runs = "runs (their model_best.pth, else model_final.pth), checkpoints, exported files or zoo:NAME"
    chips = (
        "holdout, the ships that all runs held out (TEST.HOLDOUT); a table of labelled chips, CSV; a folder with a "
        "HOSS/, its test ships; train:FOLDER, its training ships; holdout"
    )
    parser.add_argument("--runs", required=True, nargs="+", metavar="DIR", help=runs)
    parser.add_argument("--chips", default="holdout", metavar="SHIPS", help=chips)
    table_options(parser)
    parser.add_argument("--splits", type=int, default=5, metavar="N", help="parts of the ships; 5")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the parts; 0")
    parser.add_argument("--weights", metavar="O2S=0.45,...", help="of the types in the total, as of mos score")
    parser.add_argument("--json", metavar="FILE", help="write what was found there too")
    parser.add_argument(
        "--features", default="output/choose.features", metavar="FOLDER", help="where features are kept"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; a GPU where there is one")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="chips at a time; 64")
    parser.add_argument("--force", action="store_true", help="replace an existing --json")
    return run(program, parser.parse_args(argv))
