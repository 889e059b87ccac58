"""Chips from a table: any CSV file as a data set, and what a table says of the ships' sizes."""

from .sizes import ListedChip, chip_metres, sized_like, square_side

__all__ = ["ListedChip", "chip_metres", "sized_like", "square_side"]
