"""Configs: what is shipped reads, every key is in the table once, and a wrong file is one line naming it."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

import fastreid_mos
from fastreid_mos.config.keys import FASTREID_RULES, MOS_KEYS, RULES
from fastreid_mos.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
VIT = str(CONFIGS / "HOSS/mos_vit.yml")


def test_every_shipped_config_reads():
    for path in CONFIGS.rglob("*.yml"):
        model = fastreid_mos.load_cfg(str(path)).MODEL
        assert (model.META_ARCHITECTURE, model.DEVICE) == ("MOS", "cpu" if path.parent.name == "demo" else "cuda")


RECIPE = """
SOLVER.OPT SGD SOLVER.MOMENTUM 0.9 SOLVER.BASE_LR 5e-4 SOLVER.BIAS_LR_FACTOR 2 SOLVER.WEIGHT_DECAY 1e-4
SOLVER.WEIGHT_DECAY_BIAS 1e-4 SOLVER.WEIGHT_DECAY_NORM 1e-4 SOLVER.MAX_EPOCH 100 SOLVER.WARMUP_EPOCHS 5
SOLVER.WARMUP_FACTOR 0.01 SOLVER.ETA_MIN_FACTOR 0.002 SOLVER.IMS_PER_BATCH 32 SOLVER.SCHED WarmupCosineLR
SOLVER.WARMUP_ITERS 0 SOLVER.AMP.ENABLED True DATALOADER.NUM_INSTANCE 4 DATALOADER.SAMPLER_TRAIN IdentitySampler
INPUT.SIZE_TRAIN [256,128] INPUT.SIZE_TEST [256,128] INPUT.FLIP.ENABLED True INPUT.FLIP.PROB 0.5
INPUT.PADDING.ENABLED True INPUT.PADDING.SIZE 10 INPUT.REA.ENABLED True INPUT.REA.PROB 0.5 INPUT.REA.MODE pixel
INPUT.RESIZE.TRAIN bicubic INPUT.RESIZE.TEST bilinear INPUT.SAR.TRANSFORM SARDenoise INPUT.SAR.LOW_PERCENTILE 5
INPUT.SAR.HIGH_PERCENTILE 100 MODEL.BACKBONE.DROP_PATH_RATIO 0.1 MODEL.HEADS.TEST_NECK_FEAT before
MODEL.LOSSES.NAME CrossEntropyLoss,TripletLoss,CMALLoss MODEL.LOSSES.CE.EPSILON 0 MODEL.LOSSES.TRI.MARGIN 0
MODEL.LOSSES.TRI.HARD_MINING True MODEL.LOSSES.CMAL.SCALE 2 TEST.METRIC cosine TEST.REMOVE_SAME_CAMERA False
"""


def test_mos_vit_is_the_papers_recipe():
    assert fastreid_mos.load_cfg(VIT, RECIPE.split()).dump() == fastreid_mos.load_cfg(VIT).dump()


def test_the_table_holds_every_key_once_with_a_meaning_and_defaults_that_keep_their_rules():
    names = [key.name for key in MOS_KEYS]
    assert len(set(names)) == len(names) and not set(names) & set(FASTREID_RULES)
    assert [key.name for key in MOS_KEYS if not key.meaning.endswith(".")] == []
    assert [key.name for key in MOS_KEYS if key.rule and not key.rule.holds(key.default)] == []
    assert attrgetter(*RULES)(fastreid_mos.get_cfg())  # no rule of a key that is not there


def test_lists_of_two_configs_are_their_own():
    one, other = fastreid_mos.get_cfg(), fastreid_mos.get_cfg()
    one.TEST.PROTOCOLS[0].append("x")
    assert one.TEST.PROTOCOLS != other.TEST.PROTOCOLS == fastreid_mos.get_cfg().TEST.PROTOCOLS


def test_what_a_run_saves_reads_as_the_same_config_and_a_key_that_is_gone_is_ignored(tmp_path, caplog):
    cfg = fastreid_mos.load_cfg(VIT, ["INPUT.SAR.CHANNEL", "1", "OUTPUT_DIR", "12"])
    path = tmp_path / "saved.yml"
    path.write_text(cfg.dump())
    assert fastreid_mos.load_cfg(str(path)) == cfg
    path.write_text(cfg.dump().replace("    FUSION:\n", "    FUSION:\n      MODE: mean\n") + "TEST.FUSION.MODE: mean\n")
    assert fastreid_mos.load_cfg(str(path), ["TEST.FUSION.MODE", "mean"]) == cfg
    assert "TEST.FUSION.MODE" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no keys"]),
        ("- a\n- b", ["holds no keys"]),
        ("SOLVER: [1, 2", ["YAML", "line 1"]),
        (bytes(range(128, 256)) * 10, ["YAML"]),
        ("SEED: !!python/object:os.system {}", ["YAML"]),
        ("a: &a {b: *a}", ["YAML"]),
        ("SOLVER: 3", ["SOLVER: a group"]),
        ("SOLVERR: {MAX_EPOCH: 3}", ["SOLVERR"]),
        ("SOLVER: {3: 4}", ["SOLVER.3"]),
        ("SOLVER: {BASE_LR: .inf}", ["SOLVER.BASE_LR"]),
        ("OUTPUT_DIR: [a]", ["OUTPUT_DIR"]),
        ("_BASE_: missing.yml\nSEED: 1", ["_BASE_", "missing.yml"]),
        ("_BASE_: 3", ["_BASE_", "3"]),
        ("_BASE_:", ["_BASE_"]),
        ("_BASE_: wrong.yml", ["comes back to"]),
        ("_BASE_: .", ["cannot be read"]),
        ("SEED: 1\n\nSEED: 1", ["SEED", "line 1", "line 3"]),
        ("TEST:\n  FUSION:\n    K: 1\n    'K': 2", ["TEST.FUSION.K", "line 3", "line 4"]),
        ("SOLVER: {MAX_EPOCH: 4}\nSOLVER.MAX_EPOCH: 3", ["SOLVER.MAX_EPOCH", "line 2"]),
        (None, ["cannot be read"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_with_its_name(tmp_path, text, words):
    path = tmp_path / "wrong.yml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        fastreid_mos.load_cfg(str(path))
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and "\n" not in message
    assert [word for word in words if word not in message] == []


def test_files_below_others(tmp_path):
    base, own = tmp_path / "base.yml", tmp_path / "own.yml"
    own.write_text("_BASE_: base.yml\nSOLVER: {MAX_EPOCH: 9}")
    base.write_text("SOLVER: {BASE_LR: fast}")
    with pytest.raises(ConfigError) as caught:
        fastreid_mos.load_cfg(str(own))
    assert str(caught.value).startswith(f"{base}: SOLVER.BASE_LR")
    # An own key beside a merged one is YAML's way of overriding.
    base.write_text("SOLVER: {<<: &one {MAX_EPOCH: 7}, MAX_EPOCH: 8}")
    assert [fastreid_mos.load_cfg(str(path)).SOLVER.MAX_EPOCH for path in (base, own)] == [8, 9]
