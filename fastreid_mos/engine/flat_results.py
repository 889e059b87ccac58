"""Results of fast-reid's own ReidEvaluator, which returns its figures and neither logs nor writes them."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from fastreid.evaluation.testing import print_csv_format

from ..errors import MOSError
from ..evaluation.report import RESULTS, simulation_of
from ..files import atomic_write
from .resuming import last_checkpoint


def report_flat(cfg: Any, name: str, dataset: Any, figures: Mapping[str, Any], folder: str) -> None:
    """Log and write what fast-reid's ReidEvaluator measured, as its own trainer and our evaluator do."""
    print_csv_format(OrderedDict(figures, dataset=name))
    last = ""
    if not cfg.MODEL.WEIGHTS:
        last = os.path.basename(last_checkpoint(cfg.OUTPUT_DIR))
    content = {
        "dataset": type(dataset).__name__,
        "split": "test",
        "evaluator": "ReidEvaluator",
        "simulated": simulation_of(item[0] for item in [*dataset.query, *dataset.gallery]) is not None,
        "chips": {"query": len(dataset.query), "gallery": len(dataset.gallery)},
        "first_query": str(dataset.query[0][0]),
        "model": {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "last_checkpoint": last},
        "protocols": {"ALL": {"model": {metric: float(value) for metric, value in figures.items()}}},
        "unit": "percent; chips of the query's own identity and modality are left out of its ranking",
    }
    try:
        with atomic_write(os.path.join(folder, RESULTS)) as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")
    except OSError as error:
        raise MOSError(f"{folder}: the results cannot be written there ({error.strerror})") from None
