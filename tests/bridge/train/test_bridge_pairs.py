"""Pairs of training identities, and what is refused or left out."""

import os
import shutil
from pathlib import Path

import pytest
from train_world import tiny_cfg, write_pairs

from fastreid_mos.bridge.train.leaks import copies, held_out, leave_out, open_data, open_tests
from fastreid_mos.bridge.train.pairs import PairGroup, epoch_rows, open_pairs, rows_digest
from fastreid_mos.data import OptiSarPair
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.errors import ConfigError, DatasetError, MOSError


def test_hoss_pairs_are_all_training_chips_of_identities_with_both_modalities(hoss):
    pairs = open_pairs(["HOSS"])
    both = sorted({pid for _, pid, kind in hoss.train if kind == 0} & {pid for _, pid, kind in hoss.train if kind == 1})
    assert pairs.trained_identities() == {"HOSS": both} and both
    assert pairs.paths() == sorted(path for path, pid, _ in hoss.train if pid in both)
    alone = sum(pid not in both for _, pid, _ in hoss.train)
    assert alone and pairs.skipped.counts["of an identity with one modality only"] == alone
    assert all(
        {path[-7:-4] for path in group.chips[n]} == {("RGB", "SAR")[n]} for group in pairs.groups for n in (0, 1)
    )


def test_policies():
    three = ("s1", "s2", "s3")
    groups = [PairGroup("a", 1, (("o1", "o2"), three)), PairGroup("a", 2, (("p1",), ("t1",)))]
    assert epoch_rows(groups, "optical_to_sar", "random") == [("o1", three), ("o2", three), ("p1", ("t1",))]
    every = [(s, (o,)) for s in three for o in ("o1", "o2")]
    assert epoch_rows(groups, "sar_to_optical", "all") == [*every, ("t1", ("p1",))]
    ordered = [("o1", ("s1",)), ("o2", ("s2",)), ("o1", ("s3",)), ("p1", ("t1",))]
    assert epoch_rows(groups, "optical_to_sar", "ordered") == ordered


def test_pair_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    folder = write_pairs(tmp_path / "OptiSar_Pair" / "g1", ["a_7_x", "a_7_y", "a_8_x"])
    for name in ("a_7_y", "a_8_x"):
        (folder / f"{name}_SAR.png").unlink()
    expected = [(optical, (sar,)) for optical, sar, _ in OptiSarPair(str(tmp_path)).pairs]
    assert (
        epoch_rows(open_pairs(["OptiSarPair"]).groups, "optical_to_sar", "ordered") == expected and len(expected) == 2
    )
    for side, kind in (("opt", "RGB"), ("sar", "SAR")):
        (tmp_path / "QXS-SAROPT" / side).mkdir(parents=True)
        for number in "12":
            shutil.copy(folder / f"a_7_x_{kind}.png", tmp_path / "QXS-SAROPT" / side / f"{number}.png")
    pairs = open_pairs(["QXSSAROPT"])
    assert pairs.trained_identities() == {"QXSSAROPT": [1, 2]}
    assert [Path(path).parent.name for group in pairs.groups for path in group.chips[1]] == ["sar", "sar"]


def test_a_folder_of_pairs(tmp_path, shared_dir):
    folder = write_pairs(tmp_path / "mine", ["b", "a", "lonely"])
    (folder / "lonely_SAR.png").unlink()
    (folder / "notes.txt").write_text("x")
    pairs = open_pairs([str(folder)])
    assert pairs.trained_identities() == {"mine": [0, 1]}
    assert [Path(group.chips[0][0]).name for group in pairs.groups] == ["a_RGB.png", "b_RGB.png"]
    assert pairs.skipped.counts["without a partner of the other modality"] == 1
    # One that is called like a data set does not pass for it.
    assert list(open_pairs([str(write_pairs(tmp_path / "HOSS", ["1"]))]).roots) == [str(tmp_path / "HOSS")]
    assert open_pairs([str(shared_dir / "real_chips/pairs")]).trained_identities() == {"pairs": list(range(17))}


