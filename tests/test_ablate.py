"""tools/ablate.py: the table by hand, a grid from end to end, and grids that are refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_dump import lines, make_dump, rewrite
from matplotlib.figure import Figure
from PIL import Image

from fastreid_mos.data import HOSS
from fastreid_mos.files import only_run
from tools import ablate
from tools.ablation_table import Tested, write_tables

ROOT = Path(__file__).parents[1]
SMALL = """
options: {TEST.RANDOM_DRAWS: 2, SOLVER.MAX_EPOCH: 1}
rows:
  baseline: {INPUT.SAR.TRANSFORM: SARMaxScale}
  broken: {from: baseline, SOLVER.BASE_LR: 1.0e+30, SOLVER.WARMUP_EPOCHS: 0}
  "flip": {from: baseline, weights: baseline, only_test: true, TEST.FLIP.ENABLED: true}
"""


def write_run(folder, precisions, first_ranks, simulated=False, alpha=None):
    """What a test leaves: queries a, b (ship 1) and c (ship 2), in another order with ``alpha`` and fused."""
    folder.mkdir(parents=True)
    fused = alpha is not None
    rows = zip("abc", (1, 1, 2), first_ranks, precisions, strict=True)
    lines = [f"ALL,{query},{ship},{rank},{ap}" for query, ship, rank, ap in rows][:: -1 if fused else 1]
    text = "\n".join(["protocol,query,identity,first_rank,AP", *lines, "ALL,d,3,,"])
    (folder / f"{'fused_' * fused}query_ranks.csv").write_text(text)
    model = {"mAP": 100 * np.mean(precisions), "Rank-1": 100 * np.mean(np.equal(first_ranks, 1))}
    part = {
        "queries_valid": 3,
        "gallery": 9,
        "model": {"mAP": 1.0, "Rank-1": 1.0},
        "random": {"mAP": 7.0, "Rank-1": 1.0},
    }
    part["fused" if fused else "model"] = model
    content = {"simulated": simulated, "protocols": {"ALL": part}, "fusion": {"alpha": {"ALL": alpha}, "k": {"ALL": 2}}}
    (folder / "results.json").write_text(json.dumps(content))


def test_table_by_hand(tmp_path, monkeypatch):
    """A row's seeds are paired with the first row's own; a row that lost a seed is compared over the others."""
    write_run(tmp_path / "one", [0.2, 0.4, 0.6], [2, 1, 1], simulated=True)
    write_run(tmp_path / "two", [0.4, 0.6, 0.8], [1, 1, 1], simulated=True)
    write_run(tmp_path / "own", [0.6, 0.6, 0.8], [2, 1, 1], simulated=True, alpha=0.25)
    runs = [Tested("first", "sim", seed, tmp_path / name, "model") for seed, name in enumerate(("one", "two"))]
    runs += [Tested("second", "sim", 1, tmp_path / "own", "fused")]
    runs += [Tested("third", "sim", seed, tmp_path / "two", "model") for seed in (0, 1, 2)]
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *rest, **more: (drawn.append(self), save(self, *rest, **more)))
    text = write_tables(runs, ["first", "gone", "second", "third"], tmp_path)
    assert text.endswith(
        "alpha (K) of each seed\n\n|        | sim ALL   |\n|:-------|:----------|\n| second | 0.25 (2)  |\n"
    )
    assert "first 2; second 1" in text and "sim: SIMULATED ships; ALL 3 queries, gallery 9" in text
    cells = {tuple(row[:4]): row[4:] for row in csv.reader((tmp_path / "table.csv").open())}
    numbers = {key[0::3]: [float(cell) for cell in row if cell] for key, row in cells.items() if key[0] != "row"}
    assert numbers["first", "mAP"] == pytest.approx([50, np.std([40, 60], ddof=1), 2])
    assert numbers["first", "Rank-1"] == pytest.approx([250 / 3, np.std([200 / 3, 100], ddof=1), 2])
    # Seed 1 alone: 0.2, 0 and 0 better; a draw of ships has ship 1 only, both, or ship 2 only.
    assert numbers["second", "mAP"] == pytest.approx([200 / 3, 1, 20 / 3, 0, 10])
    assert numbers["second", "Rank-1"] == pytest.approx([200 / 3, 1, -100 / 3, -50, 0])
    assert numbers["third", "mAP"] == pytest.approx([60, 0, 3, 10, 10, 10])  # 20 above seed 0, none above seed 1
    assert numbers["random", "mAP"] == [7, 1] and ("gone", "mAP") not in numbers
    assert "50.0 ± 14.1 / 83.3 ± 23.6" in text and "+6.7 [+0.0, +10.0]" in text
    latex = (tmp_path / "table.tex").read_text()
    assert "50.0 ± 14.1" in latex and "+6.7 [+0.0, +10.0]" in latex and "| random" in text
    points = [bar.lines[0].get_xydata()[0] for bar in drawn[0].axes[0].containers]
    np.testing.assert_allclose(points, [[50, 0], [200 / 3, 1], [60, 2], [7, 3]])
    assert Image.open(tmp_path / "table.png").size[0] > 300


@pytest.mark.slow
def test_a_grid_is_run_once_and_a_failed_row_loses_no_other(tiny_hoss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    (tmp_path / "grid.yml").write_text(SMALL)
    words = ["--config-file", "configs/HOSS/demo/debug.yml", "--grid", str(tmp_path / "grid.yml"), "--seeds", "1"]
    words += ["--output", str(tmp_path / "out")]
    assert ablate.main([*words, "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    assert "broken, seed 0" in err and "loss is not finite" in err and "broken_seed0/output.txt" in err
    assert "| flip" in out and "| broken" not in out and "random" in out
    table = (tmp_path / "out/table.csv").read_text()
    weights = (tmp_path / "out/baseline_seed0/model_final.pth").stat().st_mtime_ns
    # Again, without the broken row and with one whose test was lost: only that is done.
    (tmp_path / "grid.yml").write_text("\n".join(line for line in SMALL.splitlines() if "broken" not in line))
    shutil.rmtree(tmp_path / "out/flip_seed0")
    assert ablate.main(words) == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if "train_net" in line] == ["flip_seed0/HOSS"]
    assert (tmp_path / "out/baseline_seed0/model_final.pth").stat().st_mtime_ns == weights
    assert (tmp_path / "out/table.csv").read_text() == table
    # Changed settings do not pass as the earlier run's.
    (tmp_path / "grid.yml").write_text("rows: {baseline: {INPUT.SAR.TRANSFORM: SARMaxScale, SOLVER.BASE_LR: 0.1}}")
    assert ablate.main(words) == 2
    assert "BASE_LR" in capsys.readouterr().err


def test_what_needs_a_failed_row_is_not_run_and_what_changed_is_run_again(tiny_hoss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    config, calls, broken = tmp_path / "config.yml", [], {"a_seed0"}
    config.write_text(f"_BASE_: {ROOT}/configs/HOSS/demo/debug.yml\n")
    rows = "a: {}, b: {weights: a, only_test: true}, c: {}, d: {weights: c, only_test: true}"
    (tmp_path / "grid.yml").write_text(f"rows: {{{rows}}}")

    def ran(command, env, stdout, **_):
        folder = Path(command[command.index("OUTPUT_DIR") + 1])
        assert "--eval-only" not in command or not (folder / "results.json").exists()
        assert env["OMP_NUM_THREADS"] == str(os.cpu_count())
        calls.append(str(folder.relative_to(tmp_path / "out")))
        if calls[-1] in broken:
            stdout.write("error: no luck\n")
        else:
            shutil.rmtree(folder)
            write_run(folder, [0.5] * 3, [1] * 3)
            (folder / "model_final.pth").touch()
        return SimpleNamespace(returncode=int(calls[-1] in broken))

    monkeypatch.setattr(ablate.subprocess, "run", ran)
    words = ["--config-file", str(config), "--grid", str(tmp_path / "grid.yml"), "--seeds", "1"]
    words += ["--output", str(tmp_path / "out")]
    assert ablate.main(words) == 2 and calls == ["a_seed0", "c_seed0", "d_seed0/HOSS"]
    out, err = capsys.readouterr()
    assert "| d " in out and "| a " not in out
    assert "status 1, error: no luck" in err and "b, seed 0: it needs row 'a', which failed" in err
    # The same command with another config file's content.
    broken.clear()
    config.write_text(config.read_text() + "SOLVER: {BASE_LR: 0.2}\n")
    assert ablate.main(words) == 0 and calls[3:] == ["a_seed0", "b_seed0/HOSS", "c_seed0", "d_seed0/HOSS"]
    assert ablate.main(words) == 0 and len(calls) == 7
    with only_run(str(tmp_path / "out")):
        assert ablate.main(words) == 2


FUSED = """
data: {sim: $SIM, real: $REAL}
rows:
  unfused: {}
  fused:
    weights: unfused
    only_test: true
    test: [sim, real]
    bridge: {config: configs/HOSS/demo/bbdm_debug.yml, BRIDGE.SAMPLE.K: 3}
    TEST.FUSION.ALPHA: 0.4
  fused more: {from: fused, TEST.FUSION.ALPHA: 0.7}
  perfect: {from: fused, generated: perfect}
  other: {from: fused more, test: [sim], generated: other}
  taught: {synthetic: fused, test: [sim, real]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 3])
