"""fast-reid can be imported where fastreid_mos was imported before."""

from __future__ import annotations

import fastreid_mos  # noqa: F401
