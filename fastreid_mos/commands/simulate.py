"""``mos simulate``: simulated ships in HOSS's form, or as a table and a task."""

from ..sim.cli import main

__all__ = ["main"]
