"""The health report and the demo: what they report, and what they refuse before any work."""

from __future__ import annotations

import argparse
import sys

import pytest

from fastreid_mos import __main__ as health
from fastreid_mos.errors import MOSError
from tools.demo import Demo


def test_health_reports_once_each_what_is_not_found(tmp_path, tiny_hoss, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["mos-health"])
    assert health.main() == 0
    out = capsys.readouterr().out
    assert out.count(f"{tmp_path / 'HOSS'}: not found") == 3 and "set FASTREID_DATASETS to the folder" in out
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    assert health.main() == 0
    out = capsys.readouterr().out
    assert "OptiSar_Pair: not found" in out and "set FASTREID_DATASETS" not in out  # few have the pairs


def test_demo_refuses_a_folder_that_is_not_its_own(tmp_path):
    demo = tmp_path / "demo"
    for name in ("data", "zoo", "generated", "fused_perfect", "with_mos", "index.html"):
        Demo(argparse.Namespace(output=demo)).check_output()
        (demo / name).mkdir()
    (demo / "thesis.tex").write_text("")
    for output, words in ((demo, "thesis.tex"), (demo / "thesis.tex/below", "thesis.tex is a file"), ("", "empty")):
        with pytest.raises(MOSError, match=f"--output {output}: .*{words}"):
            Demo(argparse.Namespace(output=output)).check_output()
