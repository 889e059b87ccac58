"""CDGF's first half: a Brownian-bridge diffusion model that turns a chip of one modality into chips of the other.

Needs the extra ``bridge`` (diffusers, accelerate); :mod:`fastreid_mos` itself does not import this package.
"""

from .scheduler import BrownianBridgeScheduler, BrownianBridgeSchedulerOutput

__all__ = ["BrownianBridgeScheduler", "BrownianBridgeSchedulerOutput"]
