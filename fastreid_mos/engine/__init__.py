"""Training and testing: fast-reid's DefaultTrainer for MOS."""

from .schedule import warmup_cosine_factor
from .setup import setup
from .trainer import MOSTrainer

__all__ = ["MOSTrainer", "setup", "warmup_cosine_factor"]
