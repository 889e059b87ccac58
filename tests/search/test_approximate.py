"""faiss's kinds: nearly what exact search finds, with exact cosines, filters, and rows that came later."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from made_index import add, expected, features

from fastreid_mos.errors import MOSError
from fastreid_mos.search import ChipIndex, approximate, writer

faiss = pytest.importorskip("faiss")
COUNT = 600


@pytest.fixture
def publish(tmp_path):
    """A function: first chip, number of chips, kind, chips that go -> the index."""

    def call(first, count, kind, remove=()):
        add(tmp_path, count, first, kind=kind, remove=remove)
        return ChipIndex.open(tmp_path)

    return call


def recall(index, queries, k, allowed, modality=None):
    found, cosines = index.search(queries, k, modality)
    rows = features(1000)[:COUNT]
    for own, products, query in zip(found, cosines, queries, strict=True):
        np.testing.assert_allclose(products, rows[own] @ query, atol=1e-6)
        assert (np.diff(products) <= 0).all() and allowed[own].all() and len({*own.tolist()}) == k
    wanted = [expected(rows, query, k, allowed) for query in queries]
    return np.mean([len({*a} & {*b.tolist()}) / k for a, b in zip(wanted, found, strict=True)])


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_nearly_the_nearest_and_exact_cosines(publish, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "UNCOVERED", 50)
    index, queries = publish(0, 500, kind), features(5, seed=1)
    numbers = np.arange(COUNT)
    files = [path.name for path in tmp_path.glob("*.faiss")]
    assert files == [f"vectors-{kind}-1.faiss"] and len(index) == 500
    assert recall(index, queries, 10, numbers < 500) > 0.95
    # Forty more are looked at one by one; sixty more are taken up; dropped ones are not found.
    index = publish(500, 40, None, remove=[0, 520])
    assert [path.name for path in tmp_path.glob("*.faiss")] == files
    assert index.search(features(1000)[[539]], 1)[0][0, 0] == 539
    assert 520 not in index.search(features(1000)[[520]], 5)[0]
    assert (index.search(queries, 700)[0] >= 0).sum() == 5 * 538
    assert recall(index, queries, 10, (numbers < 540) & ~np.isin(numbers, [0, 520])) > 0.95
    index = publish(540, 60, None)
    assert [path.name for path in tmp_path.glob("*.faiss")] == [f"vectors-{kind}-3.faiss"]
    assert recall(index, queries, 10, ~np.isin(numbers, [0, 520])) > 0.95
    # A filter that leaves much is faiss's, one that leaves little an exact search; k of them come back.
    calls, odd = [], numbers % 2 == 1
    approximately = lambda *words: calls.append(1) or approximate.approximately(*words)  # noqa: E731
    monkeypatch.setattr("fastreid_mos.search.index.approximately", approximately)
    assert recall(index, queries, 10, odd, "sar") == 1 and not calls
    monkeypatch.setattr("fastreid_mos.search.index.FLAT_UP_TO", 10)
    assert recall(index, queries, 10, odd, "sar") > 0.95 and calls
    assert (index.search(queries, 300, "sar", 300.0, 0.5)[0] >= 0).sum() == 5 * (np.abs(numbers + 20 - 300) <= 150)[
        1::2
    ].sum()
    assert (
        index.search(queries, 700)[0].max(axis=1).min() >= 0 and (index.search(queries, 700)[0] >= 0).sum() == 5 * 598
    )
    monkeypatch.setattr("fastreid_mos.search.index.FLAT_UP_TO", 0)  # a graph leads past the few that a filter leaves
    monkeypatch.setattr(approximate, "_WIDTH", 1)
    monkeypatch.setattr(approximate, "_LEAST", 1)
    assert (index.search(queries, 2, "sar", 300.0, 0.03)[0] >= 0).all()


def test_a_graph_of_few_of_the_chips_or_of_other_rows_is_made_anew(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "UNCOVERED", 50)
    publish(0, 100, "ivf")
    publish(100, 300, None)
    (file,) = tmp_path.glob("*.faiss")
    assert faiss.read_index(str(file)).nlist == 10  # of 400 chips, not of 100
    index = publish(0, 0, None, remove=range(250))  # which numbers the others anew
    assert (
        index.rows == 150 and index.chips[int(index.search(features(1000)[[300]], 1)[0][0, 0])].path == "/chips/300.tif"
    )


def test_flat_and_back(publish, tmp_path):
    publish(0, 100, "ivf")
    publish(100, 1, "flat")
    assert list(tmp_path.glob("*.faiss")) == []
    publish(101, 1, None)
    assert list(tmp_path.glob("*.faiss")) == []
    publish(102, 0, "auto")
    assert list(tmp_path.glob("*.faiss")) == [] and approximate.kind_for(100_001, "auto") != "flat"
    assert approximate.kind_for(100_000, "auto") == "flat"


def test_a_damaged_file_is_named_and_made_again(publish, tmp_path):
    publish(0, 100, "hnsw")
    (file,) = tmp_path.glob("*.faiss")
    for content in (file.read_bytes()[:300], None):
        if content:
            file.write_bytes(content)
        else:
            file.unlink()
        with pytest.raises(MOSError, match=f"{file.name}: damaged .*mos index of the same chips repairs it"):
            ChipIndex.open(tmp_path).search(features(1), 1)
        index = publish(0, 0, None)
        (file,) = tmp_path.glob("*.faiss")
        assert index.search(features(1000)[[7]], 1)[0][0, 0] == 7


def test_without_faiss_it_says_what_to_install(publish, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MOSError, match=r"not installed; run: pip install 'fastreid-mos\[search\]'"):
        publish(0, 100, "hnsw")
    assert len(publish(0, 0, "flat")) == 100
