"""MODEL.DEVICE is what is run on: never the CPU in its place, never a GPU because there is one."""

from __future__ import annotations

import pytest
import torch
from fastreid.engine import launch

from fastreid_mos.bridge.train.trainer import make_accelerator
from fastreid_mos.compat import launching
from fastreid_mos.config import require_device
from fastreid_mos.data import HOSS, build_test_loader
from fastreid_mos.engine import MOSTrainer
from fastreid_mos.errors import ConfigError


@pytest.fixture
def see(monkeypatch):
    """A function: let torch see so many GPUs."""

    def change(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return change


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
def test_a_device_that_is_not_there(see, debug_cfg, device, gpus, processes, words):
    see(gpus)
    cfg = debug_cfg("MODEL.DEVICE", device)
    if words is None:
        require_device(cfg, *processes)
        return
    with pytest.raises(ConfigError, match=f"^MODEL.DEVICE: '{device}'.*{words}"):
        require_device(cfg, *processes)


def test_no_gpu_is_one_line_before_anything_is_read(see, monkeypatch, refused, debug_cfg, tmp_path, tool):
    see(0)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "no data"))
    line = refused("--num-gpus", 2, "OUTPUT_DIR", tmp_path / "run", "MODEL.DEVICE", "cuda", program=tool)
    assert "MODEL.DEVICE: 'cuda'" in line and not (tmp_path / "run").exists()
    for build in (MOSTrainer.build_model, make_accelerator):  # without the command line too
        with pytest.raises(ConfigError, match=r"MODEL\.DEVICE cpu"):
            build(debug_cfg("MODEL.DEVICE", "cuda", "MODEL.HEADS.NUM_CLASSES", 3))


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


@pytest.mark.parametrize(("device", "wanted"), [("cpu", GLOO), ("cuda", NCCL)])
def test_the_tools_hand_the_device_on(started, tmp_path, tool, device, wanted):
    with pytest.raises(Stop):
        tool("--num-gpus", 2, "OUTPUT_DIR", tmp_path, "MODEL.DEVICE", device)
    assert started == wanted


def test_without_a_named_device_more_processes_than_gpus_are_on_the_cpu(started, see):
    for gpus, wanted in ((2, NCCL), (1, GLOO)):
        see(gpus)
        started.clear()
        with pytest.raises(Stop):
            launch(print, 2)
        assert started == wanted


def test_memory_is_pinned_for_a_gpu_only(see, debug_cfg, tiny_hoss):
    see(1)
    for device in ("cpu", "cuda"):
        loader = build_test_loader(debug_cfg("MODEL.DEVICE", device), HOSS(str(tiny_hoss)).query)
        assert loader.pin_memory == (device == "cuda")
