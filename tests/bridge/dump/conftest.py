"""A small world of chips with a bridge, and a dump of it."""

import shutil
from pathlib import Path

import pytest
from dump_world import NAMES, dump_to, write_chip
from tiny_bridge import tiny_pipeline


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """``data/HOSS/<split>/`` with chips, and ``pipe/``; not to be written to."""
    folder = tmp_path_factory.mktemp("world")
    for seed, path in enumerate(f"{split}/{name}.tif" for split in NAMES for name in NAMES[split]):
        write_chip(folder / "data" / "HOSS" / path, seed)
    tiny_pipeline(trained_identities={"HOSS": [7, 9]}).save_pretrained(folder / "pipe")
    return folder


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
