"""Weights that come with the package: of re-identifiers a file ``<name>.safetensors``, of bridges a folder, and a card
(``<name>.md``, or ``README.md`` in the folder) of each."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import WeightsError

FOLDER = Path(__file__).parent
PREFIX = "zoo:"


def zoo_names(bridges: bool = False) -> list[str]:
    """The names of the re-identifiers, or of the bridges, in the zoo."""
    if bridges:
        return sorted(path.parent.name for path in FOLDER.glob("*/model_index.json"))
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def zoo_path(name: str | os.PathLike[str], bridge: bool = False) -> str:
    """The file of ``zoo:<name>``, with ``bridge`` its pipeline folder; any other name or path as it is.

    Raises:
        WeightsError: an unknown name; the message lists those there are.
    """
    text = os.fspath(name)
    if not text.startswith(PREFIX):
        return text
    if text.removeprefix(PREFIX) not in (names := zoo_names(bridge)):
        known = ", ".join(f"{PREFIX}{one}" for one in names) or "none"
        raise WeightsError(f"{text}: the zoo has no such {'bridge' if bridge else 'weights'}; there are: {known}")
    return str(FOLDER / (text.removeprefix(PREFIX) + ("" if bridge else ".safetensors")))
