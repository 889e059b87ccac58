"""What must hold before fast-reid can be imported at all."""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import importlib
import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import MOSError
from .registry import record

INSTALL = "pip install --no-deps fastreid==1.4.0"

# Imported while the stand-ins below exist, so that none of them has to remain afterwards.
_MODULES = """
config utils utils.compute_dist utils.checkpoint utils.visualizer utils.summary data data.transforms.build
layers solver modeling evaluation evaluation.rank evaluation.rerank evaluation.roc engine engine.launch
""".split()

# The compiled operators that torchvision's Python files describe while they are imported.
_TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[Any] = []  # a torch Library takes its operators with it when it is collected


def import_fastreid() -> None:
    """Import fast-reid with today's libraries beside it."""
    if importlib.util.find_spec("fastreid") is None:
        raise MOSError(
            f"fast-reid is not installed: run '{INSTALL}' (without its dependencies: they pin torch 1.13.1), "
            "or put a checkout of its git repository on PYTHONPATH"
        )
    _declare_torchvision_operators()
    with _removed_names(), _faiss(), warnings.catch_warnings():
        # fast-reid recommends its compiled ranking; evaluate_rank is replaced by a faster one without a compiler.
        warnings.filterwarnings("ignore", message="Cython")
        for name in _MODULES:
            try:
                importlib.import_module(f"fastreid.{name}")
            except ModuleNotFoundError as error:
                if error.name is None or error.name.startswith("fastreid"):
                    raise
                raise MOSError(f"fast-reid needs the package {error.name!r}: run 'pip install {error.name}'") from error


def _declare_torchvision_operators() -> None:
    """Stub schemas for torchvision's compiled operators where its binary does not fit the installed torch.

    The registries hold torchvision for CUDA only; beside a CPU-only torch its binary cannot be loaded, and the import
    stops at the first operator it wants to describe. fast-reid uses none of these operators.
    """
    spec = importlib.util.find_spec("torchvision")
    needed = "torchvision" not in sys.modules and spec is not None and not _binary_loads(Path(str(spec.origin)).parent)
    reason = "its binary is built for another torch: the import stops with 'operator torchvision::nms does not exist'"
    if record("torchvision operators", reason, needed, f"torchvision beside torch {torch.__version__}"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _TORCHVISION_SCHEMAS:
            if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
                library.define(schema)
        _libraries.append(library)


def _binary_loads(folder: Path) -> bool:
    for binary in [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        try:
            torch.ops.load_library(binary)
        except (OSError, RuntimeError):
            return False
        return True
    return False


def _has_line(start: str) -> bool:
    """Whether a top-level line of the affected files starts with ``start``: git's master differs from 1.4.0."""
    folder = Path(str(importlib.util.find_spec("fastreid").origin)).parent  # type: ignore[union-attr]
    files = (folder / "data/build.py", folder / "evaluation/testing.py")
    return any(line.startswith(start) for file in files for line in file.read_text(encoding="utf-8").splitlines())


@contextlib.contextmanager
def _removed_names() -> Iterator[None]:
    """``torch._six`` and ``collections.Mapping``, gone since torch 2.0 and Python 3.10, while fast-reid is imported."""
    six_gone = importlib.util.find_spec("torch._six") is None and _has_line("from torch._six import")
    mapping_gone = not hasattr(collections, "Mapping") and _has_line("from collections import Mapping")
    record("torch._six", "data/build.py imports string_classes from it; torch 2.0 removed it", six_gone)
    record("collections.Mapping", "imported by data/build.py and others; Python 3.10 removed it", mapping_gone)
    if six_gone:
        six = types.ModuleType("torch._six")
        vars(six).update(string_classes=(str, bytes), int_classes=int, container_abcs=collections.abc, inf=math.inf)
        sys.modules["torch._six"] = six
    if mapping_gone:
        collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if six_gone:
            del sys.modules["torch._six"]
        if mapping_gone:
            del collections.Mapping  # type: ignore[attr-defined]


class _MissingFaiss(types.ModuleType):
    """Replaces faiss inside fast-reid; whoever really uses it is told what to install."""

    METRIC_L2 = 1  # a default argument in faiss_utils.py, read at import

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise MOSError(f"fast-reid wants faiss.{name}: run 'pip install faiss-cpu'")


@contextlib.contextmanager
def _faiss() -> Iterator[None]:
    """fast-reid imports faiss where it is not needed: re-ranking here runs without it (see ``evaluation``)."""
    missing = importlib.util.find_spec("faiss") is None
    if record("faiss", "utils/compute_dist.py and evaluation/roc.py import it; MOS does not need it", missing):
        sys.modules["faiss"] = _MissingFaiss("faiss")
    try:
        yield
    finally:
        if missing:
            del sys.modules["faiss"]
