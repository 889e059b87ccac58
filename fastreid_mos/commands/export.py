"""Export trained weights, to be shared and used without their run.

    mos export output/run/model_final.pth --output ships.safetensors --calibrate holdout
    mos export --weights zoo:mos --format onnx --output ships.onnx
    mos export --weights zoo:mos --format onnx --precision int8 --calibration-chips port --output ships_int8.onnx
    mos export output/bridge/pipeline --output bridge --trained-on simulated

A checkpoint of mos train becomes one file for fastreid_mos.Predictor: in half precision, without classifier and
optimizer, for PyTorch and MODEL.WEIGHTS too; or as ONNX, for onnxruntime, written only if its features are those of
PyTorch. --calibrate gives it the probabilities of Predictor.same, from ships it was not trained on: `holdout`, those
that the run held out (TEST.HOLDOUT), read from FASTREID_DATASETS; the test ships of a folder with a HOSS/; or its
training ships, train:FOLDER, if these weights were not trained on them. Several sets count alike. Of a bridge's
pipeline folder another is made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import make_parser, run

FORMATS, PRECISIONS = ("safetensors", "onnx"), ("fp32", "fp16", "int8")


def program(args: argparse.Namespace) -> None:
    from ..errors import MOSError
    from ..files import expect_new_file
    from ..predict.export import export_bridge, export_weights

    source, output = _source(args), Path(args.output)
    if not Path(source).is_dir():
        expect_new_file("--output", args.output, args.force, source, start=b"")
    elif output.is_dir() and any(output.iterdir()) and not args.force:
        raise MOSError(f"{output}: exists already; give another --output, or --force to replace it")
    form = args.format or ("onnx" if output.suffix == ".onnx" else "safetensors")
    if form != "onnx" and (args.precision or args.calibration_chips):
        option = "--precision" if args.precision else "--calibration-chips"
        raise MOSError(f"{option}: is for --format onnx; safetensors are in half precision, and need no chips")
    if form == "onnx":
        from ..predict.onnx_export import export_onnx

        chosen = args.precision or PRECISIONS[0]
        _say(export_onnx(source, args.output, chosen, args.calibration_chips, args.calibrate))
    elif not Path(source).is_dir():
        from ..modeling.weights_files import find_weights

        _say(export_weights(find_weights(source), args.output, args.calibrate))
    elif args.calibrate:
        raise MOSError("--calibrate: a bridge has nothing to calibrate; leave it out")
    elif not Path(source, "model_index.json").is_file():
        raise MOSError(f"{source}: holds no bridge's pipeline; of a run name a checkpoint, such as model_final.pth")
    else:
        from ..bridge.train.run import start_log

        start_log(main=True)
        export_bridge(source, args.output, args.force, args.trained_on)
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    print(f"{output}: {sum(path.stat().st_size for path in files) / 1e6:.2f} MB")


def _source(args: argparse.Namespace) -> str:
    from ..errors import MOSError

    given = [name for name in (args.source, args.weights) if name]
    if len(given) != 1:
        what = "give one of CHECKPOINT and --weights" if given else "say what to export, such as --weights zoo:mos"
        raise MOSError(f"--weights: {what}")
    return str(given[0])


def _say(facts: dict[str, object]) -> None:
    print(json.dumps(facts, indent=2))
    if not facts["calibration"]:
        print("no calibration: Predictor.same will not work; --calibrate holdout, or a folder, makes one")


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("export", __doc__)
    parser.add_argument("source", metavar="CHECKPOINT", nargs="?", default="",
                        help="model_final.pth of a run, or a bridge's pipeline folder")  # fmt: skip
    parser.add_argument("--weights", default="", metavar="WEIGHTS", help="instead of CHECKPOINT; zoo:NAME too")
    parser.add_argument("--output", required=True, metavar="FILE",
                        help="NAME.safetensors, NAME.onnx, or a bridge's new folder")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, help="default: as the output's name ends")
    parser.add_argument("--precision", choices=PRECISIONS, help="of ONNX; default: fp32")
    parser.add_argument("--calibration-chips", default="", metavar="FOLDER",
                        help="of ONNX: chips to check it on, and for int8 to measure ranges on")  # fmt: skip
    what = "holdout, a folder with a HOSS/ (its test ships), or train:FOLDER"
    parser.add_argument("--calibrate", nargs="+", default=[], metavar="SHIPS", help=what)
    parser.add_argument("--trained-on", default="", metavar="WORD", help="of a bridge: such as simulated, before HOSS")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return run(program, parser.parse_args(argv))
