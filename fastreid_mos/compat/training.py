"""Repairs of fast-reid's training side: mixed precision and DDP on a CPU, cosine schedule, backbones' yaml files."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine import defaults
from fastreid.engine.train_loop import AMPTrainer, ContiguousParams
from fastreid.modeling.backbones.regnet import effnet, regnet
from fastreid.solver import build

from .registry import record, replaces, source_has

_build_optimizer, _build_lr_scheduler = build.build_optimizer, build.build_lr_scheduler
_amp_init, _load_yaml = AMPTrainer.__init__, CfgNode.load_yaml_with_base


def autocast_dtype(device_type: str, name: str = "auto") -> torch.dtype:
    """The number format of mixed precision on a device: what ``SOLVER.AMP.DTYPE`` names, or the device's usual one."""
    if name == "auto":
        return torch.float16 if device_type == "cuda" else torch.bfloat16
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]


_DROPPED = "since torch 2.0 zero_grad() drops the one gradient buffer the optimizer holds: no weight ever changes"
_UNSEEN = "counts the frozen steps where no checkpoint sees them: a resumed run freezes its layers again"
_AMP = "asserts CUDA; PyTorch's autocast also works on a CPU (bfloat16)"


@replaces(build, "build_optimizer", "ContiguousParams(params)", _DROPPED)
def build_optimizer(cfg: Any, model: torch.nn.Module, contiguous: bool = True) -> Any:
    optimizer, wrapper = _build_optimizer(cfg, model, contiguous)
    zero_grad = optimizer.zero_grad
    if contiguous:
        # The parameters' gradients are views of this buffer: it is filled with zeros, not replaced.
        optimizer.zero_grad = lambda set_to_none=False: zero_grad(set_to_none=False)
    return optimizer, wrapper


@replaces(build, "_generate_optimizer_class_with_freeze_layer", "nonlocal cnt", _UNSEEN)
def with_frozen_layers(optimizer: Any, *, freeze_iters: int = 0) -> Any:
    def step(self: Any, closure: Any = None) -> Any:
        first = self.param_groups[0]  # part of the optimizer's state
        done, held = first.get("frozen_steps", 0), {}
        if done < freeze_iters:
            first["frozen_steps"] = done + 1
            frozen = [group["params"] for group in self.param_groups if group["freeze_status"] == "freeze"]
            held = {parameter: parameter.grad for parameters in frozen for parameter in parameters}
        for parameter in held:
            parameter.grad = None
        loss = optimizer.step(self, closure)
        for parameter, gradient in held.items():
            parameter.grad = gradient
        return loss

    return type(f"{optimizer.__name__}WithFreezeLayer", (optimizer,), {"step": torch.no_grad()(step)})


@replaces(AMPTrainer, "__init__", "from torch.cuda.amp import GradScaler", _AMP)
def amp_init(self: Any, model: Any, loader: Any, optimizer: Any, param_wrapper: Any, grad_scaler: Any = None) -> None:
    self.device_type = next(model.parameters()).device.type
    # bfloat16 has float32's range: scaling would only add a way to fail.
    enabled = autocast_dtype(self.device_type) is torch.float16
    scaler = grad_scaler or torch.amp.GradScaler(self.device_type, enabled=enabled)
    _amp_init(self, model, loader, optimizer, param_wrapper, scaler)


@replaces(AMPTrainer, "run_step", "CUDA is required for AMP training", _AMP)
def amp_step(self: Any) -> None:
    assert self.model.training, "[AMPTrainer] model was changed to eval mode!"
    start = time.perf_counter()
    data = next(self._data_loader_iter)
    data_time = time.perf_counter() - start
    with torch.autocast(self.device_type, dtype=autocast_dtype(self.device_type)):
        loss_dict = self.model(data)
        losses = sum(loss_dict.values())
    self.optimizer.zero_grad()
    self.grad_scaler.scale(losses).backward()
    self._write_metrics(loss_dict, data_time)
    self.grad_scaler.step(self.optimizer)
    self.grad_scaler.update()
    if isinstance(self.param_wrapper, ContiguousParams):
        self.param_wrapper.assert_buffer_is_valid()


class PortableDDP(torch.nn.parallel.DistributedDataParallel):
    """PyTorch's, without device numbers for a model on the CPU."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


_GPU_NUMBER = source_has(defaults.DefaultTrainer.__init__, "device_ids=[comm.get_local_rank()]")
if record("DistributedDataParallel", "is given a GPU number also when the model is on the CPU", _GPU_NUMBER):
    defaults.DistributedDataParallel = PortableDDP


@replaces(build, "build_lr_scheduler", '"T_max": max_epoch,', "a cosine over 0 epochs, all warm-up, divides by zero")
def build_lr_scheduler(cfg: Any, optimizer: Any, iters_per_epoch: int) -> Any:
    warmup_epochs = -(-cfg.SOLVER.WARMUP_ITERS // max(iters_per_epoch, 1))
    least = max(warmup_epochs, cfg.SOLVER.DELAY_EPOCHS) + 1
    if cfg.SOLVER.MAX_EPOCH < least:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.MAX_EPOCH = least
    return _build_lr_scheduler(cfg, optimizer, max(iters_per_epoch, 1))


def _merge_from_package(node: Any) -> None:
    merge = node.merge_from_file
    package = os.path.dirname(os.path.dirname(os.path.dirname(defaults.__file__)))

    def merge_from_file(cfg_filename: str) -> Any:
        inside = os.path.join(package, cfg_filename)
        return merge(inside if not os.path.isfile(cfg_filename) and os.path.isfile(inside) else cfg_filename)

    # These are plain yacs nodes, shared class and all: the repair goes on the object, past yacs's type checks.
    object.__setattr__(node, "merge_from_file", merge_from_file)


_RELATIVE = source_has(regnet.build_regnet_backbone, "'fastreid/modeling/backbones/regnet/")
if record("RegNet and EffNet yaml", "their paths are relative to the working directory", _RELATIVE):
    _merge_from_package(regnet.regnet_cfg)
    _merge_from_package(effnet.effnet_cfg)


@replaces(CfgNode, "load_yaml_with_base", "unsafe_load", "with allow_unsafe it runs Python found in a config file")
def load_yaml_with_base(filename: str, allow_unsafe: bool = False) -> Any:
    return _load_yaml(filename, allow_unsafe=False)
