"""Pairs of training identities, and what is refused or left out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pair_world import tiny_cfg, write_pairs

from fastreid_mos.bridge.train.leaks import Contents, held_out, leave_out, open_tests, refuse_test_chips
from fastreid_mos.bridge.train.pairs import PairGroup, open_pairs, pair_table, table_facts
from fastreid_mos.bridge.train.run import open_data
from fastreid_mos.data import HOSS
from fastreid_mos.errors import ConfigError, DatasetError, MOSError


@pytest.fixture
def hoss(tiny_hoss, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    return HOSS(str(tiny_hoss))


@pytest.fixture
def own_hoss(tiny_hoss, tmp_path, monkeypatch):
    """A copy that may be changed."""
    shutil.copytree(tiny_hoss, tmp_path / "data")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    return tmp_path / "data" / "HOSS"


def test_hoss_pairs_are_all_training_chips_of_identities_with_both_modalities(hoss):
    pairs = open_pairs(["HOSS"])
    kinds: dict[int, set[int]] = {}
    for _, pid, modality in hoss.train:
        kinds.setdefault(pid, set()).add(modality)
    both = sorted(pid for pid, kind in kinds.items() if len(kind) == 2)
    assert pairs.trained_identities() == {"HOSS": both} and both
    assert pairs.paths() == sorted(path for path, pid, _ in hoss.train if pid in both)
    alone = sum(pid not in both for _, pid, _ in hoss.train)
    assert alone and pairs.skipped.counts["of an identity with one modality only"] == alone
    for group in pairs.groups:
        assert all(path.endswith("RGB.tif") for path in group.optical)
        assert all(path.endswith("SAR.tif") for path in group.sar)


def test_policies():
    groups = [PairGroup("a", 1, ("o1", "o2"), ("s1", "s2", "s3")), PairGroup("a", 2, ("p1",), ("t1",))]
    random = pair_table(groups, "optical_to_sar", "random")
    assert random.sources == ("o1", "o2", "p1")
    assert random.targets == (("s1", "s2", "s3"), ("s1", "s2", "s3"), ("t1",))
    every = pair_table(groups, "sar_to_optical", "all")
    assert sorted(zip(every.sources, every.targets, strict=True)) == sorted(
        [(s, (o,)) for s in ("s1", "s2", "s3") for o in ("o1", "o2")] + [("t1", ("p1",))]
    )
    ordered = pair_table(groups, "optical_to_sar", "ordered")
    assert list(zip(ordered.sources, ordered.targets, strict=True)) == [
        ("o1", ("s1",)), ("o2", ("s2",)), ("o1", ("s3",)), ("p1", ("t1",)),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="PAIRING.*'best'"):
        pair_table(groups, "optical_to_sar", "best")
    with pytest.raises(ConfigError, match="DIRECTION"):
        pair_table(groups, "up", "all")


def test_ordered_is_the_pairs_of_the_pair_data_sets(tmp_path, monkeypatch):
    from fastreid_mos.data import OptiSarPair

    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    write_pairs(tmp_path / "OptiSar_Pair" / "g1", ["a_7_x", "a_7_y", "a_8_x"])
    (tmp_path / "OptiSar_Pair" / "g1" / "a_7_y_SAR.png").unlink()
    (tmp_path / "OptiSar_Pair" / "g1" / "a_8_x_SAR.png").unlink()
    table = pair_table(open_pairs(["OptiSarPair"]).groups, "optical_to_sar", "ordered")
    expected = [(optical, sar) for optical, sar, _ in OptiSarPair(str(tmp_path)).pairs]
    assert [(s, t[0]) for s, t in zip(table.sources, table.targets, strict=True)] == expected and len(expected) == 2


def test_qxs_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    write_pairs(tmp_path / "made", ["1", "2"])
    for side, kind in (("opt", "RGB"), ("sar", "SAR")):
        (tmp_path / "QXS-SAROPT" / side).mkdir(parents=True)
        for name in ("1", "2"):
            shutil.copy(tmp_path / "made" / f"{name}_{kind}.png", tmp_path / "QXS-SAROPT" / side / f"{name}.png")
    pairs = open_pairs(["QXSSAROPT"])
    assert pairs.trained_identities() == {"QXSSAROPT": [1, 2]}
    assert [Path(path).parent.name for group in pairs.groups for path in group.sar] == ["sar", "sar"]


def test_a_folder_of_pairs(tmp_path):
    folder = write_pairs(tmp_path / "mine", ["b", "a", "lonely"])
    (folder / "lonely_SAR.png").unlink()
    (folder / "notes.txt").write_text("x")
    pairs = open_pairs([str(folder)])
    assert pairs.trained_identities() == {"mine": [0, 1]}
    assert [Path(group.optical[0]).name for group in pairs.groups] == ["a_RGB.png", "b_RGB.png"]
    assert pairs.skipped.counts["without a partner of the other modality"] == 1
    (tmp_path / "link").symlink_to(folder)
    for other in (f"{folder}/../mine", str(tmp_path / "link")):
        with pytest.raises(ConfigError, match="same training chips"):
            open_pairs([str(folder), other])
    # A folder that is called like a data set does not pass for it.
    assert list(open_pairs([str(write_pairs(tmp_path / "HOSS", ["1"]))]).roots) == [str(tmp_path / "HOSS")]


def test_a_pair_whose_name_cannot_be_written_down(tmp_path):
    folder = write_pairs(tmp_path / "mine", ["a"])
    try:
        shutil.copy(folder / "a_SAR.png", os.fsencode(folder) + b"/b\xff_SAR.png")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(DatasetError, match=r"mine/b.xff_SAR\.png: a name that is not UTF-8 text"):
        open_pairs([str(folder)])


def test_real_pairs_folder(shared_dir):
    pairs = open_pairs([str(shared_dir / "real_chips" / "pairs")])
    assert len(pairs.groups) == 17 and pairs.trained_identities() == {"pairs": list(range(17))}


def test_names_that_are_nothing_are_said(tmp_path, hoss):
    with pytest.raises(ConfigError, match="'HOS' is no data set .near: HOSS"):
        open_pairs(["HOS"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no identity has chips of both modalities in .*empty"):
        open_pairs([str(tmp_path / "empty")])
    with pytest.raises(ConfigError, match="HOSS and HOSS_O2S are the same training chips"):
        open_pairs(["HOSS", "HOSS_O2S"])


def test_the_held_out_identities_are_the_trainers_and_are_left_out(hoss, tmp_path):
    from fastreid_mos.data.holdout import split_holdout

    cfg = tiny_cfg(tmp_path, TEST__HOLDOUT__FRACTION=0.3, TEST__HOLDOUT__SEED=4, TEST__HOLDOUT__SPLITS=2)
    kept, splits = split_holdout(hoss.train, 0.3, splits=2, seed=4)
    held = {item for part in splits[0] for item in part}
    assert set(held_out(cfg)) == held and held
    data = open_data(cfg)
    mine = set(data.pairs.trained_identities()["HOSS"])
    assert mine == set(open_pairs(["HOSS"]).trained_identities()["HOSS"]) - {pid for _, pid, _ in held}
    assert mine <= {pid for _, pid, _ in kept}
    assert data.pairs.skipped.counts["of a held-out identity (TEST.HOLDOUT)"] > 0
    assert {group.identity for group in data.held_groups} <= {pid for _, pid, _ in held} and data.held_groups
    assert held_out(tiny_cfg(tmp_path)) == []


def test_a_copy_of_a_held_out_chip_in_a_folder_is_left_out_by_content(hoss, tmp_path):
    cfg = tiny_cfg(tmp_path, TEST__HOLDOUT__FRACTION=0.3)
    folder = write_pairs(tmp_path / "mine", ["a", "b"])
    chip = next(path for path, _, modality in held_out(cfg) if modality == 1)
    (folder / "b_SAR.png").unlink()
    shutil.copy(chip, folder / "b_SAR.tif")
    left = leave_out(open_pairs([str(folder)]), held_out(cfg))
    assert [Path(group.optical[0]).name for group in left.groups] == ["a_RGB.png"]


def test_a_test_chip_is_refused_by_content_whatever_its_name(hoss, tmp_path):
    folder = write_pairs(tmp_path / "mine", ["a", "b"])
    (folder / "a_SAR.png").unlink()
    chip = next(path for path, _, modality in hoss.gallery if modality == 1)
    shutil.copy(chip, folder / "a_SAR.tif")
    cfg = tiny_cfg(tmp_path / "out", BRIDGE__DATA__NAMES=f"['{folder}']")
    with pytest.raises(DatasetError, match=r"mine/a_SAR\.tif: is a chip of the test split of HOSS") as caught:
        open_data(cfg)
    assert chip in str(caught.value) and "\n" not in str(caught.value)
    # The query folder itself given as pairs.
    chips = {Path(path).name: path for path, _, _ in hoss.query}
    pairs = tmp_path / "q"
    pairs.mkdir()
    optical = next(path for name, path in chips.items() if "RGB" in name)
    shutil.copy(optical, pairs / "z_RGB.tif")
    shutil.copy(folder / "b_SAR.png", pairs / "z_SAR.png")
    with pytest.raises(DatasetError, match="z_RGB.tif: is a chip of the test split"):
        open_data(tiny_cfg(tmp_path / "out", BRIDGE__DATA__NAMES=f"['{pairs}']"))


def test_a_test_identity_among_the_training_chips_is_refused(own_hoss, tmp_path):
    # Another chip of a ship of the test split: new bytes, so that only the identity tells.
    name = sorted(path.name for path in (own_hoss / "bounding_box_test").glob("[0-9]*_RGB.tif"))[0]
    pid = int(name.split("_")[0])
    write_pairs(own_hoss / "bounding_box_train", [f"{name.split('_')[0]}_new"])
    with pytest.raises(DatasetError, match=rf"identities of HOSS are in its query or gallery too: {pid};"):
        open_data(tiny_cfg(tmp_path))


def test_test_chips_are_known_without_naming_a_test_set(own_hoss, tmp_path):
    pairs = write_pairs(tmp_path / "mine", ["a", "b"])
    chip = next(path for path in sorted((own_hoss / "query").iterdir()) if path.name.endswith("_RGB.tif"))
    (pairs / "a_RGB.png").unlink()
    shutil.copy(chip, pairs / "a_RGB.tif")
    for names in ("('HOSS',)", "('HOSS_O2S',)"):
        cfg = tiny_cfg(tmp_path, BRIDGE__DATA__NAMES=f"['{pairs}']", DATASETS__TESTS="()", DATASETS__NAMES=names)
        with pytest.raises(DatasetError, match="a_RGB.tif: is a chip of the test split of HOSS"):
            open_data(cfg)


def test_without_test_sets_nothing_is_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "nowhere"))
    folder = write_pairs(tmp_path / "mine", ["a"])
    cfg = tiny_cfg(tmp_path, BRIDGE__DATA__NAMES=f"['{folder}']", DATASETS__TESTS="()")
    assert len(open_data(cfg).table) == 1
    with pytest.raises(MOSError, match="HOSS: not found"):
        open_data(tiny_cfg(tmp_path, BRIDGE__DATA__NAMES=f"['{folder}']"))


def test_contents_compares_bytes(tmp_path):
    for name, content in (("a", b"12"), ("b", b"13"), ("c", b"12"), ("d", b"123")):
        (tmp_path / name).write_bytes(content)
    contents = Contents([str(tmp_path / "a")])
    assert contents.find(str(tmp_path / "c")) == str(tmp_path / "a")
    assert contents.find(str(tmp_path / "b")) is None and contents.find(str(tmp_path / "d")) is None
    with pytest.raises(MOSError, match="cannot be read"):
        contents.find(str(tmp_path / "none"))


def test_test_chips_of_several_data_sets_come_once(hoss):
    tests = open_tests(["HOSS", "HOSS_O2S", "HOSS_S2O"])
    assert len({path for path, _, _ in tests.query}) == len(tests.query)
    assert {path for path, _, _ in hoss.query} <= {path for path, _, _ in tests.query}
    refuse_test_chips(open_pairs(["HOSS"]), tests)


def test_facts_do_not_depend_on_where_the_data_lie(tmp_path):
    made = []
    for place in ("one", "two/deeper"):
        pairs = open_pairs([str(write_pairs(tmp_path / place / "p", ["a", "b"]))])
        made.append(table_facts(pair_table(pairs.groups, "optical_to_sar", "all"), pairs.roots))
    assert made[0] == made[1] and "a_RGB.png" in made[0]
