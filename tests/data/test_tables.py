"""Chips from a table: what is read, skipped, refused; the ships' numbers, names and sizes; queries that are dealt."""

from __future__ import annotations

import logging
import pickle
import re

import numpy as np
import pytest
import tifffile
import yaml
from made_chips import write_optical, write_sar

from fastreid_mos.checks import load_cfg
from fastreid_mos.config import get_cfg, merge_options, merge_values
from fastreid_mos.data import OPTICAL, SAR, ChipReader, ship_metres
from fastreid_mos.data.build import build_test_loader
from fastreid_mos.data.datasets import open_dataset, open_training
from fastreid_mos.data.holdout import open_test
from fastreid_mos.data.loader import ChipDataset
from fastreid_mos.data.modality import MEAN_SHIP, ship_size_features
from fastreid_mos.data.tables import ListedChip, chip_metres, sized_like, square_side
from fastreid_mos.data.tables.dataset import ChipList, number_ships
from fastreid_mos.data.tables.reading import read_table
from fastreid_mos.errors import ConfigError, DatasetError

HEADER = "image_id,ship_id,modality,image_path"


@pytest.fixture
def folder(tmp_path):
    """Eight chips, a_RGB.tif to d_SAR.tif."""
    for number, name in enumerate("abcd"):
        write_optical(tmp_path / f"{name}_RGB.tif", number)
        write_sar(tmp_path / f"{name}_SAR.tif", number)
    return tmp_path


@pytest.fixture
def table(folder):
    """A function: reads lines of text as a table."""

    def of(*lines, encoding="utf-8", end="\n", **options):
        (folder / "labels.csv").write_bytes(end.join(lines).encode(encoding))
        return read_table(folder / "labels.csv", **options)

    return of


def rows(*ships, split=""):
    """A table's lines: an optical and a SAR chip for each ship."""
    found = []
    for name, ship in zip("abcd", ships, strict=False):
        found += [
            f"{name}{kind},{ship},{word},{name}_{kind}.tif{split}" for kind, word in (("RGB", "eo"), ("SAR", "VV"))
        ]
    return found


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ([HEADER, *rows("x", "y")], {}),
        ([HEADER, *rows("x", "y")], {"encoding": "utf-8-sig", "end": "\r\n"}),
        ([HEADER, *rows("x", "y")], {"encoding": "utf-16"}),
        ([line.replace(",", ";") for line in [HEADER, *rows("x", "y")]], {}),
        (["# mine", HEADER, *(row.replace("eo", "EO/RGB_").replace("VV", "SAR-VV") for row in rows("x", "y"))], {}),
        (["sep=;", *(line.replace(",", ";") for line in [HEADER, *rows("x", "y")])], {}),
        ([line.replace(",", "\t") for line in [HEADER, *rows("x", "y")]], {}),
        ([" Image ID , SHIP-ID,Modality,image_path", "", *rows(" x ", " y"), "  "], {}),
        ([re.sub("[^,]+", r'"\g<0>"', line) for line in [HEADER, *rows("x", "y")]], {}),
        ([line.replace(",", ";") for line in [HEADER + ",spacing", *(f"{row},0.5" for row in rows("x", "y"))]], {}),
        ([f"{HEADER},spacing".replace(",", ";"), *(row.replace(",", ";") + ";0,5" for row in rows("x", "y"))], {}),
        (["who,what,kind,file", *rows("x", "y")],
         {"columns": {"image_id": "who", "ship_id": "what", "modality": "kind", "image_path": "file"}}),
        ([HEADER, *(line.replace(",a_", r",.\b\..\a_") for line in rows("x", "y"))], {}),
    ],
)  # fmt: skip
def test_tables_of_many_hands_are_read_alike(table, folder, lines, options):
    (folder / "b").mkdir()
    read = table(*lines, **options)
    assert [(row.image_id, row.ship, row.modality) for row in read.rows] == [
        ("aRGB", "x", OPTICAL), ("aSAR", "x", SAR), ("bRGB", "y", OPTICAL), ("bSAR", "y", SAR),
    ]  # fmt: skip
    assert [row.chip for row in read.rows] == [str(folder / f"{n}_{k}.tif") for n in "ab" for k in ("RGB", "SAR")]
    assert not read.skipped


