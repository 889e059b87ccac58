"""Ranked lists united: by hand, and the one line for what cannot be."""

from __future__ import annotations

import csv
import itertools
import json

import pytest

from fastreid_mos.commands import main
from fastreid_mos.commands.unite import EXAMPLE
from fastreid_mos.errors import TaskError
from fastreid_mos.tasks import read_prediction
from fastreid_mos.tasks.uniting import read_lists, unite

A, B = {"q1": ["a", "b", "c"], "q2": ["x", "y"]}, {"q1": ["c", "d"], "q2": ["y", "x"]}


def write_csv(path, lists, scores=None, header="query_id,rank,image_id,score"):
    lines = [header]
    for id_, images in lists.items():
        ranked = scores[id_] if scores else [1 - rank / 10 for rank in range(len(images))]
        lines += [
            f"{id_},{rank},{image},{score}" for rank, (image, score) in enumerate(zip(images, ranked, strict=True), 1)
        ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    for name, lists in (("a", A), ("b", B)):
        (tmp_path / f"{name}.json").write_text(json.dumps(lists))
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(tmp_path / "united.json")]


def test_reciprocal_ranks_by_hand():
    united = unite(["a", "b"], [A, B], k=3)
    # a 1/4; b 1/5; c 1/6 + 1/4; d 1/5, after b, which the first list has.
    assert list(united["q1"]) == ["c", "a", "b"]  # as many as the longest list has
    assert united["q1"]["c"] == pytest.approx(1 / 6 + 1 / 4)
    assert list(united["q2"]) == ["x", "y"]  # equal: as in the first list
    assert list(unite(["b", "a"], [B, A])["q2"]) == ["y", "x"]
    assert list(unite(["a", "b"], [A, B], top=4)["q1"]) == ["c", "a", "b", "d"]
    assert list(unite(["a", "b"], [A, B], weights=[1, 2])["q2"]) == ["y", "x"]
    # With weight 5, a list's first two come before the other's first.
    assert list(unite(["a", "b"], [A, B], weights=[5, 1], top=9)["q1"]) == ["a", "c", "b", "d"]
    assert list(unite(["a", "b"], [A, B], k=0, top=9)["q1"]) == ["c", "a", "b", "d"]
    assert unite(["a", "b"], [A, B], k=0)["q1"]["c"] == pytest.approx(1 / 3 + 1)


def test_equal_scores_do_not_depend_on_the_order_of_a_sum():
    for orders in (("xyz", "yzx", "zxy"), ("xzy", "yxz", "zyx")):  # each image once at each rank
        for turned in itertools.permutations([{"q": list(order)} for order in orders]):
            for k in (0, 1, 2, 3, 5):
                assert list(unite("abc", turned, k=k)["q"]) == turned[0]["q"]


