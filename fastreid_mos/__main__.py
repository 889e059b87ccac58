"""``python -m fastreid_mos``: what is installed, what was patched and why, and which data sets are found."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from typing import Any

from .cli import run

HELP = "Print what is installed, what was patched in fast-reid and why, and which data sets are found."
PACKAGES = (
    "fastreid", "torch", "torchvision", "numpy", "pillow", "tifffile", "opencv-python-headless", "timm", "diffusers",
    "accelerate", "faiss-cpu",
)  # fmt: skip


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _section(title: str, rows: list[tuple[str, Any]]) -> None:
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<28} {value}")


def report() -> None:
    """Print the health report."""
    import torch

    import fastreid_mos

    from .compat import PATCHES

    print(f"fastreid-mos {fastreid_mos.__version__}")
    import fastreid

    rows = [("Python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows.append(("fast-reid is read from", os.path.dirname(str(fastreid.__file__))))
    _section("Versions", rows)

    devices: list[tuple[str, Any]] = [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append((f"cuda:{number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if len(devices) == 1:
        devices.append(("cuda", "none; add MODEL.DEVICE cpu to a command, as the demo's configs have it"))
    _section("Devices", devices)

    _section(
        "Patches of fast-reid",
        [(patch.name, f"{'active' if patch.active else 'not needed'}: {patch.reason}") for patch in PATCHES],
    )
    _datasets()


def _datasets() -> None:
    from fastreid.data.datasets import DATASET_REGISTRY

    from .data import dataset_root
    from .errors import MOSError

    root = dataset_root()
    rows: list[tuple[str, Any]] = [("FASTREID_DATASETS", root)]
    found = 0
    for name in ("HOSS", "HOSS_O2S", "HOSS_S2O", "OptiSarPair"):
        try:
            summary = DATASET_REGISTRY.get(name)(root=root).summary()
        except MOSError as error:
            # The reason, without the lines on the layout and on where to get the data set, the same for all.
            rows.append((name, str(error).partition(". Expected ")[0]))
            continue
        found += 1
        rows.append((name, ", ".join(f"{key} {value}" for key, value in summary.items())))
    if not found:
        rows.append(("none", "set FASTREID_DATASETS to the folder that holds HOSS; the README says where to get it"))
    _section("Data sets", rows)


def main() -> int:
    """Entry point of the ``mos-health`` command."""
    parser = argparse.ArgumentParser(prog="mos-health", description=HELP)
    parser.parse_args()
    return run(report)


if __name__ == "__main__":
    sys.exit(main())
