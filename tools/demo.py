#!/usr/bin/env python
"""The main job end to end on a SIMULATED HOSS: chips, a small MOS, three protocols, pictures of top-5 lists.

    python tools/demo.py --output output/demo

Within ten minutes on two cores. Run again, it keeps what is finished: chips, training, then tests again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CONFIG = ROOT / "configs/HOSS/demo/mos_demo.yml"
SHOWN = 3  # queries drawn of each protocol


def check_output(output: Path, own: list[Path]) -> None:
    """Refuse a place that is no folder, or holds what no earlier demo has left there."""
    from fastreid_mos.errors import MOSError

    try:
        output.mkdir(parents=True, exist_ok=True)
        foreign = sorted(path.name for path in output.iterdir() if path not in own and not path.name.startswith("."))
    except FileExistsError:
        raise MOSError(f"--output {output}: is a file; give a folder") from None
    except OSError as error:
        raise MOSError(f"--output {output}: cannot be used as a folder ({error.strerror})") from None
    if foreign:
        raise MOSError(f"--output {output}: holds {foreign[0]}, which is not an earlier demo's; give a new folder")


def program(args: argparse.Namespace) -> None:
    from fastreid.engine import default_argument_parser

    from fastreid_mos.atomic import atomic_write
    from fastreid_mos.cli import train_program
    from fastreid_mos.evaluation.pictures import draw_top_lists, read_top_lists
    from fastreid_mos.sim import write_hoss

    start = time.perf_counter()
    output = args.output.resolve()
    data, run = output / "data", output / "run"
    check_output(output, [data, run, output / "top5.png", output / "results.json"])
    print(f"Simulating {args.ids} ships in {data} ...", flush=True)
    write_hoss(
        data, args.ids, args.seed, chips_per_id=args.chips_per_id, test_fraction=0.2, workers=os.cpu_count() or 1
    )
    os.environ["FASTREID_DATASETS"] = str(data)
    options = ["OUTPUT_DIR", str(run), "SEED", str(args.seed), *args.options]
    train_program(default_argument_parser().parse_args(["--resume", "--config-file", str(CONFIG), *options]))
    with open(run / "results.json", encoding="utf-8") as stream:
        results = json.load(stream)
    picture = output / "top5.png"
    lists = [row for name in results["protocols"] for row in read_top_lists(run / "query_ranks.csv", name, SHOWN)]
    draw_top_lists(picture, lists, "SIMULATED ships")
    with atomic_write(output / "results.json") as stream:
        json.dump(
            {**results, "picture": str(picture), "seconds": round(time.perf_counter() - start, 1)}, stream, indent=2
        )
    print(f"\nSIMULATED ships, percent. Done in {time.perf_counter() - start:.0f} s.")
    for name, part in results["protocols"].items():
        for row in ("model", "size-only", "random"):
            print(f"  {name}  {row:<10} mAP {part[row]['mAP']:5.1f}   Rank-1 {part[row]['Rank-1']:5.1f}")
    print(f"The table with intervals: {output / 'results.json'}")
    print(f"Top-5 lists: {picture}\nRanks of each query: {run / 'query_ranks.csv'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--ids", type=int, default=400, help="simulated ships")
    parser.add_argument("--chips-per-id", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="KEY VALUE pairs over configs/HOSS/demo/mos_demo.yml")
    args = parser.parse_args()
    from fastreid_mos.cli import run as guarded

    return guarded(lambda: program(args))


if __name__ == "__main__":
    sys.exit(main())
