"""``python -m fastreid_mos``: what is installed, what was patched and why, which weights and data sets are found."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Sequence

import fastreid
import torch
from fastreid.data.datasets import DATASET_REGISTRY

from . import __version__
from .cli import run
from .compat import PATCHES
from .data import dataset_root
from .errors import MOSError
from .zoo import PREFIX, zoo_names

PACKAGES = (
    "fastreid", "torch", "torchvision", "numpy", "pillow", "tifffile", "opencv-python-headless", "timm", "diffusers",
    "accelerate", "faiss-cpu",
)  # fmt: skip


def report() -> None:
    print(f"fastreid-mos {__version__}")
    patches = ((patch.name, f"{'active' if patch.active else 'not needed'}: {patch.reason}") for patch in PATCHES)
    sections = {"Versions": _versions(), "Devices": _devices(), "Patches of fast-reid": patches}
    sections |= {"Weights that come with the package": _zoo(), "Data sets": _datasets()}
    for title, rows in sections.items():
        print(f"\n{title}")
        for name, value in rows:
            print(f"  {name:<28} {value}")


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "fast-reid is read from", os.path.dirname(str(fastreid.__file__))


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        yield "cuda", "none; add MODEL.DEVICE cpu to a command, as the demo's configs have it"


def _zoo() -> Iterator[tuple[str, str]]:
    for bridges, what in ((False, "a re-identifier"), (True, "a bridge")):
        for name in zoo_names(bridges):
            yield f"{PREFIX}{name}", what


def _datasets() -> Iterator[tuple[str, str]]:
    root = dataset_root()
    yield "FASTREID_DATASETS", root
    missing = False
    for name in ("HOSS", "HOSS_O2S", "HOSS_S2O", "OptiSarPair"):
        try:
            summary = DATASET_REGISTRY.get(name)(root=root).summary()
            yield name, ", ".join(f"{key} {value}" for key, value in summary.items())
        except MOSError as error:  # without the layout and the source, the same for all
            missing |= name == "HOSS"
            yield name, str(error).partition(". Expected ")[0]
    if missing:
        yield "", "set FASTREID_DATASETS to the folder that holds HOSS; the README says where to get it"


def main(argv: Sequence[str] | None = None) -> int:
    """``mos health``, and ``mos-health`` of earlier versions."""
    what, example = (__doc__ or "").partition(": ")[2], "example: mos health"
    argparse.ArgumentParser(prog="mos health", description=what, epilog=example).parse_args(argv)
    return run(report)


if __name__ == "__main__":
    sys.exit(main())
