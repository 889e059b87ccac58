"""Ranked lists from features: filtered, without a query's own image, several models united."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from made_task import image, query

from fastreid_mos.errors import TaskError
from fastreid_mos.evaluation.ensemble import reciprocal_rank_distances
from fastreid_mos.tasks import check_prediction, expect_enough, own_images, rank_task, ranking, read_task


def unit(rows, seed, dim=6):
    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_own_images(made, tmp_path, monkeypatch):
    """By another path, a copy, a link of either kind; not a file of the same size with other pixels."""
    monkeypatch.setattr(ranking, "_GLANCE", 64)
    task = read_task(made.path)
    assert own_images(task) == {"q3": {"o2"}, "q4": {"s3"}}
    os.link(tmp_path / "query/q1_RGB.tif", tmp_path / "hard.tif")
    os.symlink(tmp_path / "query/q1_RGB.tif", tmp_path / "soft.tif")
    shutil.copy(tmp_path / "query/q1_RGB.tif", tmp_path / "copy.tif")
    almost = bytearray((tmp_path / "query/q1_RGB.tif").read_bytes())
    almost[-1] ^= 1  # the middle, the size and the time are the same
    (tmp_path / "almost.tif").write_bytes(almost)
    shutil.copystat(tmp_path / "query/q1_RGB.tif", tmp_path / "almost.tif")
    names = ("hard", "soft", "copy", "almost")
    gallery = [image(name, f"{name}.tif", "optical") for name in names] + [image("as_sar", "query/../soft.tif")]
    made.write({"queries": [query("q1", "query/q1_RGB.tif", "O2O")], "gallery": gallery})
    assert own_images(read_task(made.path)) == {"q1": {"hard", "soft", "copy", "as_sar"}}
    os.unlink(tmp_path / "hard.tif")
    assert own_images(read_task(made.path, images=False)) == {"q1": {"soft", "copy", "as_sar"}}


@pytest.mark.parametrize(("top", "words"), [
    (3, None),
    (4, r"1 of 5 queries have fewer than 4 gallery .* 'q3' \(O2O\) with 3; set --top 3"),
    (5, r"3 of 5 queries have .* 'q3' \(O2O\) with 3; set --top 3"),
])  # fmt: skip
def test_too_few_gallery_chips(made, top, words):
    task = read_task(made.path)
    if words is None:
        expect_enough(task, top, {**own_images(task), "q3": {"o2", "s1"}})  # s1 it may not find anyway
    else:
        with pytest.raises(TaskError, match=f"^{made.path}: {words}"):
            expect_enough(task, top, own_images(task))


def test_no_gallery_chip_of_the_modality(made):
    made.write({"queries": made.content["queries"][:1], "gallery": made.content["gallery"][:4]})
    task = read_task(made.path)
    with pytest.raises(TaskError, match=r"'q1' \(O2S\) with 0; add gallery chips of that modality"):
        expect_enough(task, 1, own_images(task))


@pytest.mark.parametrize("method", ["cosine", "rrf"])
@pytest.mark.parametrize("block", [1, 2**22])
def test_lists_by_hand(made, monkeypatch, method, block):
    monkeypatch.setattr(ranking, "_BLOCK", block)
    task = read_task(made.path)
    own = own_images(task)
    members = [(unit(5, seed), unit(9, 10 + seed)) for seed in range(2)]
    lists, scores = rank_task(task, members, 3, own, method, k=2, depth=3, weights=[3, 1])
    check_prediction("p", task, lists, 3, own)
    assert list(lists) == ["q1", "q2", "q3", "q4", "q5"]
    ids = [chip.id for chip in task.gallery]
    for row, one in enumerate(task.queries):
        allowed = [column for column in task.gallery_rows(one.type) if ids[column] not in own.get(one.id, ())]
        cosines = [left[row : row + 1] @ right[allowed].T for left, right in members]
        if method == "cosine":
            score = (3 * cosines[0] + cosines[1])[0] / 4
        else:
            score = -reciprocal_rank_distances(cosines, 2, 3, weights=[3, 1])[0]
        nearest = np.argsort(-score, kind="stable")[:3]
        assert lists[one.id] == [ids[allowed[place]] for place in nearest]
        np.testing.assert_allclose(scores[one.id], score[nearest], atol=2e-6)


def test_equal_scores_keep_the_gallerys_order(made):
    task = read_task(made.path)
    same = np.repeat(unit(1, 2), 9, axis=0)
    same[1::2] *= np.float32(1 + 2e-7)  # as sums differ
    lists, scores = rank_task(task, [(unit(5, 1), same)], 4, own_images(task))
    assert lists["q1"] == ["s0", "s1", "s2", "s3"] and lists["q3"] == ["o0", "o1", "o3"]
    assert len(set(scores["q1"])) == 1
    for words in ({"method": "vote"}, {"weights": [1, 2]}):
        with pytest.raises(ValueError, match="method"):
            rank_task(task, [(unit(5, 1), same)], 4, **words)
