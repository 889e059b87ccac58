"""The README and docs/: their code blocks are run, their links, files and keys are there.

What sets up an environment is checked for being there only; what takes hours is asked for its --help.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastreid_mos import get_cfg

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [README, *sorted(ROOT.glob("docs/*.md"))]}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = [name for name, text in PAGES.items() if "```python" in text]
# So that a command ends in seconds here: thin, small, short.
THIN = {
    "tools/train_net.py": """MODEL.TRANSOSS.DEPTH 1 MODEL.TRANSOSS.EMBED_DIM 48 MODEL.TRANSOSS.NUM_HEADS 4
        MODEL.BACKBONE.FEAT_DIM 48 INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32]""",
    "tools/train_bbdm.py": """BRIDGE.SIZE [32,16] BRIDGE.UNET.CHANNELS [16,32] BRIDGE.UNET.LAYERS 1
        BRIDGE.UNET.HEAD_DIM 8 BRIDGE.UNET.GROUPS 8 BRIDGE.LATENT.TRAIN False""",
}
SHORT = {
    "tools/make_sim_hoss.py": "--ids 6",
    "mos simulate": "--ids 40",
    "tools/train_net.py": """MODEL.DEVICE cpu SOLVER.MAX_EPOCH 1 SOLVER.IMS_PER_BATCH 16 DATALOADER.NUM_WORKERS 0
        TEST.RANDOM_DRAWS 5 TEST.BOOTSTRAP.SAMPLES 20 TEST.FUSION.K 1""",
    "tools/train_bbdm.py": """MODEL.DEVICE cpu BRIDGE.SOLVER.STEPS 4 BRIDGE.SOLVER.BATCH 4 BRIDGE.SOLVER.WARMUP_STEPS 0
        BRIDGE.SOLVER.SAMPLE_PERIOD 0 BRIDGE.SAMPLE.STEPS 2 BRIDGE.SAMPLE.K 1""",
}
# What the pages say of the reader's own chips.
OWN_CHIPS = """
import os, shutil
from pathlib import Path
os.mkdir("port")
for kind, names in (("RGB", ["12"]), ("SAR", ["31", "32"])):
    for name, path in zip(names, sorted(Path(os.environ["FASTREID_DATASETS"]).rglob(f"*_{kind}.tif"))):
        shutil.copy(path, f"port/{name}_{kind}.tif")
queries, gallery = ["port/12_RGB.tif"], ["port/31_SAR.tif", "port/32_SAR.tif"]
chips = gallery
"""
# Each command in a process of its own, forked from one that has imported what all of them import.
DRIVER = """
import json, os, runpy, sys
import accelerate, diffusers, fastreid_mos

for words in json.load(sys.stdin):
    child = os.fork()
    if not child:
        sys.argv = words
        if words[0] == "mos":
            from fastreid_mos.commands import main
            sys.exit(main(words[1:]))
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name="__main__")
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {words}")
"""


def blocks(name, language):
    return [body for kind, body in FENCE.findall(PAGES[name]) if kind == language]


def lines(name):
    bodies = [body.replace("\\\n", " ") for body in blocks(name, "bash")]
    return [line.split("  #")[0].strip() for body in bodies for line in body.splitlines()]


def commands():
    """Words of every Python command, each once, as short as it can be made."""
    found = [re.sub("^mos ", "python mos ", line).partition("python ") for name in PAGES for line in lines(name)]
    calls = [short(*shlex.split(words)) for before, tool, words in found if tool and (not before or "=" in before)]
    return [list(words) for words in dict.fromkeys(calls)]


def short(tool, *words):
    words = [word.replace("output/run/", "output/debug/") for word in words]  # any run, with held-out ships
    if tool.startswith("benchmarks/") or tool == "tools/ablate.py":
        return tool, "--help"
    if words[:1] == ["serve"] or any("qdrant://" in word for word in words):  # never ends; needs a server
        return tool, words[0], "--help"
    thin = "" if "zoo:" in " ".join(words) else THIN.get(tool, "")
    name = f"mos {words[0]}" if tool == "mos" else tool
    if tool == "tools/make_sim_hoss.py" and "list" in words:
        return tool, *words, "--ids", "24"  # enough to train on and to hold out
    return tool, *words, *thin.split(), *SHORT.get(name, "").split()


def python(code, folder, text="", **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    options = {"cwd": folder, "env": environment, "input": text, "capture_output": True, "text": True, "timeout": 360}
    return subprocess.run([sys.executable, "-c", code], **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_run_in_their_order(name, tiny_hoss, tmp_path):
    code = "\n".join(blocks(name, "python"))
    code = (OWN_CHIPS if "port/" in code else "") + code
    done = python(code, tmp_path, PYTHONPATH=str(ROOT), FASTREID_DATASETS=str(tiny_hoss))
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_tool_commands_run_in_their_order(tiny_hoss, tmp_path):
    """In a copy of the repository's tools and configs, so that nothing is written into the repository."""
    for name in ("tools", "configs", "fastreid_mos", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert python(OWN_CHIPS, tmp_path, FASTREID_DATASETS=str(tiny_hoss)).returncode == 0
    calls = list(commands())
    assert len(calls) >= 20
    done = python(DRIVER, tmp_path, json.dumps(calls), FASTREID_DATASETS=str(tiny_hoss), PYTHONPATH="")
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def test_make_targets_are_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {target for name in PAGES for target in re.findall(r"\bmake (\w+)", "\n".join(lines(name)))}
    assert {"demo", "test"} <= named <= targets


def anchors(text):
    """The anchors of the headings, as GitHub makes them."""
    found = []
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        slug = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        found.append(slug + f"-{found.count(slug)}" * (slug in found))
    return found


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_files_and_keys_are_there(name):
    page = next(path for path in (ROOT / name, ROOT / "docs" / name) if path.exists())
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href|srcset)="([^"]+)"', prose):
        if not re.match(r"https?:", link):
            target, _, anchor = link.partition("#")
            file = page.parent / target if target else page
            assert file.exists(), link
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), link
    for file in re.findall(r"(?<![\w/.])(?:configs|tools|benchmarks|docs|fastreid_mos|tests)/[\w/.-]*\w", text):
        assert name == "CHANGELOG.md" or (ROOT / file).exists(), file
    cfg = get_cfg()
    for key in re.findall(r"\b[A-Z]+(?:\.[A-Z_0-9]+)+\b", "" if name.startswith("C") else text):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_readme_is_short_and_leads_to_every_page():
    text = PAGES["README.md"]
    assert len(text.splitlines()) <= 200
    assert [name for name in PAGES if name != "README.md" and f"](docs/{name})" not in text] == []
