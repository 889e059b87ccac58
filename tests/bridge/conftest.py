"""The bridge's tests import diffusers, which a CPU-only torchvision lets happen only after fastreid_mos."""

import fastreid_mos  # noqa: F401
