"""A few simulated chips, their index, and the page on it."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient  # noqa: E402

from fastreid_mos import Predictor  # noqa: E402
from fastreid_mos.data import read_chip
from fastreid_mos.data.modality import ship_metres
from fastreid_mos.search import IndexedChip
from fastreid_mos.search.update import weights_of
from fastreid_mos.search.writer import writing
from fastreid_mos.serve.app import make_app
from fastreid_mos.serve.served import Served

KINDS = ("optical", "sar")


def record(path):
    chip, facts = read_chip(path), os.stat(path)
    length = float(ship_metres(*chip.size, chip.modality).max())
    stamp = facts.st_size, facts.st_mtime_ns, f"{path.name}"
    return IndexedChip(str(path), KINDS[chip.modality], chip.size, length, *stamp)


@pytest.fixture(scope="session")
def chips(tiny_hoss, tmp_path_factory):
    """A folder of six optical and six SAR chips."""
    folder = tmp_path_factory.mktemp("chips")
    for kind in ("RGB", "SAR"):
        for path in sorted(tiny_hoss.rglob(f"bounding_box_test/*_{kind}.tif"))[:6]:
            shutil.copy2(path, folder)
    return folder


@pytest.fixture(scope="session")
def predictor():
    pytest.importorskip("timm")
    return Predictor("zoo:mos", "cpu")


@pytest.fixture(scope="session")
def features(chips, predictor):
    """By path."""
    paths = sorted(chips.iterdir())
    return dict(zip(paths, predictor.extract(paths), strict=True))


@pytest.fixture(scope="session")
def write(chips, features, predictor):
    """A function: write the index of these paths (default: all), under ``root``, into a folder."""
    weights = weights_of(predictor)

    def make(folder, paths=None, root=chips, weights=weights):
        paths = sorted(features) if paths is None else paths
        with writing(str(folder), weights) as store:
            store.add([record(path) for path in paths], np.stack([features[chips / path.name] for path in paths]))
            store.publish([str(root)], "auto")
        return folder

    return make


@pytest.fixture(scope="session")
def index(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="session")
def client():
    """A function: Served -> a client of its page."""

    def make(served, **options):
        return TestClient(make_app(served, **options), "http://127.0.0.1", raise_server_exceptions=False)

    return make


@pytest.fixture(scope="session")
def serve(predictor):
    """A function: folder of an index -> Served."""
    return lambda folder: Served(str(folder), predictor)


@pytest.fixture(scope="session")
def served(serve, index):
    return serve(index)


@pytest.fixture(scope="session")
def page(served, client):
    return client(served)
