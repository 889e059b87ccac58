"""Tasks: queries and a gallery in a JSON file, the ranked lists that answer it, and what they are worth."""

from .prediction import Prediction, check_prediction, read_prediction, write_prediction, write_scores
from .ranking import expect_enough, own_images, rank_task
from .task import QUERY_TYPES, GalleryChip, Query, Task, read_json, read_task

__all__ = [
    "QUERY_TYPES", "GalleryChip", "Prediction", "Query", "Task", "check_prediction", "expect_enough", "own_images",
    "rank_task", "read_json", "read_prediction",
    "read_task", "write_prediction", "write_scores",
]  # fmt: skip
