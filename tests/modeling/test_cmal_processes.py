"""Gathered CMAL over two processes: loss and averaged gradient are those of one process with the whole batch."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastreid_mos.modeling import cmal_loss


def batch():
    generator = torch.Generator().manual_seed(3)
    # The two modalities of an identity lie in different halves: only the gathered loss sees them together.
    return (
        torch.randn(16, 6, generator=generator),
        torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 0, 0, 1, 1, 2, 2, 3, 3]),
        torch.tensor([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1]),
    )


def model():
    torch.manual_seed(1)
    return nn.Linear(6, 5)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half = slice(8 * rank, 8 * rank + 8)
    images, targets, modalities = (part[half] for part in batch())
    result = {}
    for gather in (True, False):
        net = DistributedDataParallel(model())
        loss = cmal_loss(net(images), targets, modalities, 1.0, 0.5, gather=gather)
        loss.backward()
        result[gather] = (loss.detach(), net.module.weight.grad, net.module.bias.grad)
    torch.save(result, os.path.join(folder, f"{rank}.pth"))
    dist.barrier()
    # Taking the group apart can wait for ever for gloo's threads (see compat/launching.py).
    os._exit(0)


def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2, join=True)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))

    whole = model()
    images, targets, modalities = batch()
    loss = cmal_loss(whole(images), targets, modalities, 1.0, 0.5)
    loss.backward()
    assert loss.item() > 0.1
    for loss_there, weight, bias in (first[True], second[True]):
        torch.testing.assert_close(loss_there, loss.detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(weight, whole.weight.grad, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(bias, whole.bias.grad, atol=1e-6, rtol=1e-5)

    # Per process (the default): each one's own half, gradients averaged by DDP.
    halves = [
        cmal_loss(whole(images[part]), targets[part], modalities[part], 1.0, 0.5) for part in (slice(8), slice(8, 16))
    ]
    own = torch.autograd.grad(sum(halves) / 2, whole.weight)[0]
    for rank, outcome in enumerate((first, second)):
        torch.testing.assert_close(outcome[False][0], halves[rank].detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(outcome[False][1], own, atol=1e-6, rtol=1e-5)