def test_quoted_commas_line_breaks_and_an_id_that_is_not_there(table, folder):
    write_sar(folder / "a, b_SAR.tif", 9)
    read = table("ship_id,modality,note,image_path", '7,sar,"so, \nso","a, b_SAR.tif"', "8,sar,,a_SAR.tif")
    assert [(row.line, row.image_id, row.ship) for row in read.rows] == [
        (3, "a, b_SAR.tif", "7"),
        (4, "a_SAR.tif", "8"),
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is empty"),
        (rows("x", "y"), "line 1: has no column 'ship_id', 'modality', 'image_path' among its headers 'aRGB', 'x'"),
        (["image_id,modality,image_path", "a,sar,b"], "line 1: has no column 'ship_id'"),
        ([HEADER + ",ship_id", *rows("x")], "line 1: has the header 'ship_id' twice"),
        ([HEADER], "has no row of a chip"),
        ([HEADER, *rows("x"), "c,y,sar,c_RGB.tif, ,", "c,y,sar,c, d_SAR.tif"], "line 5: has 5 fields for 4 headers"),
        ([HEADER, *rows("x"), 'c,y,sar,"c_SAR.tif'], "line 4: is no CSV"),
        ([HEADER, *rows("x"), "aRGB,x,optical,b_RGB.tif"], "line 4: image_id 'aRGB' stands in line 2 with another f"),
        ([HEADER, *rows("x"), "e,y,optical,a_RGB.tif"], "line 4: the file a_RGB.tif stands in line 2 with"),
        ([HEADER, *rows("x"), "e,x,sar,a_RGB.tif"], "line 4: the file a_RGB.tif stands in line 2 with ano"),
        ([HEADER, *rows("x"), *("e,x,sar,no.tif",) * 3], "3 of 5 files are not there .3 SAR., such as line 4 .*ROOT"),
        ([HEADER, *rows("x", "y")[::2], "e,x,sar,no.tif"], "1 of 3 files are not there .1 SAR."),
        ([HEADER, *rows("x", "y")[::2], "e,x,S-1,a_SAR.tif"],
         "has optical chips only, and others of modality 'S-1', neither .*, such as line 4 .*; write optical or sar"),
        ([HEADER + ",spacing", *rows("x", split=",0")], "line 2: spacing '0' is no number of metres"),
        ([HEADER + ",spacing", *rows("x", split=",101")], "line 2: spacing '101' is no number .* to 100"),
        ([HEADER + ",width", *rows("x", split=",9")], "line 1: has a width or a height without"),
        ([HEADER + ",width,height", *rows("x", split=",9,")], "line 2: has a width or a height without"),
        ([HEADER + ",width,height", *rows("x", split=",9,long")], "line 2: height 'long' is no number"),
    ],
)  # fmt: skip
def test_tables_that_are_refused_with_file_and_line(table, folder, lines, words):
    with pytest.raises(DatasetError, match=f"^{folder}/labels.csv: .*{words}"):
        table(*lines)


def test_files_that_are_no_tables(table, folder):
    for content, words in (
        (b"PK\3\4", "spreadsheet"),
        (b'{"queries": []}', "is JSON; name a table"),
        (HEADER.encode("utf-16-le"), "zero bytes"),
        (HEADER.encode() + b"\nb,\xe9,sar,c", "line 2: is not UTF-8"),
    ):
        (folder / "labels.csv").write_bytes(content)
        with pytest.raises(DatasetError, match=f"^{folder}/labels.csv: .*{words}"):
            read_table(folder / "labels.csv")
    for path, words in ((folder / "no.csv", "no such file"), (folder, "is a folder")):
        with pytest.raises(DatasetError, match=f"^{path}: {words}"):
            read_table(path)
    with pytest.raises(DatasetError, match="no column 'boat' .*correct COLUMNS"):
        table(HEADER, *rows("x"), columns={"ship_id": "boat"})
    with pytest.raises(DatasetError, match="no column 'gsd' .*correct COLUMNS"):
        table(HEADER, *rows("x"), columns={"spacing": "gsd"})
    for options, header, key in (
        (False, r"COLUMNS: {image_path: <header>} names others", "set ROOT"),
        (True, r"--columns image_path=HEADER names others", "set --root"),
    ):
        with pytest.raises(DatasetError, match=f"no column 'image_path' among its headers 'ship_id', .*; {header}"):
            table("ship_id|modality|file", "1|sar|c_SAR.tif", options=options)
        with pytest.raises(DatasetError, match=f"which is no folder; {key}"):
            table(HEADER, *rows("x"), root=folder / "no", options=options)


