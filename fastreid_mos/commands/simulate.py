"""``mos simulate``: simulated ships in HOSS's form."""

from ..sim.cli import main

__all__ = ["main"]
