"""The health report and the demo: what they say, and what they refuse before any work."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import pytest

from fastreid_mos import __main__ as health
from fastreid_mos.errors import MOSError

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def test_health_says_once_each_what_is_not_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["mos-health"])
    assert health.main() == 0
    out = capsys.readouterr().out
    assert out.count(f"{tmp_path / 'HOSS'}: not found") == 3 and "set FASTREID_DATASETS" in out
    assert "bounding_box_train" not in out and "zenodo" not in out.lower()
    assert all(len(line) < 300 for line in out.splitlines())


def test_health_has_the_usual_arguments(monkeypatch, capsys):
    for argument, status in (("--help", 0), ("--wat", 2)):
        monkeypatch.setattr(sys, "argv", ["mos-health", argument])
        with pytest.raises(SystemExit) as caught:
            health.main()
        printed = capsys.readouterr()
        assert caught.value.code == status
        assert "usage: mos-health" in printed.out + printed.err and "Versions" not in printed.out


def test_demo_refuses_a_place_that_is_not_its_own(tmp_path):
    demo = runpy.run_path(str(TOOLS / "demo.py"))["Demo"]

    def check(output):
        demo(argparse.Namespace(output=output)).check_output()

    check(tmp_path / "demo")
    for name in ("data", "run", "bridge", "fused", "transoss_0"):
        (tmp_path / "demo" / name).mkdir()
    (tmp_path / "demo" / "index.html").write_text("")
    check(tmp_path / "demo")
    (tmp_path / "demo" / "thesis.tex").write_text("")
    with pytest.raises(MOSError, match="demo: holds thesis.tex, which is not an earlier demo's"):
        check(tmp_path / "demo")
    for name in ("thesis.tex", "thesis.tex/below"):
        with pytest.raises(MOSError, match="no folder can be made there .*thesis.tex is a file"):
            check(tmp_path / "demo" / name)
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(MOSError, match="link is a link to gone, which is not there"):
        check(tmp_path / "link")
    with pytest.raises(MOSError, match="it is empty"):
        check("")
