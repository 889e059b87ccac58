"""Further passes of the ships of a simulated data set: what a perfect generator of chips would give."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from numpy.typing import NDArray

from ..errors import DatasetError
from .writer import MANIFEST, SIM_VERSION, ChipPlan, SimConfig, plan, render


def read_plan(folder: str | os.PathLike[str]) -> tuple[SimConfig, dict[str, ChipPlan]]:
    """What the simulated data set in ``folder``, which holds HOSS/, was made from, and its chips by their path in it.

    Raises:
        DatasetError: it is not simulated, damaged, or of another version, whose ships this one would draw otherwise.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, config = content["version"], SimConfig(**content["parameters"])
    except OSError:
        raise DatasetError(f"{folder}: has no {MANIFEST}; only ships of tools/make_sim_hoss.py can be drawn") from None
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{path}: is damaged; simulate the ships again into a new folder") from None
    if version != SIM_VERSION:
        fault = f"was written by version {version} of the simulator, and this is {SIM_VERSION}, which draws other ships"
        raise DatasetError(f"{path}: {fault}; simulate them again into a new folder")
    return config, {f"HOSS/{chip.folder}/{chip.name}": chip for chip in plan(config)}


def further_pass(config: SimConfig, chip: ChipPlan, sample: int, modality: int) -> NDArray:
    """Pixels of a pass of the chip's ship that is none of the data set's, another one for each ``sample`` (from 0)."""
    number = chip.number + (sample + 1) * config.chips_per_id
    return render(config, replace(chip, sar=bool(modality), number=number))
