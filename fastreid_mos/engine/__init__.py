"""Training and testing: fast-reid's DefaultTrainer for MOS."""

from .schedule import warmup_cosine_factor
from .trainer import MOSTrainer

__all__ = ["MOSTrainer", "warmup_cosine_factor"]