def test_rows_that_are_skipped_are_counted(table):
    read = table(
        HEADER + ",split", *rows("x", "y", split=",Training"), "e,x,infrared,a_RGB.tif,train", "f,,sar,c_SAR.tif,train",
        "g,z,sar,no.tif,train", "h,z,sar,,train", "aRGB,x,rgb,a_RGB.tif,train", "i,z,sar,c_SAR.tif,val",
        "NaN,nan,sar,c_SAR.tif,bounding_box_test", "aRGB,x,rgb,a_RGB.tif,probe",
    )  # fmt: skip
    assert [(row.line, row.ship, row.split) for row in read.rows[4:]] == [(12, "", "gallery"), (13, "x", "query")]
    assert len(read.rows) == 6 and len(read.skipped) == 6
    for words in ("modality 'infrared'.*line 6", "without a ship_id.*line 7", "not there.*line 8", "path.*line 9",
                  "twice.*line 10", "split 'val'.*line 11"):  # fmt: skip
        assert any(re.search(words, f"{reason} {read.skipped.examples[reason]}") for reason in read.skipped.counts)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["12", "7", "-1", ""], {"12": 12, "7": 7, "-1": -1, "": -1}),
        (["b", "a", "B", "-1"], {"B": 0, "a": 1, "b": 2, "-1": -1, "": -1}),
        (["007", "12"], {"007": 0, "12": 1, "": -1, "-1": -1}),
        (["9" * 20, "1"], {"1": 0, "9" * 20: 1, "": -1, "-1": -1}),  # beyond 64 bits
        (["x_10", "x_9"], {"x_9": 0, "x_10": 1, "": -1, "-1": -1}),
    ],
)
def test_ships_are_numbered_as_they_are_or_by_their_names(names, numbers):
    assert number_ships(names) == numbers


def test_numbers_that_a_spreadsheet_made_fractions_are_whole(table):
    assert {row.ship for row in table(HEADER, *rows("3.0", "3")).rows} == {"3"}
    none = rows("", "NaN", "none", "NULL", split=",query") + rows("na", "N/A", split=",gallery")
    assert {row.ship for row in table(HEADER + ",split", *none).rows} == {""}


def of_list(folder, *options, **values):
    """A config whose list `ships` is the folder's table."""
    cfg = get_cfg()
    merge_values(cfg, {"DATASETS.CHIPLISTS": {"ships": {"CSV": str(folder / "labels.csv")}}, **values})
    merge_options(cfg, list(options))
    return cfg


def test_sizes_by_the_table_reach_the_model(table, folder):
    table(HEADER + ";spacing;width;height".replace(";", ","), "a,x,rgb,a_RGB.tif,0.5", "b,x,sar,a_SAR.tif,,20,90",
          "c,x,sar,b_SAR.tif,")  # fmt: skip
    data = open_dataset("ships", of_list(folder))
    chips = ChipDataset(data.train, ChipReader(), lambda image: np.zeros(1))
    found = [chips[row] for row in range(3)]
    pixels = [ChipReader()(path, modality).size for path, _, modality in data.train]
    wanted = [np.array(pixels[0]) * 0.5, np.array([20, 90]), ship_metres(*pixels[2], SAR)]
    for one, metres in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one["metres"], metres, rtol=1e-6)
        np.testing.assert_allclose(one["sizes"], ship_size_features(*metres, SAR), rtol=1e-5)
    # A worker gets its items pickled, a generated chip shows its source's ship.
    copy = pickle.loads(pickle.dumps(data.train[1][0]))
    assert (copy.metres, copy.spacing, type(copy)) == ((20.0, 90.0), None, ListedChip)
    assert chip_metres(sized_like("made.png", copy), (5, 5), OPTICAL).tolist() == [20, 90]
    assert sized_like("made.png", data.train[0][0]).spacing == 0.5
    assert type(sized_like("made.png", "plain.tif")) is str
    assert chip_metres("plain.tif", (4, 8), OPTICAL).tolist() == [3, 6]


