"""fast-reid 1.4.0 on today's Python, PyTorch, NumPy and torchvision, on a CPU or on GPUs.

Only what has no seam in fast-reid (no registry, no subclass, no config key) is patched, at run time, and only where the
installed version needs it. Every patch is a :class:`Patch` with its reason and the version it is for; :data:`PATCHES`
lists them all, applied or not, and ``python -m fastreid_mos`` prints the list.
"""

from .registry import PATCHES, Patch

__all__ = ["PATCHES", "Patch", "apply"]


def apply() -> None:
    """Make ``import fastreid`` work and repair what it does wrongly here. Calling it again does nothing.

    Raises a MOSError where fast-reid is not installed, with the command that installs it.
    """
    from .imports import import_fastreid

    if not PATCHES:
        import_fastreid()
        from . import checkpoints, data, evaluation, launching, training  # noqa: F401  each patches its part
