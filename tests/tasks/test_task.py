"""Task files and ranked lists: what is read, and the one line for each thing that is wrong."""

from __future__ import annotations

import copy
import csv
import json
import os

import pytest
from made_task import image, query

from fastreid_mos.data.modality import OPTICAL, SAR
from fastreid_mos.errors import TaskError
from fastreid_mos.tasks import check_prediction, read_prediction, read_task, write_prediction, write_scores

NUL = "a\0.tif"


def changed(content, **values):
    """The content with its first query and first gallery chip changed; a value of None removes the key."""
    content = copy.deepcopy(content)
    for name, value in values.items():
        entry = content["gallery" if name in ("image_id", "modality", "width", "spacing") else "queries"][0]
        entry.pop(name, None)
        entry |= {} if value is None else {name: value}
    return content


def test_a_task_as_it_is_read(made, tmp_path):
    made.write("\ufeff" + json.dumps({**made.content, "name": "harbour", "version": 3}))
    task = read_task(made.path)
    assert [query.type for query in task.queries] == ["O2S", "S2O", "O2O", "S2S", "ALL"] == [*task.types[:5]]
    assert [query.modality for query in task.queries] == [OPTICAL, SAR, OPTICAL, SAR, None]
    assert [chip.modality for chip in task.gallery] == [OPTICAL] * 4 + [SAR] * 5
    assert task.gallery_rows("O2S") == task.gallery_rows("S2S") == [4, 5, 6, 7, 8]
    assert task.gallery_rows("S2O") == [0, 1, 2, 3] and task.gallery_rows("ALL") == [*range(9)]
    assert task.queries[0].path == str(tmp_path / "query/q1_RGB.tif")
    other = tmp_path / "elsewhere/task.json"
    other.parent.mkdir()
    gallery = [image("g", "gallery/o1.tif", "RGB", width=20, height=80.5), image("G", "gallery/o2.tif", "o")]
    sized = {"queries": [query("q", "query/q2.tif", "ALL", modality="Radar", spacing=2)], "gallery": gallery}
    other.write_bytes(json.dumps(sized).encode("utf-16"))
    task = read_task(other, root=tmp_path)
    assert (task.queries[0].modality, task.queries[0].spacing, task.queries[0].metres) == (SAR, 2, None)
    assert task.gallery[0].metres == (20, 80.5)
    with pytest.raises(
        TaskError,
        match=f"3 of 3 images are not there: gallery/o1.tif, gallery/o2.tif, query/q2.tif; .*{other.parent}; --root",
    ):
        read_task(other)
    assert read_task(other, images=False).gallery[0].id == "g"


def test_a_task_as_others_write_it(made, tmp_path):
    """Ids are numbers, paths absolute or with a backslash, types and modalities in words, numbers in texts."""
    queries = [
        query(1, r"query\q1_RGB.tif", "RGB2SAR", spacing="0.5", modality=""),
        query(2, str(tmp_path / "query/q2.tif"), "SAR-to-optical", width="NaN", height=""),
        query(3, "gallery/o2.tif", "opt->opt"),
    ]
    gallery = [image(n, f"gallery/o{n}.tif", ("S2", "EO/RGB", "PAN")[n]) for n in range(3)]
    made.write({"queries": queries, "gallery": [*gallery, image(10**20, "gallery/s0.tif", "SAR-VV")]})
    task = read_task(made.path)
    assert [one.id for one in (*task.queries, *task.gallery)] == ["1", "2", "3", "0", "1", "2", str(10**20)]
    assert [one.type for one in task.queries] == ["O2S", "S2O", "O2O"]
    assert [chip.modality for chip in task.gallery] == [OPTICAL] * 3 + [SAR]
    assert (task.queries[0].spacing, task.queries[1].metres) == (0.5, None)
    (tmp_path / "p.json").write_text('{"1": [100000000000000000000], "2": ["1", 0], "3": [2]}')
    assert read_prediction(tmp_path / "p.json", task)["2"] == ["1", "0"]


