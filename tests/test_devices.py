"""MODEL.DEVICE is what is run on: never the CPU in its place, never a GPU because there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastreid.engine import launch

import fastreid_mos
from fastreid_mos.compat import launching
from fastreid_mos.config import require_device
from fastreid_mos.data import HOSS, build_test_loader
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.errors import ConfigError
from tools.train_net import main as train

CONFIGS = Path(__file__).parents[1] / "configs/HOSS"
DEBUG = str(CONFIGS / "demo/debug.yml")


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "message"),
    [
        ("cuda", 0, (1, 1), "MODEL.DEVICE: 'cuda', but PyTorch sees no GPU here; add MODEL.DEVICE cpu"),
        ("cuda:0", 0, (1, 1), "MODEL.DEVICE: 'cuda:0', but PyTorch sees no GPU here; add MODEL.DEVICE cpu"),
        ("cuda:1", 1, (1, 1), "MODEL.DEVICE: 'cuda:1', but PyTorch sees 1 GPU(s) here, numbered from 0"),
        ("cuda", 1, (2, 1), "MODEL.DEVICE: 'cuda' for 2 processes, but PyTorch sees 1 GPU(s) here; start as many"),
        ("cuda:0", 2, (2, 1), "MODEL.DEVICE: 'cuda:0', but of several processes each takes a GPU of its own"),
        ("cuda:1", 2, (1, 2), "MODEL.DEVICE: 'cuda:1', but of several processes each takes a GPU of its own"),
        ("cuda", 2, (2, 1), None),
        ("cuda", 1, (1, 2), None),
        ("cuda:1", 2, (1, 1), None),
        ("cpu", 0, (2, 1), None),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, device, gpus, processes, message):
    with_gpus(monkeypatch, gpus)
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.DEVICE", device])
    if message is None:
        require_device(cfg, *processes)
        return
    with pytest.raises(ConfigError) as caught:
        require_device(cfg, *processes)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize("tool", ["re-identifier", "bridge"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_no_gpu_is_one_line_before_anything_is_read(monkeypatch, capsys, tmp_path, tool, device, processes):
    with_gpus(monkeypatch, 0)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "no data"))
    if tool == "bridge":
        pytest.importorskip("diffusers")
        pytest.importorskip("accelerate")
        from fastreid_mos.bridge.cli import main as run

        config = "demo/bbdm_debug.yml"
    else:
        run, config = train, "demo/debug.yml"
    words = ["--config-file", str(CONFIGS / config), "--num-gpus", processes]
    assert run([*words, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", device]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: MODEL.DEVICE: '{device}'") and "MODEL.DEVICE cpu" in said and "\n" not in said
    assert not (tmp_path / "run").exists()


def test_without_the_command_line_too(monkeypatch):
    with_gpus(monkeypatch, 0)
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.DEVICE", "cuda", "MODEL.HEADS.NUM_CLASSES", "3"])
    with pytest.raises(ConfigError, match=r"add MODEL\.DEVICE cpu"):
        MOSTrainer.build_model(cfg)
    pytest.importorskip("accelerate")
    from fastreid_mos.bridge.train.trainer import make_accelerator

    with pytest.raises(ConfigError, match=r"add MODEL\.DEVICE cpu"):
        make_accelerator(cfg)


class Stop(Exception):
    pass


@pytest.fixture
def started(monkeypatch):
    """Two GPUs are seen. A dict: what the second process of a launch does with them and the process group."""
    found = {}

    def init_process_group(backend, **_):
        found["backend"] = backend
        raise Stop

    with_gpus(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: found.update(gpu=number))
    monkeypatch.setattr(launching.dist, "init_process_group", init_process_group)
    monkeypatch.setattr(launching.mp, "spawn", lambda function, nprocs, args, daemon: function(nprocs - 1, *args))
    return found


NCCL, GLOO = {"backend": "nccl", "gpu": 1}, {"backend": "gloo"}


@pytest.mark.parametrize(("device", "wanted"), [("cpu", GLOO), ("cuda", NCCL), (None, NCCL)])
def test_the_backend_follows_the_device(started, device, wanted):
    with pytest.raises(Stop):
        launch(print, 2, device=device)
    assert started == wanted


@pytest.mark.parametrize("tool", ["re-identifier", "bridge"])
@pytest.mark.parametrize(("device", "wanted"), [("cpu", GLOO), ("cuda", NCCL)])
def test_the_tools_say_which_device(started, tmp_path, tool, device, wanted):
    words = ["--num-gpus", "2", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", device]
    if tool == "bridge":
        pytest.importorskip("diffusers")
        pytest.importorskip("accelerate")
        from fastreid_mos.bridge.cli import main as run

        words = ["--config-file", str(CONFIGS / "demo/bbdm_debug.yml"), *words]
    else:
        run, words = train, ["--config-file", DEBUG, *words]
    with pytest.raises(Stop):
        run(words)
    assert started == wanted


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_a_gpu_only(monkeypatch, tiny_hoss, device):
    with_gpus(monkeypatch, 1)
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.DEVICE", device])
    loader = build_test_loader(cfg, HOSS(root=str(tiny_hoss)).query)
    assert loader.pin_memory == (device == "cuda") and loader.device is None


def test_the_small_configs_are_for_a_cpu():
    for path in CONFIGS.rglob("*.yml"):
        assert fastreid_mos.load_cfg(str(path)).MODEL.DEVICE == ("cpu" if path.parent.name == "demo" else "cuda"), path


def test_more_processes_than_gpus_are_on_the_cpu_where_no_device_is_named(started, monkeypatch):
    with_gpus(monkeypatch, 1)
    with pytest.raises(Stop):
        launch(print, 2)
    assert started == GLOO
