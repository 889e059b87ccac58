"""The plan of the house: imports run one way, files and rooms stay small."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import fastreid_mos

HOUSE = Path(fastreid_mos.__file__).parent
# What each room or file may import, besides itself. Nothing imports upward.
FLOORS = {
    "errors": set(),
    "files": {"errors"},
    "config": {"errors", "files"},
    "checks": {"errors", "config", "data", "modeling", "evaluation"},
    "compat": {"errors", "files", "data", "evaluation"},  # a patch puts a function of ours in place of fast-reid's
    "cli": {"errors", "files", "config", "compat"},
    "data": {"errors", "files", "config", "compat"},
    "sim": {"errors", "files", "data", "cli"},
    "page": {"errors", "files", "data"},
    "zoo": {"errors"},
    "modeling": {"errors", "files", "config", "compat", "data", "zoo"},
    "synthetic": {"errors", "files", "config", "compat", "data"},
    "bridge": {"errors", "files", "config", "compat", "data", "synthetic", "zoo"},
    "evaluation": {"errors", "files", "config", "compat", "data", "synthetic"},
    "engine": {"errors", "files", "config", "checks", "compat", "cli", "data", "synthetic", "modeling", "evaluation"},
    "predict": {"errors", "files", "config", "compat", "data", "sim", "modeling", "bridge", "evaluation", "engine"},
    "search": {"errors", "files", "data", "modeling", "page", "predict"},
}
FLOORS["tasks"] = {"errors", "files", "cli", "compat", "data", "modeling", "evaluation", "predict"}
FLOORS["serve"] = {"errors", "data", "predict", "search"}
FLOORS["audit"] = {"errors", "files", "config", "data", "page"}
FLOORS["commands"] = {*FLOORS, "__main__"}  # the program, on top of all


def _imports(file):
    parts = file.relative_to(HOUSE).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((*base, name)[0].split(".")[0] for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastreid_mos."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("room", FLOORS)
def test_imports_run_one_way(room):
    files = [*HOUSE.glob(f"{room}.py"), *(HOUSE / room).rglob("*.py")]
    imports = {(str(file), name) for file in files for name in _imports(file)}
    assert files and [line for line in imports if line[1] not in FLOORS[room] | {room}] == []


def test_files_and_rooms_stay_small():
    files = [*HOUSE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    assert [str(file) for file in files if file.read_text(encoding="utf-8").count("\n") > 400] == []
    rooms = Counter(file.parent for file in files if file.is_relative_to(HOUSE))
    assert {str(room): count for room, count in rooms.items() if count > 15} == {}
