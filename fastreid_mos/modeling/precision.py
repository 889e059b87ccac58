"""Losses and the head in full precision inside mixed-precision training."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def no_autocast(device: torch.device) -> Any:
    """A context in which autocast is off on the device's kind."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device_type=device.type, enabled=False)
