"""Reports as one self-contained HTML page: tables, charts and pictures in a single file."""

from .charts import Series, binned, line_chart
from .curves import alpha_charts, learning_charts, loss_chart, read_metrics
from .document import Page, Section, write_page
from .images import Picture, Ship, chip_picture, ship_rows, top_lists
from .markup import Html, join, markup, missing, tag
from .method import MethodInputs, method_page
from .tables import TableRow, difference_table, results_table

__all__ = [
    "Html",
    "MethodInputs",
    "Page",
    "Picture",
    "Section",
    "Series",
    "Ship",
    "TableRow",
    "alpha_charts",
    "binned",
    "chip_picture",
    "difference_table",
    "join",
    "learning_charts",
    "line_chart",
    "loss_chart",
    "markup",
    "method_page",
    "missing",
    "read_metrics",
    "results_table",
    "ship_rows",
    "tag",
    "top_lists",
    "write_page",
]