def test_rows_share_a_bridge_and_real_ships_have_no_perfect_generator(tiny_hoss, tmp_path, monkeypatch, capsys, jobs):
    """Without the runs themselves: what would be called."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/HOSS").symlink_to(tiny_hoss / "HOSS")
    for name, folder in (("SIM", tiny_hoss), ("REAL", tmp_path / "real")):
        monkeypatch.setenv(name, str(folder))
    calls, items = [], {"query": HOSS(root=str(tiny_hoss)).query[:4]}

    def ran(command, env, **_):
        words = command[2:]
        options = {word: words[n + 1] for n, word in enumerate(words[:-1]) if word[0].isupper()}
        folder = Path(options["OUTPUT_DIR"])
        calls.append(
            (Path(command[1]).stem, str(folder.relative_to(tmp_path / "out")), env["FASTREID_DATASETS"], options)
        )
        assert command[1].endswith("train_bbdm.py") or ("--resume" in words) != ("--eval-only" in words)
        if command[1].endswith("train_bbdm.py"):
            make_dump(options["BRIDGE.SAMPLE.OUTPUT"], items, env["FASTREID_DATASETS"])
        else:
            alpha = options.get("TEST.FUSION.ALPHA")
            shutil.rmtree(folder)
            write_run(folder, [0.5] * 3, [1] * 3, "real" not in env["FASTREID_DATASETS"], alpha and float(alpha))
            (folder / "model_final.pth").touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(ablate.subprocess, "run", ran)
    (tmp_path / "grid.yml").write_text(FUSED)
    words = ["--config-file", "configs/HOSS/demo/debug.yml", "--grid", str(tmp_path / "grid.yml"), "--seeds", "2"]
    assert ablate.main([*words, "--output", str(tmp_path / "out"), "--jobs", str(jobs)]) == 0
    out = capsys.readouterr().out
    assert out.count("perfect on real: left out") == 2
    # One bridge a seed, one dump a seed and data set.
    assert sorted(call[1:3] for call in calls if call[0] == "train_bbdm") == sorted(
        (f"fused_seed{seed}/bridge", str(data)) for seed in (0, 1) for data in (tiny_hoss, tmp_path / "real")
    )
    assert all(call[1] == f"fused_seed{call[3]['SEED']}/bridge" for call in calls if call[0] == "train_bbdm")
    tests = {call[1]: call[3] for call in calls if call[0] == "train_net"}
    assert len(tests) == len([call for call in calls if call[0] == "train_net"]) == 2 * (1 + 2 + 2 + 1 + 1 + 2)
    for seed in (0, 1):
        bridge = tmp_path / f"out/fused_seed{seed}/bridge"
        for row, alpha, more in (("fused", 0.4, ""), ("fused_more", 0.7, ""), ("perfect", 0.4, "_perfect"),
                                 ("other", 0.7, "_other")):  # fmt: skip
            options = tests[f"{row}_seed{seed}/sim"]
            assert (
                options["TEST.FUSION.ROOT"] == str(bridge / f"generated_sim{more}")
                and float(options["TEST.FUSION.ALPHA"]) == alpha
            )
            assert options["MODEL.WEIGHTS"] == str(tmp_path / f"out/unfused_seed{seed}/model_final.pth")
            assert options["SEED"] == str(seed)
        assert f"taught_seed{seed}/real" in tests
        assert tests[f"taught_seed{seed}"]["DATASETS.SYNTHETIC"] == f"['{bridge}/generated_sim']"
    # Nothing is done again but what was fused with chips that are others now.
    done = len(calls)
    assert ablate.main([*words, "--output", str(tmp_path / "out")]) == 0 and len(calls) == done
    chips = tmp_path / "out/fused_seed1/bridge/generated_sim"
    rewrite(chips, lines(chips), seed=5)
    assert ablate.main([*words, "--output", str(tmp_path / "out")]) == 0
    assert {call[1] for call in calls[done:]} == {"taught_seed1", "taught_seed1/real"} | {
        f"{row}_seed1/sim" for row in ("fused", "fused_more", "perfect", "other")
    }


@pytest.mark.parametrize(
    "text, words",
    [
        ("rows: [a", "grid.yml: cannot be read"),
        ("row: {a: {}}", "'rows' is missing"),
        ("rows: {}", "'rows' is missing"),
        ("rows: {a: {}}\ncolumns: 3", "columns"),
        ("rows: {+ a: {}, a: {}}", "one folder name, a"),
        ("rows: {a: {from: b}}", "row 'a': no row 'b' before it"),
        ("rows: {a: {only_test: true}}", "row 'a': only_test needs 'weights'"),
        ("rows: {a: {}, b: {bridge: c}}", "row 'b': no row 'c' before it"),
        ("rows: {a: {}, b: {bridge: a}}", "row 'b': row 'a' trains no bridge"),
        ("rows: {a: {}, b: {synthetic: c}}", "row 'b': no row 'c' before it"),
        ("rows: {a: {}, b: {synthetic: a}}", "row 'b': row 'a' trains no bridge"),
        ("rows: {a: {bridge: {SEED: 2}}}", "row 'a': bridge: 'config' is missing"),
        ("rows: {a: {bridge: {config: configs/HOSS/demo/bbdm_debug.yml, BRIDGE.SAMPLE.KK: 2}}}", "BRIDGE.SAMPLE.KK"),
        ("rows: {a: {bridge: {config: configs/HOSS/demo/bbdm_debug.yml}, generated: gray}}", "grey.*'gray'"),
        ("rows: {a: {generated: grey}}", "row 'a': generated: .*beside 'bridge'"),
        ("rows: {a: {wieghts: b}}", "row 'a': wieghts: no word of a row .*weights"),
        ("rows: {a: baseline}", "row 'a': must be a mapping"),
        ("options: [SEED]\nrows: {a: {}}", "options: must be a mapping"),
        ("rows: {a: {SEED: 3}}", "row 'a': SEED: --seeds sets it"),
        ("rows: {a: {OUTPUT_DIR: output/mine}}", "row 'a': OUTPUT_DIR: .*--output"),
        ("test: mars\nrows: {a: {}}", "row 'a': no data set mars"),
        ("rows: {a: {train: mars}}", "row 'a': no data set mars"),
        ("rows: {a: {SOLVER.MAX_EPOHC: 3}}", "row 'a': no such key SOLVER.MAX_EPOHC"),
        ("data: {real: /no/such}\nrows: {a: {}}", "data 'real': no folder HOSS in /no/such"),
        ("data: {sim: {ships: 3}}\nrows: {a: {}}", "data 'sim'.*num_ids"),
    ],
)
def test_grids_that_are_refused(tiny_hoss, tmp_path, monkeypatch, text, words):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_hoss))
    (tmp_path / "grid.yml").write_text(text)
    with pytest.raises(ablate.ConfigError, match=words):
        ablate.read_grid(tmp_path / "grid.yml", "configs/HOSS/demo/debug.yml", tmp_path / "out")


@pytest.mark.parametrize(
    "grid, config",
    [
        ("parts", "mos_short"),
        ("transoss_parts", "transoss_tiny"),
        ("sim_to_real", "real_finetune"),
        ("fusion", "mos_short"),
    ],
)
def test_shipped_grids(tiny_hoss, tmp_path, monkeypatch, grid, config):
    monkeypatch.setenv("REAL", str(tiny_hoss))
    monkeypatch.setattr("fastreid_mos.sim.write_hoss", lambda *_, **__: tiny_hoss)
    path = ROOT / f"benchmarks/grids/{grid}.yml"
    read = ablate.read_grid(path, f"configs/HOSS/demo/{config}.yml", tmp_path)
    assert len(read.rows) >= 3 and f"configs/HOSS/demo/{config}.yml" in path.read_text(encoding="utf-8")
