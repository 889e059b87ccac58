"""Logs of one JSON object a line."""

from __future__ import annotations

import json
import os

from .atomic import atomic_write


def keep_lines_before(path: str, key: str, limit: int) -> None:
    """Keep the lines whose ``key`` is below ``limit``; others go, and so does one cut off by a kill."""
    if not os.path.isfile(path):
        return
    kept = []
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                if json.loads(line)[key] < limit:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
    with atomic_write(path) as stream:
        stream.writelines(kept)