def test_names_that_are_refused(tmp_path, hoss):
    folder = write_pairs(tmp_path / "mine", ["a"])
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "empty").mkdir()
    for names in (["HOS"], [tmp_path / "empty"], ["HOSS", "HOSS_O2S"], [folder, tmp_path / "link"]):
        with pytest.raises((ConfigError, DatasetError), match=f"BRIDGE.DATA.NAMES.*{names[-1]}"):
            open_pairs(list(map(str, names)))
    try:
        shutil.copy(folder / "a_SAR.png", os.fsencode(folder) + b"/b\xff_SAR.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(DatasetError, match=r"mine/b.xff_SAR\.png"):
        open_pairs([str(folder)])


def test_held_out_identities_are_the_trainers_and_are_left_out(hoss, tmp_path):
    cfg = tiny_cfg(tmp_path, {"TEST.HOLDOUT.FRACTION": 0.3, "TEST.HOLDOUT.SEED": 4, "TEST.HOLDOUT.SPLITS": 2})
    held = {item for part in split_holdout(hoss.train, 0.3, splits=2, seed=4)[1][0] for item in part}
    assert set(held_out(cfg)) == held and held and held_out(tiny_cfg(tmp_path)) == []
    data, pids = open_data(cfg), {pid for _, pid, _ in held}
    assert set(data.pairs.trained_identities()["HOSS"]) == set(open_pairs(["HOSS"]).trained_identities()["HOSS"]) - pids
    assert data.held and {group.identity for group in data.held} <= pids
    assert data.pairs.skipped.counts["of a held-out identity (TEST.HOLDOUT)"] > 0
    # A copy in a folder is known by its content.
    folder = write_pairs(tmp_path / "mine", ["a", "b"])
    (folder / "b_SAR.png").unlink()
    shutil.copy(next(path for path, _, modality in held if modality == 1), folder / "b_SAR.tif")
    left, (out,) = leave_out(open_pairs([str(folder)]), sorted(held))
    assert [Path(group.chips[0][0]).name for group in (*left.groups, out)] == ["a_RGB.png", "b_RGB.png"]


@pytest.mark.parametrize(
    ("kind", "tests", "names"), [("SAR", ["HOSS"], []), ("RGB", [], ["HOSS"]), ("RGB", [], ["HOSS_O2S"])]
)
def test_a_test_chip_is_refused_by_content_whatever_its_name(hoss, tmp_path, kind, tests, names):
    """Also where no test set is named: a known test split is that of the training sets too."""
    folder = write_pairs(tmp_path / "mine", ["a", "b"])
    (folder / f"a_{kind}.png").unlink()
    shutil.copy(next(path for path, *_ in hoss.query if kind in path), folder / f"a_{kind}.tif")
    keys = {"BRIDGE.DATA.NAMES": f"['{folder}']", "DATASETS.TESTS": tests, "DATASETS.NAMES": names}
    with pytest.raises(DatasetError, match=rf"mine/a_{kind}\.tif: .*HOSS"):
        open_data(tiny_cfg(tmp_path, keys))


def test_a_test_identity_among_the_training_chips_is_refused(tiny_hoss, tmp_path, monkeypatch):
    """New bytes, so that only the identity tells."""
    hoss = shutil.copytree(tiny_hoss, tmp_path / "data") / "HOSS"
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    pid = min(path.name for path in (hoss / "bounding_box_test").glob("[0-9]*_RGB.tif")).split("_")[0]
    write_pairs(hoss / "bounding_box_train", [f"{pid}_new"])
    with pytest.raises(DatasetError, match=rf"BRIDGE.DATA.NAMES.* HOSS .*: {int(pid)};"):
        open_data(tiny_cfg(tmp_path))


def test_test_splits(tmp_path, hoss, monkeypatch):
    tests = open_tests(["HOSS", "HOSS_O2S", "HOSS_S2O"])
    paths = [path for path, _, _ in tests.query]
    assert len(set(paths)) == len(paths) and {path for path, _, _ in hoss.query} <= set(paths)
    assert tests.identities == {"HOSS": {pid for _, pid, _ in [*hoss.query, *hoss.gallery] if pid >= 0}}
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "nowhere"))
    keys = {"BRIDGE.DATA.NAMES": f"['{write_pairs(tmp_path / 'mine', ['a'])}']"}
    assert len(open_data(tiny_cfg(tmp_path, {**keys, "DATASETS.TESTS": "()"})).rows) == 1
    with pytest.raises(MOSError, match="HOSS"):
        open_data(tiny_cfg(tmp_path, keys))


def test_copies_are_of_the_same_bytes(tmp_path):
    a, b, c, d, none = (str(tmp_path / name) for name in ("a", "b", "c", "d", "none"))
    for path, content in ((a, b"12"), (b, b"13"), (c, b"12"), (d, b"123")):
        Path(path).write_bytes(content)
    assert copies([a, b, c, d], [a]) == {a: a, c: a}
    with pytest.raises(MOSError, match="none"):
        copies([none], [a])


def test_the_digest_does_not_depend_on_where_the_data_lie(tmp_path):
    made = set()
    for names, where in (("ab", "one"), ("ab", "two/deeper"), ("ac", "three")):
        pairs = open_pairs([str(write_pairs(tmp_path / where / "p", names))])
        made.add(rows_digest(epoch_rows(pairs.groups, "optical_to_sar", "all"), pairs.roots))
    assert len(made) == 2
