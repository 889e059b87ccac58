"""The command `mos serve`, and the page in a browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import pytest
import uvicorn
from browser import Browser, chromium

from fastreid_mos.commands.serve import is_local, listen
from fastreid_mos.errors import MOSError
from fastreid_mos.serve.app import make_app


@contextmanager
def running(served):
    """The address of the page, served by another thread."""
    with listen("127.0.0.1", 0) as place:
        server = uvicorn.Server(uvicorn.Config(make_app(served), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium")
@pytest.mark.parametrize("width, height, dark", [(390, 844, True), (1280, 900, False)])
def test_in_a_browser(served, chips, tmp_path, width, height, dark):
    """Choose a chip, filter, open two side by side by keyboard, follow a link: nothing is loaded from elsewhere."""
    path = sorted(chips.glob("*_SAR.tif"))[1]
    with running(served) as address, Browser(tmp_path, width, height, dark) as browser:
        browser.open(address)
        back = browser.js("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back))) < 200) == dark
        browser.choose("#chip", path)
        browser.until("document.querySelectorAll('.hit:not(.query)').length === 12")
        assert path.name in browser.js("document.querySelector('.hit.query').innerText")
        assert "cosine 1.000" in browser.js("document.querySelectorAll('.hit')[1].innerText")
        browser.js("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        pictures = "[...document.querySelectorAll('#results img')]"
        browser.until(f"{pictures}.every(image => image.complete && image.naturalWidth > 0)")
        assert browser.js(f"{pictures}.every(image => image.alt.length > 5)")
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        browser.js("modality.value = 'optical', modality.dispatchEvent(new Event('change', {bubbles: true}))")
        browser.until("document.querySelectorAll('.hit:not(.query)').length === 6")  # the file is still there
        browser.js("document.querySelectorAll('.hit:not(.query) .look')[0].focus()")
        browser.key("Enter")
        browser.until("dialog.open && dialog.querySelectorAll('img').length === 2")
        shown = "[...dialog.querySelectorAll('img')].map(image => image.alt.slice(0, 7)).join()"
        assert browser.js(shown).startswith("query: ,1: opti")
        browser.key("ArrowRight")
        assert ",2: opti" in browser.js(shown)
        browser.until("[...dialog.querySelectorAll('img')].every(image => image.complete && image.naturalWidth > 0)")
        browser.key("Escape")
        browser.until("!dialog.open")
        browser.js("document.querySelector('.links a').click()")
        browser.until("location.search.includes('modality=optical') && document.querySelectorAll('.hit').length === 6")
        browser.until("document.readyState === 'complete'")  # its script has run
        browser.js("modality.value = 'sar', modality.dispatchEvent(new Event('change', {bubbles: true}))")
        browser.until("location.search.includes('modality=sar') && document.querySelectorAll('.hit').length === 7")
        assert browser.problems == []
        assert [url for url in browser.asked if not url.startswith((address, "data:"))] == []
        wrong = tmp_path / "text.tif"
        wrong.write_text("no image")
        browser.choose("#chip", wrong)
        browser.until("document.querySelector('.problem')?.innerText.includes('is not a TIFF')")


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(index, features):
    code = f"from fastreid_mos.commands import main; raise SystemExit(main('serve --index {index} --port 0'.split()))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = re.match(r"http://127\.0\.0\.1:\d+/", line)[0]
        assert "12 chips" in line and "Find a ship" in urllib.request.urlopen(address).read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()


def test_what_the_command_cannot_do(tmp_path, index, mos_refuses):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, said in [
            (["--index", tmp_path / "none"], "no such folder"),
            (["--index", index, "--port", port], f"--port {port}: is in use"),
            (["--index", index, "--port", "70000"], "--port 70000: must be 0 (any free one) to 65535"),
            (["--index", index, "--host", "no.such.host.invalid", "--port", "0"], "--host no.such.host.invalid"),
            (["--index", index, "--port", "0", "--max-upload", "0"], "--max-upload 0: must be a number, 1"),
            (["--index", index, "--port", "0", "--device", "abacus"], "--device"),
        ]:
            assert said in mos_refuses("serve", *words), words


def test_which_hosts_are_local_and_which_ports_can_be_had():
    assert list(map(is_local, ["127.0.0.1", "::1", "localhost", "127.3.2.1"])) == [True] * 4
    assert list(map(is_local, ["0.0.0.0", "::", "192.0.2.1", "ship.example"])) == [False] * 4
    with listen("127.0.0.1", 0) as one, pytest.raises(MOSError, match="is in use; give another, or 0"):
        listen("127.0.0.1", one.getsockname()[1])
