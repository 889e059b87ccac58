"""What is in a folder of chips, and what is wrong with it."""

from .findings import Case, Finding, Severity
from .report import Report, check

__all__ = ["Case", "Finding", "Report", "Severity", "check"]