def write_squares(folder, count, side=32):
    paths = [folder / f"{number}_SAR.tif" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side), np.uint8)
        tifffile.imwrite(path, np.repeat(pixels[..., None], 3, axis=2))
    return paths


def test_square_chips_tell_no_size(tmp_path, table, caplog):
    paths = write_squares(tmp_path, 24)
    assert square_side(paths) == 32 and square_side([*paths[:3], tmp_path / "no.tif"]) == 32
    tifffile.imwrite(tmp_path / "wide.tif", np.zeros((8, 9), np.uint8))
    assert square_side([tmp_path / "wide.tif"] * 4) == 0
    write_sar(tmp_path / "odd_SAR.tif", 1)
    assert (
        square_side([*paths, tmp_path / "odd_SAR.tif"]) == 32
        and square_side([*paths[:9], tmp_path / "odd_SAR.tif"]) == 0
    )
    assert square_side(paths[:1]) == 0 == square_side([])
    lines = [f"{n},{n},sar,{n}_SAR.tif,{',' if n else '20,90'}" for n in range(4)]
    table(HEADER + ",width,height", *lines)
    caplog.set_level(logging.INFO, "fastreid_mos.data")
    ChipList._said.clear()
    data = open_dataset("ships", of_list(tmp_path))
    data.show_train()
    data.show_test()
    assert caplog.text.count("are 32 x 32 pixels") == 1 and "1 ships' sizes are given" in caplog.text
    assert [path.metres for path, *_ in data.train] == [(20.0, 90.0), *[MEAN_SHIP] * 3]
    np.testing.assert_allclose(ship_size_features(*MEAN_SHIP, SAR)[:2], 0, atol=1e-9)
    (batch,) = build_test_loader(of_list(tmp_path, "DATALOADER.NUM_WORKERS", "0"), data.train)
    assert batch["sizes"][1:, :2].abs().max() < 1e-5


def test_a_table_without_queries_deals_them(table, folder, caplog):
    table(HEADER, *rows("x", "y", "z", "w"))
    trained = ["DATASETS.NAMES", "ships,", "DATASETS.TESTS", "ships,"]
    assert not open_test(of_list(folder, *trained), "ships").query
    held = open_test(of_list(folder, *trained, "TEST.HOLDOUT.FRACTION", "0.5", "TEST.HOLDOUT.SPLITS", "3"), "ships")
    assert len(held.splits) == 3 and held.held_out and len(held.query) == len(held.gallery) == 2
    kept = open_training(of_list(folder, *trained))[0]
    assert {item[1] for item in held.query} < {item[1] for item in kept.train}
    every = open_test(of_list(folder, "DATASETS.TESTS", "ships,"), "ships")
    assert len(every.query) == len(every.gallery) == 4 and not every.held_out
    table(HEADER + ",split", *rows("x", "y", split=",train"), "e,z,sar,c_SAR.tif,test", "f,z,rgb,c_RGB.tif,test",
          "g,-1,sar,d_SAR.tif,train", "h,-1,rgb,d_RGB.tif,test")  # fmt: skip
    tested = open_test(of_list(folder, *trained), "ships")
    assert [{item[1] for item in part} for part in (tested.train, tested.query, tested.gallery)] == [{0, 1}, {2}, {2}]
    assert set(tested.ship_names.values()) == {"x", "y", "z"} and not tested._shared
    combined = open_dataset("ships", of_list(folder), combineall=True)
    assert {item[1] for item in combined.train} == {0, 1, 2}
    write_sar(folder / "c\r.tif", 1)
    table(HEADER + ",split", *rows("x", split=",train"), 'e,z,sar,"c\r.tif",test')
    with pytest.raises(DatasetError, match="carriage return"):
        open_dataset("ships", of_list(folder))
    table(HEADER + ",split", *rows("x", split=",query"), "e,z,sar,c_SAR.tif,test")
    with pytest.raises(DatasetError, match="^DATASETS.CHIPLISTS.ships: .*split test beside"):
        open_dataset("ships", of_list(folder))


