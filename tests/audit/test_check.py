"""mos check: every planted fault is found and named, and simulated sets without one have none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from planted import plant

from fastreid_mos.audit import Severity, check
from fastreid_mos.audit import alike as alike_module
from fastreid_mos.audit.alike import alike, fingerprint
from fastreid_mos.audit.facts import measure
from fastreid_mos.commands.check import main
from fastreid_mos.data import read_chip, sar_denoise


@pytest.fixture(scope="module")
def planted(tiny_hoss, tmp_path_factory):
    """The planter, and the report of its set."""
    planter = plant(tiny_hoss, tmp_path_factory.mktemp("planted"))
    return planter, check(planter.root)


def kinds(report):
    found = {}
    for one in report.findings:
        found.setdefault(one.kind, []).extend(case.paths for case in one.cases)
    return found


@pytest.mark.slow
def test_every_planted_fault_is_named_and_nothing_else(planted):
    planter, report = planted
    found = kinds(report)
    missed = [(kind, names) for kind, names in planter.wanted
              if not any(all(name in str(paths) for name in names) for paths in found.get(kind, ()))]  # fmt: skip
    assert missed == [] or [name.encode("utf-8", "surrogateescape") for _, (name, *_) in missed] == [
        b"0801_\xff_RGB.tif"
    ]
    assert any(path.endswith("_\udcff_RGB.tif") for (path,) in found["unwritable-name"])
    names = {name for _, names in planter.wanted for name in names}
    bad = [case for one in report.findings if one.severity > Severity.NOTE for case in one.cases]
    assert [case for case in bad if not any(path.rpartition("/")[2] in names for path in case.paths)] == []
    levels = [one.severity for one in report.findings]
    assert levels == sorted(levels, reverse=True)
    assert report.status == 4 and not any("ship -1" in case.note for one in report.findings for case in one.cases)


@pytest.mark.slow
def test_a_clean_simulated_set_has_notes_only(tiny_hoss):
    report = check(tiny_hoss, workers=2)
    assert [str(one) for one in report.findings if one.severity > Severity.NOTE] == []
    assert report.status == 0 and report.root == str(tiny_hoss / "HOSS")
    assert report.counts[-1]["chips"] == len(list((tiny_hoss / "HOSS").rglob("*.tif")))


@pytest.mark.slow
def test_the_real_sample_has_notes_only(shared_dir):
    report = check(shared_dir / "hoss_sample")
    assert {one.kind for one in report.findings} == {"one-modality", "query-without-match"}


@pytest.fixture(scope="module")
def pictures(tiny_hoss):
    """Of each modality, what the files of some chips hold."""
    paths = sorted((tiny_hoss / "HOSS").rglob("*.tif"))
    return {kind: [read_chip(path).pixels for path in paths if kind in path.name] for kind in ("RGB", "SAR")}


def eight(pixels):
    return sar_denoise(pixels)


def logarithms(pixels):
    return (np.log10(pixels + pixels.mean() / 20) + 9).astype(np.float32)


def enlarged(pixels):
    return np.array(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC))


def square(pixels):
    return np.array(Image.fromarray(pixels).resize((64, 64)))


# Folder of the chips, what is done to the pixels, the finding that all of them must be in, how bad it is.
FOLDERS = [
    ("sar", "SAR", logarithms, "logarithmic", 3), ("optical", "RGB", square, "square", 0),
    ("port", "SAR", eight, "unknown-modality", 3), ("port", "RGB", np.array, "no-ship", 0),
    ("optical", "SAR", eight, "looks-like-sar", 3),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "kind", "change", "wanted", "status"), FOLDERS, ids=[row[3] for row in FOLDERS])
def test_folders_of_any_names(pictures, tmp_path, folder, kind, change, wanted, status):
    (tmp_path / folder / "deep").mkdir(parents=True)
    for number, pixels in enumerate(pictures[kind][:14]):
        tifffile.imwrite(tmp_path / folder / "deep" / ".." / f"chip{number}.tif", change(pixels))
    report = check(tmp_path)
    assert len(kinds(report).get(wanted, ())) >= 10 and report.status == status, report.text()
    assert folder == "optical" or "border" not in kinds(report)  # water at 0 along an edge is none


@pytest.mark.slow
def test_enlarged_radar_has_no_speckle_to_check_names_by(pictures, tmp_path):
    (tmp_path / "sar").mkdir()
    for number, pixels in enumerate(pictures["SAR"]):
        tifffile.imwrite(tmp_path / f"sar/{number}.tif", enlarged(eight(pixels)))
    report = check(tmp_path)
    assert {"no-speckle", "square"} <= kinds(report).keys() and report.status == 0, report.text()


def test_layouts(pictures, tmp_path):
    """OptiSar_Pair's identity is the second field, subset/ names a protocol's chips, none of them is counted twice."""
    for name in ("OptiSar_Pair/g/a_7_x_RGB.tif", "OptiSar_Pair/g/b_07_SAR.tif", "OptiSar_Pair/g/c.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / name, pictures[name[-7:-4] if "R" in name[-7:] else "RGB"][0])
    report = check(tmp_path)
    assert {"spelling", "not-used"} <= kinds(report).keys() and report.counts[-1]["identities with both"] == 1
    root = tmp_path / "own" / "HOSS"
    names = {"1_a_RGB": ("query",), "2_a_SAR": ("query", "subset/O2S/query"), "1_b_SAR": ("bounding_box_test",),
             "3_b_SAR": ("bounding_box_test", "subset/O2S/bounding_box_test")}  # fmt: skip
    for number, (name, folders) in enumerate(names.items()):
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / folder / f"{name}.tif", pictures[name[-3:]][number])
    report = check(root)
    assert {one.what[:3] for one in report.findings if one.kind == "no-match"} == {"O2S", "S2O"}
    assert report.counts[-1]["chips"] == 4 and not {"same-picture", "query-in-gallery"} & kinds(report).keys()
    challenge = tmp_path / "challenge"
    for name in ("query/1_a_RGB.tif", "gallery/2_b_SAR.tif"):  # no HOSS, whose gallery is bounding_box_test/
        (challenge / name).parent.mkdir(parents=True)
        tifffile.imwrite(challenge / name, pictures[name[-7:-4]][0])
    (challenge / "labels.csv").write_text("")
    report = check(challenge)
    assert {"query", "gallery"} <= {row["split"] for row in report.counts} and "labels.csv" in report.text()


@pytest.mark.parametrize("most", [alike_module._ALL, 0], ids=["all pairs", "sharing bits"])
def test_alike_finds_turned_and_resaved_pictures_only(pictures, monkeypatch, most):
    monkeypatch.setattr(alike_module, "_ALL", most)
    chips = [pixels.mean(axis=2) for pixels in pictures["RGB"]] + [eight(pixels)[..., 0] for pixels in pictures["SAR"]]
    versions = [np.rot90(chip, n % 4)[:: 1 - 2 * (n // 4)] for n, chip in enumerate(chips[:8])]
    versions += [np.clip(chip * 1.2 + 20, 0, 255) for chip in chips[-4:]]
    prints = np.stack([fingerprint(chip) for chip in [*chips, *versions]])
    pairs, cosines = alike(prints)
    wanted = [*range(8), *range(len(chips) - 4, len(chips))]
    assert pairs.tolist() == [[chip, len(chips) + n] for n, chip in enumerate(wanted)] and (cosines > 0.99).all()
    assert not fingerprint(np.full((40, 20), 7)).any() and len(alike(prints[:0])[0]) == 0


@pytest.mark.slow
def test_the_page_and_json_hold_what_was_found(planted, tmp_path, capsys):
    planter, _ = planted
    page = tmp_path / "new" / "check.html"
    assert main([str(planter.root), "--html", str(page), "--json", "--workers", "2"]) == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == 4 and printed["counts"][0]["split"] == "train"
    assert {one["kind"] for one in printed["findings"]} >= {kind for kind, _ in planter.wanted}
    text = page.read_text(encoding="utf-8")
    assert text.count("<section") == len(printed["findings"]) and text.count("data:image/jpeg") > 60
    assert "<script" not in text and "0801_\\xff_RGB" in text


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        ("{}/none", "no such folder"), ("", "ROOT_OR_CSV: is empty"),
        ("{}/empty", "no chip in it"), ("{}/empty --html {}/empty", "is a folder"),
        ("{}/empty --html {}/file.txt/page.html", "file.txt is a file"),
        ("{}/empty --html {}/file.txt", "holds something other"),
        ("{}/file.txt", "no column 'ship_id'"), ("{}/1.tif", "is one image"), ("{}/both", "HOSS and OptiSar_Pair"),
        ("{}/both --root {}", "are for a CSV table"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(refused, tmp_path, words, inside):
    for name in ("empty", "both/HOSS", "both/OptiSar_Pair"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("file.txt", "1.tif"):
        (tmp_path / name).write_text("mine")
    assert inside in refused(*(words.format(tmp_path, tmp_path).split() or [""]), program=lambda *w: main([*w]))
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "both", "file.txt", "1.tif"}


def test_a_table(pictures, tmp_path, refused, capsys):
    rows = ["file,mmsi,modality,split,spacing"]
    for number, (ship, kind, split, spacing) in enumerate(
        [("Ever Given", "RGB", "train", 1), ("ever-given", "SAR", "train", 1), ("Ever Given", "SAR", "train", 30),
         ("Maru 7", "RGB", "train", 1), ("Maru 7", "RGB", "test", 1)]
    ):  # fmt: skip
        tifffile.imwrite(tmp_path / f"{number}.tif", pictures[kind][number])
        rows.append(f"{number}.tif,{ship},{'opt' if kind == 'RGB' else 'radar'},{split},{spacing}")
    tifffile.imwrite(tmp_path / "5_SAR.tif", pictures["RGB"][9])
    rows += ["5_SAR.tif,Other,optical,train,1", "gone.tif,Other,optical,train,1"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "labels.csv").write_text("\n".join(rows))
    words = [str(tmp_path / "deep" / "labels.csv"), "--root", str(tmp_path), "--columns", "image_path=file"]
    assert main([*words, "ship_id=mmsi"]) == 4
    text = capsys.readouterr().out
    for kind, names in (
        ("spelling", ("0.tif", "1.tif", "'Ever Given' and 'ever-given'")), ("not-used", ("gone.tif",)),
        ("ship-in-train-and-test", ("3.tif, 4.tif", "Maru 7")), ("named-otherwise", ("5_SAR.tif", "as optical")),
        ("odd-size", ("2.tif",)), ("sizes-of-a-ship", ("0.tif, 2.tif",)),
    ):  # fmt: skip
        (section,) = [part for part in text.split("\n\n") if f"[{kind}]" in part]
        assert [name for name in names if name not in section] == []
    assert "ship_id" in refused(*words, program=lambda *rest: main([*rest]))
    with pytest.raises(SystemExit):
        main([*words, "mmsi"])


def test_padded_squares_are_compared_by_what_is_inside(pictures, tmp_path):
    (tmp_path / "optical").mkdir()
    chips = [pixels for pixels in pictures["RGB"] if len(pixels) < 300][:20]
    chips[-1] = chips[-1][::4, ::4]  # a small one, in much black
    for number, pixels in enumerate(chips):
        height, width = pixels.shape[:2]
        room = np.zeros((300, 300, 3), np.uint8)
        room[(300 - height) // 2 :, (300 - width) // 2 :][:height, :width] = pixels
        tifffile.imwrite(tmp_path / "optical" / f"{number}.tif", room)
    tifffile.imwrite(tmp_path / "optical" / "tight.tif", chips[3])
    report = check(tmp_path)
    found = kinds(report)
    assert [{path[-9:] for path in paths} for paths in found["alike"]] == [{"cal/3.tif", "tight.tif"}]
    assert len(found["border"]) == len(chips) == 20 and "square" in found and report.status == 0


@pytest.mark.parametrize("value", [0, 255])
def test_padding_is_found_up_to_the_edge_that_jpeg_has_blurred(pictures, tmp_path, value):
    room = np.pad(pictures["RGB"][0], ((30, 17), (45, 60), (0, 0)), constant_values=value)
    Image.fromarray(room).save(tmp_path / "1_RGB.jpg", quality=75)
    found = measure((str(tmp_path / "1_RGB.jpg"), None)).border
    assert np.abs(np.subtract(found, (30, 17, 45, 60))).max() <= 2
