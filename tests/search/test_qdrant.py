"""An index in Qdrant: as one in a folder. In the client's own files, and on a server where its program is there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from made_index import WEIGHTS, chips, features

from fastreid_mos.commands.index import main as index_main
from fastreid_mos.errors import MOSError
from fastreid_mos.search import ChipIndex, open_index, qdrant
from fastreid_mos.search.update import update
from fastreid_mos.search.writer import known_weights, writing

qdrant_client = pytest.importorskip("qdrant_client")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server's collections, without their names."""
    program = shutil.which("qdrant")
    if program is None:
        pytest.skip("no qdrant on PATH")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [place.getsockname()[1] for place in (one, two)]
    folder = tmp_path_factory.mktemp("qdrant")
    settings = {"HTTP_PORT": ports[0], "GRPC_PORT": ports[1], "HOST": "127.0.0.1"}
    environment = {f"QDRANT__SERVICE__{name}": str(value) for name, value in settings.items()}
    environment |= {"QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"), "QDRANT__TELEMETRY_DISABLED": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([program], cwd=folder, env={**os.environ, **environment}, **quiet)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/readyz", timeout=1)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield f"qdrant://127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(params=["local", "server"])
def where(request, tmp_path):
    """A collection that is not there yet."""
    if request.param == "local":
        return f"qdrant://{tmp_path}/store/ships"
    return f"{request.getfixturevalue('server')}/ships{time.monotonic_ns()}"


@pytest.fixture
def opened(where):
    """A function: the index that is there now. The client's own files can be open once at a time."""
    found = []

    def call():
        while found:
            found.pop().close()
        found.append(open_index(where))
        return found[-1]

    yield call
    while found:
        found.pop().close()


def add(where, numbers, rows, remove=()):
    with writing(where, WEIGHTS) as store:
        store.add(chips(numbers), rows[list(numbers)])
        store.remove([f"/chips/{n}.tif" for n in remove])
        store.publish(["/chips"], None)


def test_it_finds_what_an_index_in_a_folder_finds(where, opened, tmp_path):
    rows, queries, lengths = features(300), features(3, seed=1), np.array([45.0, 150.0, 280.0])
    for place in (where, str(tmp_path / "out")):
        add(place, range(300), rows, remove=[3, 4])
    here, there = ChipIndex.open(tmp_path / "out"), opened()
    assert len(there) == 298 and there.weights == WEIGHTS and there.roots == ["/chips"]
    for modality, share, k in [(None, None, 5), ("sar", None, 9), ("optical", 0.1, 7), (None, 0.82, 300), (None, 0, 2)]:
        filters = (k, modality, lengths if share is not None else None, share)
        (numbers, expected), (points, cosines) = here.search(queries, *filters), there.search(queries, *filters)
        np.testing.assert_allclose(cosines, expected, atol=1e-5)
        for ours, theirs in zip(numbers, points, strict=True):
            found = [
                [index.chips[int(row)] for row in own if row >= 0] for index, own in ((here, ours), (there, theirs))
            ]
            assert found[0] == found[1] and (ours < 0).tolist() == (theirs < 0).tolist()
    np.testing.assert_allclose(
        there.features(points[0][:1]), rows[[int(there.chips[points[0][0]].path[7:-4])]], atol=1e-6
    )
    with pytest.raises(IndexError):
        there.features([5])
    with pytest.raises(ValueError, match="max_length_difference"):
        there.search(queries, 5, None, None, 0.1)
    with pytest.raises(ValueError, match="features: finite"):
        there.search(queries[:, :3], 5)


def test_a_second_run_does_what_is_new_and_drops_what_is_gone(where, opened, port, weights, predictor, monkeypatch):
    monkeypatch.setattr(qdrant, "_PAGE", 4)

    def run():
        predictor.read.clear()
        with writing(where, weights) as store:
            result = update(store, [str(port)], predictor)
        return result.new, result.same, result.moved, result.removed, len(predictor.read)

    assert run() == (10, 0, 0, 0, 11) and run() == (0, 10, 0, 0, 1)  # the broken one is tried again
    before = opened()
    assert before.roots == [str(port)]
    if "///" not in where:
        run()
        assert not before.current() and opened().current()
    before.version += 1
    assert not before.current()
    before.close()
    os.unlink(port / "2_RGB.png")
    (port / "far").rename(port / "near")
    assert run() == (0, 7, 2, 3, 1)
    with writing(where, weights) as store:
        store.publish(["/bay"])
    index = opened()
    assert index.roots == sorted(["/bay", str(port)])
    found = index.search(index.features(index.search(np.ones((1, 12)), 1)[0][0]), 50)[0][0]
    names = sorted(os.path.relpath(index.chips[int(row)].path, port) for row in found if row >= 0)
    assert names == [f"{n}_RGB.png" for n in (0, 1, 3, 4, 5, 6, 7)] + ["near/8_RGB.png", "near/9_RGB.png"]
    assert index.chips[int(found[0])].size == (8, 24)


def test_what_is_refused(where, opened):
    with pytest.raises(MOSError, match="no such collection; make one with: mos index CHIPS --index qdrant:"):
        opened()
    assert known_weights(where) is None
    with writing(where, WEIGHTS) as store:
        store.add(chips(range(4)), features(4))
    with pytest.raises(MOSError, match="is not finished, 4 chips so far; run the same mos index again"):
        opened()
    assert known_weights(where) == WEIGHTS
    with pytest.raises(MOSError, match="is of other weights"), writing(where, WEIGHTS._replace(id="c" * 64)):
        pass


def test_a_collection_of_something_else_is_left_alone(tmp_path):
    client = qdrant_client.QdrantClient(path=str(tmp_path / "store"))
    vectors = qdrant_client.models.VectorParams(size=3, distance=qdrant_client.models.Distance.DOT)
    client.create_collection("ships", vectors_config=vectors)
    where = f"qdrant://{tmp_path}/store/ships"
    with pytest.raises(MOSError, match="another process has that folder open"):
        open_index(where)
    client.close()
    with pytest.raises(MOSError, match="that collection is not of mos index; give another name"):
        open_index(where)
    with pytest.raises(MOSError, match="is not of mos index"), writing(where, WEIGHTS):
        pass


@pytest.mark.parametrize(
    "where, words",
    [
        ("qdrant://127.0.0.1:1/ships", "no Qdrant server answers there"),
        ("qdrant://no.such.host.invalid/ships", "no Qdrant server answers there"),
        ("qdrant://localhost:99999/ships", "Port out of range"),
        ("qdrant://localhost:x/ships", "give qdrant://HOST"),
        ("qdrant://localhost", "is no address of a collection; give qdrant://HOST"),
        ("qdrant://localhost/a/b", "is no address of a collection"),
        ("qdrant:///ships", "is no address of a collection"),
        ("qdrant://", "is no address of a collection"),
        ("http://localhost/ships", "is neither a folder nor qdrant://"),
    ],
)
def test_addresses_that_cannot_be(where, words, port, refused):
    assert words in refused(str(port), "--index", where, program=lambda *words: index_main(list(words)))


def test_without_the_client_its_name_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qdrant_client", None)
    with pytest.raises(MOSError, match=r"run: pip install 'fastreid-mos\[qdrant\]'"):
        open_index("qdrant://localhost/ships")
