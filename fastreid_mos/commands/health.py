"""``mos health``: what is installed and found."""

from ..__main__ import main

__all__ = ["main"]
