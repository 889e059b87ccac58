"""The page and its JSON: what is found, what is refused, what is never given away."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastreid_mos.errors import MOSError
from fastreid_mos.search import open_index
from fastreid_mos.serve.app import read_asked
from fastreid_mos.serve.served import Asked, jpeg


def png(height, width, colour=True):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels if colour else pixels[..., 0]).save(stream, "png", compress_level=0)
    return stream.getvalue()


def zeros(side):
    """A small file of many pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "png")
    return stream.getvalue()


def pages(count):
    """A TIFF of so many pages, each of which is an image of its own."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for number in range(count):
            file.write(np.full((8, 4), number % 200, np.uint8), contiguous=False, metadata=None)
    return stream.getvalue()


def upload(page, name, content, address="/api/search", **fields):
    return page.post(address, files={"chip": (name, content)}, data=fields)


def test_a_chip_of_the_index_finds_itself_uploaded_and_not_as_a_row(page, chips, predictor):
    path = sorted(chips.glob("*_SAR.tif"))[2]
    answer = upload(page, path.name, path.read_bytes(), k="3").json()
    first = answer["results"][0]
    assert first["path"] == str(path) and first["cosine"] > 0.999 and first["probability"] > 0.9
    assert (
        answer["query"]["row"] is answer["query"]["picture"] is None
        and answer["query"]["modality"] == "sar"
        and len(answer["results"]) == 3
    )
    for hit in answer["results"]:
        kinds, cosine = ([1], [int(hit["modality"] == "sar")]), np.array([[hit["cosine"]]])
        assert hit["probability"] == pytest.approx(predictor.calibration("", cosine, *kinds)[0, 0], abs=1e-4)
    linked = page.get(f"/api/search?row={first['row']}&k=200").json()
    assert linked["query"]["path"] == str(path) and len(linked["results"]) == 11
    assert str(path) not in [hit["path"] for hit in linked["results"]]
    cosines = [hit["cosine"] for hit in linked["results"]]
    assert cosines == sorted(cosines, reverse=True) and [hit["rank"] for hit in linked["results"]] == [*range(1, 12)]
    html = upload(page, path.name, path.read_bytes(), "/", k="3").text
    for words in (
        "The 3 nearest chips",
        f">{chips.name}/{path.name}<",
        "cosine 1.000",
        f'src="chip/{first["row"]}?',
        "data:image/jpeg",
    ):
        assert words in html, words


@pytest.mark.parametrize("modality", ["", "optical", "sar"])
@pytest.mark.parametrize("difference", ["", "8", "0"])
def test_filters(page, modality, difference):
    found = page.get(f"/api/search?row=4&k=50&modality={modality}&difference={difference}").json()
    every = page.get("/api/search?row=4&k=50").json()["results"]
    length, hits, share = found["query"]["length"], found["results"], float(difference or 1e9) / 100
    near = [hit for hit in every if abs(hit["length"] - length) <= share * length]
    expected = [hit["row"] for hit in near if modality in ("", hit["modality"])]
    assert [hit["row"] for hit in hits] == expected
    html = page.get(f"/?row=4&k=50&modality={modality}&difference={difference}").text
    assert html.count('class="hit"') == len(hits) and ("No chip fits" in html) == (not hits)
    if hits and modality:  # a link goes on with the same filters
        assert f"?row={hits[0]['row']}&amp;modality={modality}" in html


def test_without_a_script_the_form_leads_to_an_address_that_can_be_kept(page):
    form = {"row": "4", "is": "", "modality": "sar", "difference": "", "k": "5"}
    answer = page.post("/", files={"chip": ("", b"")}, data=form, follow_redirects=False)
    assert read_asked({}) == (Asked(k=20), None)
    assert answer.status_code == 303 and answer.headers["location"] == "?row=4&modality=sar&k=5"


UPLOADS = [
    ("a_SAR.tif", b"", 422, "is empty"),
    ("a.tif", b"hello, this is text", 422, "is not a TIFF, PNG"),
    ("a.svg", b"<svg onload='alert(1)'/>", 422, "is not a TIFF, PNG"),
    ("a_RGB.png", png(9, 9)[:60], 422, "a_RGB.png"),
    ("a_RGB.png", png(1, 9), 422, "at least 2 a side"),
    ("a.png", png(30, 9, colour=False), 422, "nor its pixels tell whether it is optical or SAR; choose one"),
    ("bomb_RGB.png", zeros(6000), 422, "claims 6000 x 6000 pixels"),
    ("a_SAR.tif", pages(300), 422, "has 300 pages; a chip is one image"),
    ("a_RGB.png", bytes(3 * 2**20), 413, "At most 2 MB"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, status, words", UPLOADS, ids=range(len(UPLOADS)))
def test_what_is_no_chip_is_refused_in_words(served, client, name, content, status, words):
    page = client(served, limit=2 * 2**20)
    answer = upload(page, name, content)
    assert answer.status_code == status and words in answer.text, answer.text
    html = upload(page, name, content, "/")
    assert html.status_code == status and words in html.text
    if status == 422:
        assert 'role="alert"' in html.text and 'id="search"' in html.text  # the page to try again


def test_a_truncated_tiff_is_refused_and_a_name_that_is_markup_is_text(page, chips):
    content = sorted(chips.glob("*_SAR.tif"))[0].read_bytes()
    answer = upload(page, "a_SAR.tif", content[: len(content) // 2])
    assert answer.status_code == 422 and "cut off" in answer.json()["error"]
    assert upload(page, "../<script>x_SAR.tif", content).json()["query"]["path"] == "<script>x_SAR.tif"
    html = upload(page, "../<script>x_SAR.tif", content, "/").text
    assert "<script>x" not in html and "&lt;script&gt;x_SAR.tif" in html
    assert 'data-metres="7.5"' in upload(page, "lying_RGB.png", png(10, 40), "/").text
    grey = upload(page, "a.png", png(30, 9, colour=False), **{"is": "sar"})
    assert grey.status_code == 200 and grey.json()["query"]["modality"] == "sar"


def test_a_body_without_a_length_is_cut_off(served, client):
    page = client(served, limit=2**20)
    parts = iter([b"x" * 2**16] * 40)
    answer = page.post("/api/search", content=parts, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413 and "At most 1 MB" in answer.text


def test_an_upload_that_is_broken_off_is_no_fault_of_the_server(page, caplog):
    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    sent, headers = [], {"host": "localhost", "content-type": "multipart/form-data; boundary=b", "content-length": "99"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/api/search", "query_string": b"", "headers": pairs}
    asyncio.run(page.app(scope, gone, send))
    assert sent[0]["status"] == 400 and not caplog.records


def test_an_upload_stays_in_memory(page, monkeypatch):
    monkeypatch.setattr(SpooledTemporaryFile, "rollover", lambda self: pytest.fail("written to a disk"))
    content = png(1200, 1000)
    assert len(content) > 3 * 2**20 and upload(page, "a_RGB.png", content).status_code == 200


ADDRESSES = [
    ("/?row=99", 404, "has no such chip"),
    ("/?row=-1", 400, "row: the number of a chip"),
    ("/?row=../../etc/passwd", 400, "row: the number of a chip"),
    ("/?k=0", 400, "k: a whole number"),
    ("/?k=1e9", 400, "k: a whole number"),
    ("/?modality=radar", 400, "modality: optical, sar or nothing"),
    ("/?is=x", 400, "is: optical, sar or nothing"),
    ("/?difference=nan&row=1", 400, "difference: percent"),
    ("/?difference=-1&row=1", 400, "difference: percent"),
    ("/api/search", 400, "give a chip"),
    (f"/api/search?row={2**70}", 400, "row: the number"),
    ("/api/search?row=12", 404, "has no such chip"),
    (f"/chip/{2**70}", 404, "has no such chip"),
    ("/chip/12", 404, "has no such chip"),
    ("/chip/-1", 404, ""),
    ("/chip/%2e%2e%2fetc%2fpasswd", 404, ""),
    ("/chip/..%2f..%2fetc%2fpasswd", 404, ""),
    ("/static/../app.py", 404, ""),
    ("/static/%2e%2e/app.py", 404, ""),
    ("/static/%2e%2e%2f%2e%2e%2ferrors.py", 404, ""),
    ("/static//etc/passwd", 404, ""),
    ("/docs", 404, ""),
    ("/openapi.json", 404, ""),
]


@pytest.mark.parametrize("address, status, words", ADDRESSES)
def test_addresses_that_are_not_there(page, address, status, words):
    answer = page.get(address)
    assert answer.status_code == status and words in answer.text
    assert "root:" not in answer.text and "import" not in answer.text


def test_only_files_as_they_were_indexed_and_below_its_roots_are_shown(write, chips, serve, client, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(chips, root)
    paths = sorted(root.iterdir())
    outside = tmp_path / "root_2" / paths[1].name  # which begins as the root does
    outside.parent.mkdir()
    shutil.move(paths[1], outside)
    paths[1].symlink_to(outside)  # a link out of the root
    index = write(tmp_path / "index", [*paths, outside], root)
    paths[2].unlink()
    paths[3].write_bytes(paths[3].read_bytes() + b" ")
    paths[4].unlink()
    os.mkfifo(paths[4])
    page, size = client(serve(index)), len(paths)
    for row, words in ((1, "outside"), (size, "outside"), (2, "is gone"), (3, "has changed"), (4, "has changed")):
        answer = page.get(f"/chip/{row}")
        assert answer.status_code == 422 and words in answer.text and str(tmp_path) not in answer.text
        assert words in page.get(f"/?row={row}").text
    assert page.get("/chip/0?side=1").content == page.get("/chip/0").content
    good = page.get("/chip/0?side=1024")
    assert Image.open(io.BytesIO(jpeg(np.zeros((400, 200, 3), np.uint8), 320))).size == (160, 320)
    assert good.status_code == 200 and Image.open(io.BytesIO(good.content)).format == "JPEG"


WRONG_REQUESTS = [
    ({"host": "evil.example"}, 421),
    ({"host": "evil.example:80"}, 421),
    ({"host": "127.0.0.1.evil.example"}, 421),
    ({"host": "[::1"}, 421),
    ({"host": "a.ship.example"}, 421),
    ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "http://127.0.0.1:99"}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "same-site"}, 403),
    ({"host": "localhost:80", "origin": "http://localhost:80", "sec-fetch-site": "same-origin"}, 200),
    ({"host": "[::1]:8765"}, 200),
    ({"host": "ship.example"}, 200),
    ({}, 200),
]


@pytest.mark.parametrize("headers, status", WRONG_REQUESTS)
def test_other_sites_and_other_names_of_this_computer_are_refused(served, client, headers, status):
    page = client(served, names=["Ship.example"])
    assert page.post("/api/search", data={"row": "1"}, headers=headers).status_code == status
    assert page.get("/", headers=headers).status_code == (421 if status == 421 else 200)


@pytest.mark.parametrize(
    "address", ["/", "/?row=1", "/?row=99", "/chip/1", "/static/page.js", "/nothing", "/api/search"]
)
def test_every_answer_carries_the_headers(page, address):
    headers = page.get(address).headers
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= {
        *headers["content-security-policy"].split("; ")
    } and "unsafe" not in str(headers)
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("private, max-age=600" if address == "/chip/1" else "no-store")


def test_ten_uploads_at_once_are_answered_as_one_by_one(page, chips):
    contents = [(path.name, path.read_bytes()) for path in sorted(chips.iterdir())[:10]]
    alone = [upload(page, *content).json() for content in contents]
    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda content: upload(page, *content).json(), contents))
    for one, other in zip(alone, together, strict=True):
        assert [hit["row"] for hit in one["results"]] == [hit["row"] for hit in other["results"]]


def test_an_index_that_is_replaced_while_it_is_served(write, features, serve, client, tmp_path):
    paths = sorted(features)
    index = write(tmp_path / "index", paths[:4])
    page = client(serve(index))
    assert "4 chips" in page.get("/").text
    write(index, paths[4:7])
    assert "7 chips" in page.get("/").text and len(page.get("/api/search?row=0").json()["results"]) == 6
    index.rename(tmp_path / "old")
    assert "no such folder" in page.get("/").text and len(page.get("/api/search?row=0").json()["results"]) == 6
    foreign = open_index(tmp_path / "old").weights._replace(id="f" * 64)
    write(index, paths[:2], weights=foreign)
    answer = page.get("/api/search?row=0").json()
    assert "is now of other weights; start mos serve again" in answer["notice"] and len(answer["results"]) == 6
    shutil.rmtree(index)
    write(index, paths[:3])
    assert "3 chips" in page.get("/").text and page.get("/api/search?row=0").json()["notice"] == ""


def test_weights_other_than_the_index_s_are_refused(write, index, chips, serve, tmp_path):
    foreign = open_index(index).weights._replace(id="f" * 64)
    other = write(tmp_path / "index", sorted(chips.iterdir())[:1], weights=foreign)
    with pytest.raises(MOSError, match="is of other weights .* than zoo:mos .*; index the chips anew"):
        serve(other)
