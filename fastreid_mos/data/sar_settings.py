"""How SAR chips are read (``INPUT.SAR``), as a record of a bridge or of generated chips, against a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Names of a record, and the keys of INPUT.SAR.
SAR_KEYS = {"transform": "TRANSFORM", "channel": "CHANNEL", "low": "LOW_PERCENTILE", "high": "HIGH_PERCENTILE"}


@dataclass(frozen=True)
class SARDifference:
    """A setting that differs: its key in the config, the record's value and the config's."""

    key: str
    there: Any
    here: Any


def sar_differences(record: Mapping[str, Any], cfg: Any) -> list[SARDifference]:
    """What a record says otherwise than the config; the percentiles count for SARDenoise only, which alone has them.

    Args:
        record: "transform", "channel", "low" and "high".
        cfg: its ``INPUT.SAR`` is compared.
    """
    sar = cfg.INPUT.SAR
    denoised = record["transform"] == sar.TRANSFORM == "SARDenoise"
    return [
        SARDifference(f"INPUT.SAR.{key}", record[name], sar[key])
        for name, key in SAR_KEYS.items()
        if record[name] != sar[key] and (denoised or name not in ("low", "high"))
    ]
