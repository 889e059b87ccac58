"""The report of a run as one self-contained HTML page: tables, charts and pictures in a single file."""

from .curves import read_metrics
from .images import Ship
from .method import MethodInputs, method_page

__all__ = ["MethodInputs", "Ship", "method_page", "read_metrics"]
