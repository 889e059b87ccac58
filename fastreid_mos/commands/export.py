"""Export trained weights in half precision, to be shared and used without their run.

    python tools/export_weights.py output/run/model_final.pth --output ships.safetensors --calibrate holdout
    python tools/export_weights.py output/run/model_final.pth --output ships.safetensors --calibrate /data/other_ships
    python tools/export_weights.py output/bridge/pipeline --output bridge --trained-on simulated

A checkpoint of tools/train_net.py becomes one file for fastreid_mos.Predictor and MODEL.WEIGHTS, without classifier and
optimizer. --calibrate gives it the probabilities of Predictor.same, from ships it was not trained on: `holdout`, those
that the run held out (TEST.HOLDOUT), read from FASTREID_DATASETS; the test ships of a folder with a HOSS/; or its
training ships, train:FOLDER, if these weights were not trained on them. Several sets count alike. Of a bridge's
pipeline folder another is made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def program(args: argparse.Namespace) -> None:
    from ..errors import MOSError
    from ..predict.export import export_bridge, export_weights

    output = Path(args.output)
    if (output.is_file() or output.is_dir() and any(output.iterdir())) and not args.force:
        raise MOSError(f"{output}: exists already; give another --output, or --force to replace it")
    if not Path(args.source).is_dir():
        facts = export_weights(args.source, args.output, args.calibrate)
        print(json.dumps(facts, indent=2))
        if not args.calibrate:
            print("no calibration: Predictor.same will not work; --calibrate holdout, or a folder, makes one")
    elif args.calibrate:
        raise MOSError("--calibrate: a bridge has nothing to calibrate; leave it out")
    else:
        from ..bridge.train.run import start_log

        start_log(main=True)
        export_bridge(args.source, args.output, args.force, args.trained_on)
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    print(f"{output}: {sum(path.stat().st_size for path in files) / 1e6:.2f} MB")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="CHECKPOINT", help="model_final.pth of a run, or a bridge's pipeline folder")
    parser.add_argument("--output", required=True, metavar="FILE", help="NAME.safetensors, or a bridge's new folder")
    what = "holdout, a folder with a HOSS/ (its test ships), or train:FOLDER"
    parser.add_argument("--calibrate", nargs="+", default=[], metavar="SHIPS", help=what)
    parser.add_argument("--trained-on", default="", metavar="WORD", help="of a bridge: such as simulated, before HOSS")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args(argv)
    from ..cli import run

    return run(lambda: program(args))
