"""Images a second of PyTorch and of onnxruntime, in fp32 and int8, and the mAP of each on the same test ships.

    python benchmarks/onnx_speed.py --ships output/ships [--weights zoo:mos] [--threads 2] [--batch 32] [--repeats 15]

``--ships`` is a folder that holds HOSS/, such as ``mos simulate`` writes: int8 is calibrated on chips of its
bounding_box_train/, mAP is of its query/ and bounding_box_test/. Images are prepared before: the time is the network's
alone. All run in turns of five batches on as many threads, and against the faster PyTorch: in inference mode, with
channels last and batch norms folded into the convolutions where that is faster (tried). Goal: onnxruntime 1.5 times as
fast at equal mAP.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _bridge import PROTOCOLS
from _timing import compare, seconds
from tabulate import tabulate
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastreid_mos import Predictor
from fastreid_mos.data.datasets import HOSS
from fastreid_mos.evaluation.ranking import rank_features
from fastreid_mos.predict.onnx_export import export_onnx

# Batches at a time: onnxruntime's threads spin for a moment after a run, at the cost of what runs right behind it.
RUNS = 5


def folded(model: nn.Module) -> nn.Module:
    """A copy whose batch norms are folded into the convolutions that registered just before them."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        names = list(module._modules)
        for first, second in zip(names, names[1:], strict=False):
            conv, norm = module._modules[first], module._modules[second]
            if (
                isinstance(conv, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                and norm.num_features == conv.out_channels
            ):
                act = nn.Sequential(*[getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)])  # timm's
                module._modules[first], module._modules[second] = fuse_conv_bn_eval(conv, norm), act
    return model


def variants(predictor: Predictor, samples: list) -> dict[str, nn.Module]:
    """PyTorch's ways to run the same network, those that give the same features."""
    plain = predictor.model
    made = {"as it is": plain, "channels last": copy.deepcopy(plain).to(memory_format=torch.channels_last)}
    made["folded"] = folded(plain)
    made["folded, channels last"] = copy.deepcopy(made["folded"]).to(memory_format=torch.channels_last)
    expected = predictor.run(samples)
    same = {}
    for name, model in made.items():
        predictor.model = model
        if np.allclose(predictor.run(samples), expected, atol=1e-4):
            same[name] = model
    predictor.model = plain
    return same


def mean_average_precisions(predictor: Predictor, samples: list, identities: np.ndarray, queries: int) -> list[str]:
    batches = [samples[start : start + 64] for start in range(0, len(samples), 64)]
    features = np.concatenate([predictor.run(batch) for batch in batches])
    kinds, rows = np.array([int(one["modalities"]) for one in samples]), np.arange(len(samples))
    figures = []
    for left, right in PROTOCOLS.values():
        query = rows[(rows < queries) & ((kinds == left) | (left is None))]
        gallery = rows[(rows >= queries) & ((kinds == right) | (right is None))]
        result = rank_features(features[query], features[gallery], identities[query], identities[gallery])
        figures.append(f"{100 * result.mAP:.1f}")
    return figures


def several(predictor: Predictor, batch: list) -> Callable[[], None]:
    """A call that runs a batch RUNS times."""

    def call() -> None:
        for _ in range(RUNS):
            predictor.run(batch)

    return call


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ships", required=True, help="folder that holds HOSS/")
    parser.add_argument("--weights", default="zoo:mos")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs = Predictor(args.weights, device="cpu")
    dataset = HOSS(root=args.ships)
    items = [*dataset.query, *dataset.gallery]
    samples = [theirs.prepare(path, path, int(kind))[0] for path, _, kind in items]
    tested = samples, np.array([identity for _, identity, _ in items]), len(dataset.query)
    batch = samples[: args.batch]
    with torch.inference_mode():
        ways = variants(theirs, batch[:8])
        times = {name: [] for name in ways}
        for turn in range(5):
            for name, model in ways.items():
                theirs.model = model
                taken = seconds(lambda: theirs.run(batch), "cpu")
                times[name] += [taken] if turn else []
        best = min(times, key=lambda name: min(times[name]))
        theirs.model = ways["as it is"]
        head = ["", *(f"mAP {name}" for name in PROTOCOLS), "MB", "images a second", "times the faster PyTorch"]
        figures = mean_average_precisions(theirs, *tested)
        fastest = copy.copy(theirs)
        fastest.model = ways[best]
        own, other, ratio = compare(several(fastest, batch), several(theirs, batch), args.repeats)
        rows = [["PyTorch", *figures, "", RUNS * len(batch) / other, 1 / ratio]]
        rows += [[f"PyTorch, {best}", *figures, "", RUNS * len(batch) / own, 1.0]]
        with tempfile.TemporaryDirectory() as folder:
            for precision in args.precisions:
                file = Path(folder) / f"{precision}.onnx"
                with torch.inference_mode(False):
                    export_onnx(args.weights, str(file), precision, f"{args.ships}/HOSS/bounding_box_train")
                ours = Predictor(file, device="cpu")
                own, _, ratio = compare(several(ours, batch), several(fastest, batch), args.repeats)
                figures = mean_average_precisions(ours, *tested)
                megabytes = f"{file.stat().st_size / 1e6:.1f}"
                rows.append([f"onnxruntime {precision}", *figures, megabytes, RUNS * len(batch) / own, ratio])
    print(f"{args.weights}, {len(batch)} images in a batch, {args.threads} threads, {tested[2]} queries; medians of "
          f"{args.repeats} turns")  # fmt: skip
    print(tabulate(rows, head, floatfmt=".2f", tablefmt="github"))


if __name__ == "__main__":
    main()