def test_mean_of_scores_by_hand(tmp_path):
    paths = [write_csv(tmp_path / "a.csv", {"q": ["x", "y"]}, {"q": [0.9, 0.5]}),
             write_csv(tmp_path / "b.csv", {"q": ["y", "z"]}, {"q": [0.8, 0.1]})]  # fmt: skip
    lists, scored = zip(*map(read_lists, paths), strict=True)
    united = unite(paths, lists, scored, "mean", weights=[1, 3], top=3)
    # z counts as y in the first list, x as z in the second.
    assert list(united["q"].items()) == [
        ("y", pytest.approx((0.5 + 3 * 0.8) / 4)),
        ("x", pytest.approx((0.9 + 3 * 0.1) / 4)),
        ("z", pytest.approx((0.5 + 3 * 0.1) / 4)),
    ]
    out = tmp_path / "out/united.csv"
    assert main(["unite", *paths, "--method", "mean", "--weights", "1", "3", "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    assert [(row["rank"], row["image_id"]) for row in rows] == [("1", "y"), ("2", "x")]
    assert read_lists(out)[0] == {"q": ["y", "x"]}
    (tmp_path / "c.CSV").write_text("query_id,rank,image_id,score\nq,2,y,0.5\nq,1,x,0.5\n")
    assert read_lists(tmp_path / "c.CSV")[0] == {"q": ["x", "y"]}


def test_the_result_is_an_answer_to_the_task(made, tmp_path, capsys, monkeypatch):
    for name, lists in (("a", {"q1": ["s1", "s0"]}), ("b", {"q1": ["s3", "s1"]})):
        whole = {"q2": ["o1", "o0"], "q3": ["o1", "o0"], "q4": ["s0", "s1"], "q5": ["s0", "o1"], **lists}
        (tmp_path / f"{name}.json").write_text(json.dumps(whole))
    out = tmp_path / "united.json"
    words = ["unite", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--task", str(made.path), "--out", str(out)]
    assert main([*words, "--top", "2"]) == 0
    assert "united.json: 5 queries, 2 images each, of 2 lists by rrf" in capsys.readouterr().out
    assert read_prediction(out)["q1"] == ["s1", "s3"]
    before = out.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert main([*EXAMPLE.replace("10", "2").split()[1:], "--force"]) == 0 and read_prediction(out)["q1"] == [
        "s1",
        "s0",
    ]
    out.write_bytes(before)
    assert main([*words, "--top", "3", "--force"]) == 2
    assert "--top 3: query 'q2' has 2 images in all lists together" in capsys.readouterr().err
    (tmp_path / "b.json").write_text(json.dumps({**whole, "q3": ["o2", "o1"]}))
    assert main([*words, "--force"]) == 2
    assert "b.json: query 'q3': has its own image, 'o2'" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "1"], "--weights: give 2 numbers above 0, one for each list, got [1.0]"),
        (["--weights", "1", "0"], "--weights: give 2 numbers above 0"),
        (["--weights", "1", "nan"], "--weights: give 2"),
        (["--k", "-1"], "--k: from 0 on, got -1"),
        (["--k", "nan"], "--k: from 0 on"),
        (["--top", "0"], "--top: from 1 on, got 0"),
        (["--top", "5"], "--top 5: query 'q1' has 4 images in all lists"),
        (["--method", "mean"], "a.json: has no scores; give CSV files"),
        (["--out", "united.txt"], "--out united.txt: must end in .json"),
        (["--out", "A"], "which is read"),
        (["--task", "none.json"], "none.json: no such file"),
    ],
)
def test_wrong_words_are_one_line(files, tmp_path, words, said, mos_refuses):
    assert said in mos_refuses("unite", *files, *(files[0] if word == "A" else word for word in words))
    assert not (tmp_path / "united.json").exists()


def test_one_list_and_one_twice_are_refused(files, mos_refuses):
    for lists, said in ((files[:1], "is one list"), ([files[0], files[0]], "is named twice")):
        assert said in mos_refuses("unite", *lists, *files[2:])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"q1": ["a"]}, "b.json: lacks 1 queries that "),
        ({**B, "q3": ["a"], "q4": ["a"]}, "a.json: lacks 2 queries that "),
        ({"q1": [], "q2": []}, "b.json: every list is empty"),
        ({**B, "q2": ["x", "y", "x"]}, "b.json: query 'q2': has 'x' more than once"),
        ({"q1": ["m"], "q2": ["n"]}, "b.json: shares no image with "),
        (["q1"], "b.json: holds no object"),
    ],
)
def test_lists_that_cannot_be_united(files, tmp_path, content, said, mos_refuses):
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert said in mos_refuses("unite", *files)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("query_id,rank,image_id\nq,1,x\n", "has no column 'score'"),
        ("query_id,rank,image_id,score\nq,1,x,0.5\nq,1,y,0.4\n", "line 3: query 'q' has rank 1 twice"),
        ("query_id,rank,image_id,score\nq,1,x,0.5\nq,3,y,0.4\n", "query 'q': its ranks are not 1 to 2"),
        ("query_id,rank,image_id,score\nq,1,x,0.5\nq,2,x,0.4\n", "query 'q': has 'x' more than once"),
        ("query_id,rank,image_id,score\nq,1,x,0.4\nq,2,y,0.5\n", "query 'q': a score rises"),
        ("query_id,rank,image_id,score\nq,0,x,0.4\n", "line 2: needs ids, a rank from 1 on"),
        ("query_id,rank,image_id,score\nq,1,x,nan\n", "line 2: needs ids"),
        ("query_id,rank,image_id,score\nq,1,x\n", "line 2: needs ids"),
        ("query_id,rank,image_id,score\n,1,x,1\n", "line 2: needs ids"),
        ("query_id,rank,image_id,score\n", "every list is empty"),
        ("", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ('query_id,rank,image_id,score\nq,1,"x,1\n', "line 2: is no CSV"),
        (None, "no such file"),
    ],
)
def test_broken_tables_are_named(tmp_path, text, said):
    path = tmp_path / "a.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TaskError, match=said) as caught:
        read_lists(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_that_a_spreadsheet_has_saved(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(
        "Query ID;Rank;Image_ID;Score\r\nq;2.0;y;0,4\r\n;;;\r\nq;1.0;x;0,5\r\n".encode(encoding)
    )
    assert read_lists(tmp_path / "a.csv") == ({"q": ["x", "y"]}, {"q": {"x": 0.5, "y": 0.4}})