def test_csv_and_root_may_start_from_the_folder_of_the_data_sets(table, folder, monkeypatch):
    table(HEADER, *rows("x"))
    (folder / "deep").mkdir()
    (folder / "labels.csv").rename(folder / "deep/labels.csv")
    monkeypatch.setenv("FASTREID_DATASETS", str(folder.parent))
    place = {"CSV": f"{folder.name}/deep/labels.csv", "ROOT": folder.name}
    cfg = get_cfg()
    merge_values(cfg, {"DATASETS.CHIPLISTS": {"ships": place}})
    assert len(open_dataset("ships", cfg).train) == 2


def test_a_name_of_the_other_modality_is_told(table, folder, caplog):
    ChipList._said.clear()
    table(HEADER, *rows("x"), "c,y,optical,b_SAR.tif", "d,y,optical,c_SAR.tif")
    open_dataset("ships", of_list(folder)).show_train()
    assert "2 of 4 chips have a name of the other modality" in caplog.text and "line 4" in caplog.text
    table(HEADER, *rows("x", "y"), "e,z,eo,c_SAR.tif", "f,z,VV,c_RGB.tif")  # of neither most
    open_dataset("ships", of_list(folder))
    table(
        HEADER, *(line.replace("_RGB", "_X").replace("_SAR", "_RGB").replace("_X", "_SAR") for line in rows("x", "y"))
    )
    with pytest.raises(DatasetError, match="2 optical rows have names of SAR chips and 2 SAR rows"):
        open_dataset("ships", of_list(folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["DATASETS.CHIPLISTS", "labels.csv"], "DATASETS.CHIPLISTS: must be a mapping such as {<name>: {CSV: <file>}}"),
        (["DATASETS.CHIPLISTS.ships", "labels.csv"], "DATASETS.CHIPLISTS.ships: must be a mapping"),
        (["DATASETS.CHIPLISTS.ships.csv", "l.csv"], "'csv' is no key; an entry has CSV, ROOT, COLUMNS"),
        (["DATASETS.CHIPLISTS.ships.COLUMNS.boat", "l"], "'boat' is no column; they are image_id"),
        (["DATASETS.CHIPLISTS.ships.COLUMNS", "l"], "must be a mapping such as {image_id: <header>}"),
        (["DATASETS.CHIPLISTS.my ships.CSV", "l"], "'my ships': a name has letters"),
        (["DATASETS.CHIPLISTS.7ships.CSV", "l"], "'7ships': a name has letters"),
        (["DATASETS.CHIPLISTS", "{'ships': {'CSV': ['l']}}"], "DATASETS.CHIPLISTS.ships.CSV: must be text"),
        (["DATASETS.CHIPLISTS.ships.ROOT", "l"], "DATASETS.CHIPLISTS.ships.CSV: is empty"),
        (["DATASETS.CHIPLISTS.HOSS.CSV", "l"], "HOSS is a data set of its own"),
        (
            ["DATASETS.CHIPLISTS.ships.CSV", "l", "DATASETS.NAMES", "shps,"],
            "DATASETS.NAMES: 'shps' is not known; .*ships",
        ),
        (["DATASETS.CHIPLISTS.ships.CSV", "l", "DATASETS.NAMES", "q,"], "'q' is not known; near: ships, "),
    ],
)
def test_keys_that_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        load_cfg("", options)


def test_entries_are_merged_key_by_key_and_survive_a_dump():
    cfg = get_cfg()
    merge_values(cfg, {"DATASETS": {"CHIPLISTS": {"ships": {"CSV": "7.csv", "COLUMNS": {"ship_id": "mmsi"}}}}})
    merge_options(cfg, ["DATASETS.CHIPLISTS.ships.COLUMNS.image_path", "file", "DATASETS.CHIPLISTS.other.CSV", "1e5"])
    again = get_cfg()
    merge_values(again, yaml.safe_load(cfg.dump()))
    for one in (cfg, again.clone()):
        assert one.DATASETS.CHIPLISTS.ships == {
            "CSV": "7.csv", "ROOT": "", "COLUMNS": {"ship_id": "mmsi", "image_path": "file"},
        }  # fmt: skip
        assert one.DATASETS.CHIPLISTS.other.CSV == "1e5"
    assert not get_cfg().DATASETS.CHIPLISTS