BAD_TASKS = [
    (b"", "is empty; a task is"),
    ("{", "is no JSON .*line 1 column 2"),
    (b"\xff\xfe\x00", "is no JSON"),
    ("[" * 100_000, "is no JSON"),
    ("[]", "holds a list"),
    ('"queries"', "holds the text 'queries'"),
    ('{"gallery": [], "gallery": []}', "has the key 'gallery' twice"),
    ({"queries": [{}]}, r"queries\[0\]: has no 'query_id'|has no 'gallery'"),
    ({"queries": {}, "gallery": []}, "'queries' is an object, not a list"),
    ({"queries": [], "gallery": [image("g", "g.tif")]}, "'queries' is empty"),
    ({"queries": [query("q", "q.tif")], "gallery": []}, "'gallery' is empty"),
    ({"queries": ["q"], "gallery": [image("g", "g.tif")]}, r"queries\[0\]: is the text 'q', not an object"),
    (
        {"queries": [query("q", "q.tif", modality="radar")], "gallery": [image("g", "g.tif")]},
        "modality 'radar' contradicts query_type 'O2S'",
    ),
    ({"query_id": None}, r"queries\[0\]: has no 'query_id'"),
    ({"query_id": 1.5}, 'query_id is the number 1.5; write it as text, "1.5"'),
    ({"image_id": True}, r"gallery\[0\]: image_id is true; it is a text"),
    ({"query_id": " "}, "query_id ' ' is empty"),
    ({"query_id": "\ud800"}, "not plain UTF-8"),
    ({"query_id": "q2"}, "query_id 'q2' more than once"),
    ({"image_id": "s1"}, "image_id 's1' more than once"),
    ({"image_path": r"C:\q1.tif"}, "1 of 14 images are not there: C:/q1.tif;"),
    ({"image_path": "/data/q1.tif"}, "1 of 14 images are not there: /data/q1.tif;"),
    ({"image_path": NUL}, "zero byte"),
    ({"image_path": "query"}, "1 of 14 images are not there: query;"),
    (
        {"query_type": "O2X"},
        r"queries\[0\] \('q1'\): query_type 'O2X' is unknown; it is one of O2S, S2O, O2O, S2S, ALL",
    ),
    ({"query_type": "SAR2"}, "query_type 'SAR2' is unknown"),
    ({"query_type": "x2y"}, "query_type 'x2y' is unknown"),
    ({"query_type": 2}, "query_type is the number 2"),
    ({"modality": "infrared"}, r"gallery\[0\] \('o0'\): modality 'infrared' is unknown; it is optical or sar"),
    ({"image_path": "gallery/s1.tif"}, "'q1' and 's1' are one image, .*gallery/s1.tif, of two modalities"),
    ({"modality": 0}, "modality is the number 0"),
    ({"width": 20}, "a width or a height without the other"),
    ({"spacing": True}, "spacing True is no number"),
    ({"spacing": -1}, "spacing -1 is no number of metres from 0.01 to 100; correct it"),
    ({"spacing": 10**400}, "spacing 10{39}... is no number of metres"),
    ({"spacing": "0.75 m"}, "spacing '0.75 m' is no number of metres"),
    ({"spacing": True}, "spacing True is no number of metres"),
    ('{"queries": [], "gallery": NaN}', "NaN is no JSON"),
]


@pytest.mark.parametrize(("content", "words"), BAD_TASKS)
def test_bad_tasks(made, content, words):
    whole = not isinstance(content, dict) or "queries" in content
    made.write(content if whole else changed(made.content, **content))
    with pytest.raises(TaskError, match=rf"^{made.path}: .*(?:{words})") as caught:
        read_task(made.path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_files_that_are_not_there(made, tmp_path):
    for number in range(4):
        os.unlink(tmp_path / f"gallery/o{number}.tif")
        os.unlink(tmp_path / f"gallery/s{number}.tif")
    with pytest.raises(
        TaskError, match=r"9 of 13 images are not there: (gallery/.., |gallery/..\.tif,? ){5}and 4 more;"
    ):
        read_task(made.path)
    for path, words in ((tmp_path / "absent.json", "no such file"), (tmp_path, "cannot be read"), (NUL, "cannot be")):
        with pytest.raises(TaskError, match=words):
            read_task(path)
    with pytest.raises(TaskError, match="^--root .*nowhere: no such folder"):
        read_task(made.path, root=tmp_path / "nowhere")


LISTS = {"q1": ["s1", "s0"], "q2": ["o3", "o0"], "q3": ["o1", "o0"], "q4": ["s0", "s4"], "q5": ["o1", "s1"]}
OWN = {"q3": {"o2"}, "q4": {"s3"}}


def test_ranked_lists_written_and_read(made, tmp_path):
    task = read_task(made.path)
    check_prediction("p", task, LISTS, 2, OWN)
    write_prediction(tmp_path / "new/p.json", LISTS)
    assert read_prediction(tmp_path / "new/p.json", task, 2) == LISTS
    assert list(read_prediction(tmp_path / "new/p.json")) == list(LISTS)
    write_prediction(tmp_path / "case.json", case := {"Q": ["A", "a"], "q": ["a"]})
    assert read_prediction(tmp_path / "case.json") == case
    write_scores(tmp_path / "p.csv", {'a,"b': ["x"], "c": ["y", "z"]}, {'a,"b': [0.5], "c": [0.25, -1]})
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["query_id", "rank", "image_id", "score"], ['a,"b', "1", "x", "0.500000"],
                    ["c", "1", "y", "0.250000"], ["c", "2", "z", "-1.000000"]]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q1": None}, "1 of 5 queries have no list: 'q1'"),
        ({"q9": []}, "'q9' is no query of"),
        ({"q1": ["s1", "x"]}, "query 'q1': 'x' is not in the gallery"),
        ({"q1": ["s1", "s1"]}, "query 'q1': has 's1' more than once"),
        ({"q1": ["s1", "o1"]}, "query 'q1': is O2S, and 'o1' is not sar"),
        ({"q2": ["s1", "o1"]}, "query 'q2': is S2O, and 's1' is not optical"),
        ({"q3": ["o2", "o1"]}, "query 'q3': has its own image, 'o2'"),
        ({"q5": ["o2"]}, "query 'q5': has 1 images instead of 2"),
        ({"q5": ["o2", "o1", "s1"]}, "query 'q5': has 3 images instead of 2"),
    ],
)
def test_lists_that_do_not_answer_the_task(made, change, words):
    lists = {key: value for key, value in {**LISTS, **change}.items() if value is not None}
    with pytest.raises(TaskError, match=f"^p.json: {words}"):
        check_prediction("p.json", read_task(made.path), lists, 2, OWN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds no object"),
        ('{"q1": "s1"}', "query 'q1' has no list of image ids"),
        ('{"q1": [1.5]}', "query 'q1' has no list of image ids"),
        ('{"q1": [], "q1": []}', "has the key 'q1' twice"),
        ('{"q1": ["s1"]', "is no JSON"),
    ],
)
def test_files_that_are_no_prediction(tmp_path, text, words):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(TaskError, match=f"p.json: {words}"):
        read_prediction(tmp_path / "p.json")
