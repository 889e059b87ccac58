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

DEMO = Path(__file__).parents[1] / "configs/HOSS/demo"
DEBUG = str(DEMO / "debug.yml")


@pytest.fixture
def see(monkeypatch):
    """A function: let torch see so many GPUs."""

    def call(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return call


@pytest.fixture(params=["re-identifier", "bridge"])
def tool(request):
    """A function: words of the command line -> exit status of the tool with its debug config."""
    if request.param == "re-identifier":
        return lambda *words: train(["--config-file", DEBUG, *words])
    pytest.importorskip("diffusers")
    pytest.importorskip("accelerate")
    from tools.train_bbdm import main

    return lambda *words: main(["--config-file", str(DEMO / "bbdm_debug.yml"), *words])


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "words"),
    [
        ("cuda", 0, (1, 1), "MODEL.DEVICE cpu"),
        ("cuda:1", 1, (1, 1), "1 GPU"),
        ("cuda", 1, (2, 1), "2 processes"),
        ("cuda:0", 2, (2, 1), "'cuda'"),
        ("cuda:1", 2, (1, 2), "'cuda'"),
        ("cuda", 2, (2, 1), None),
        ("cuda", 1, (1, 2), None),
        ("cuda:1", 2, (1, 1), None),
        ("cpu", 0, (2, 1), None),
    ],
)
def test_a_device_that_is_not_there(see, device, gpus, processes, words):
    see(gpus)
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.DEVICE", device])
    if words is None:
        require_device(cfg, *processes)
        return
    with pytest.raises(ConfigError) as caught:
        require_device(cfg, *processes)
    message = str(caught.value)
    assert message.startswith(f"MODEL.DEVICE: '{device}'") and words in message and "\n" not in message


@pytest.mark.parametrize(("device", "processes"), [("cuda", "2"), ("cuda:0", "1")])
def test_no_gpu_is_one_line_before_anything_is_read(see, monkeypatch, capsys, tmp_path, tool, device, processes):
    see(0)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "no data"))
    assert tool("--num-gpus", processes, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", device) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: MODEL.DEVICE: '{device}'") and "MODEL.DEVICE cpu" in line
    assert not (tmp_path / "run").exists()


def test_without_the_command_line_too(see):
    see(0)
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.DEVICE", "cuda", "MODEL.HEADS.NUM_CLASSES", "3"])
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE cpu"):
        MOSTrainer.build_model(cfg)
    pytest.importorskip("accelerate")
    from fastreid_mos.bridge.train.trainer import make_accelerator

    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE cpu"):
        make_accelerator(cfg)


class Stop(Exception):
    pass


@pytest.fixture
def started(monkeypatch, see):
    """Two GPUs are seen. A dict: what the second process of a launch does with them and the process group."""
    found = {}

    def init_process_group(backend, **_):
        found["backend"] = backend
        raise Stop

    see(2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: found.update(gpu=number))
    monkeypatch.setattr(launching.dist, "init_process_group", init_process_group)
    monkeypatch.setattr(launching.mp, "spawn", lambda function, nprocs, args, daemon: function(nprocs - 1, *args))
    return found


NCCL, GLOO = {"backend": "nccl", "gpu": 1}, {"backend": "gloo"}


@pytest.mark.parametrize(("gpus", "wanted"), [(2, NCCL), (1, GLOO)])
def test_without_a_named_device_more_processes_than_gpus_are_on_the_cpu(started, see, gpus, wanted):
    see(gpus)
    with pytest.raises(Stop):
        launch(print, 2)
    assert started == wanted


@pytest.mark.parametrize(("device", "wanted"), [("cpu", GLOO), ("cuda", NCCL)])
def test_the_tools_hand_the_device_on(started, tmp_path, tool, device, wanted):
    with pytest.raises(Stop):
        tool("--num-gpus", "2", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", device)
    assert started == wanted


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_a_gpu_only(see, tiny_hoss, device):
    see(1)
    cfg = fastreid_mos.load_cfg(DEBUG, ["MODEL.DEVICE", device])
    loader = build_test_loader(cfg, HOSS(root=str(tiny_hoss)).query)
    assert loader.pin_memory == (device == "cuda") and loader.device is None
