"""A small world of chips with a bridge, and a dump of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dump_world import dump_to, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Not to be written to."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def own_world(world, tmp_path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "world"))


@pytest.fixture(scope="session")
def done(world, tmp_path_factory) -> Path:
    """A dump of two samples of each optical chip; not to be written to."""
    dump_to(world, folder := tmp_path_factory.mktemp("dump") / "done")
    return folder


@pytest.fixture
def copy(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))
