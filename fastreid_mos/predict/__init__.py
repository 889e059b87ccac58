"""Features and probabilities from weights that hold their own config: :class:`Predictor`, and how they are exported."""

from .predictor import Predictor

__all__ = ["Predictor"]
