"""Chips that are searched again and again: their features and what is known of them, in a folder."""

from .index import ChipIndex, open_index
from .records import IndexedChip, Weights

__all__ = ["ChipIndex", "IndexedChip", "Weights", "open_index"]
