"""The examples of CONTRIBUTING.md, run together in one training."""

import functools
import re
from pathlib import Path

from fastreid_mos.config import keys, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_parts_of_ones_own_train_and_are_tested(tiny_hoss, tmp_path, monkeypatch):
    from tools.train_net import main

    (tmp_path / "harbour").mkdir()
    for ours, theirs in (("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")):
        (tmp_path / "harbour" / ours).symlink_to(tiny_hoss / "HOSS" / theirs)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    monkeypatch.setattr(load, "_defaults", functools.cache(load._defaults.__wrapped__))
    monkeypatch.setattr(keys, "MOS_KEYS", keys.MOS_KEYS.copy())
    monkeypatch.setattr(load, "MOS_KEYS", keys.MOS_KEYS)
    for block in BLOCKS:
        exec(block, {"__name__": "parts"})
    options = re.findall(r"`((?:[A-Z]+\.)+[A-Z_]+ [^`]+)`", TEXT)
    words = [word.strip('"') for line in options for word in re.findall(r'"[^"]*"|\S+', line)]
    words += ["SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["--config-file", str(ROOT / "configs/HOSS/demo/debug.yml"), *words]) == 0
    results = (tmp_path / "out/results.json").read_text(encoding="utf-8")
    metrics = (tmp_path / "out/metrics.json").read_text(encoding="utf-8")
    assert '"O2O"' in results and "loss_centre" in metrics and len(BLOCKS) == 4
    assert "POWER: 1.5" in (tmp_path / "out/config.yaml").read_text(encoding="utf-8")
