"""fast-reid's ``launch`` for several processes, on GPUs (nccl) or on a CPU (gloo)."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fastreid.utils import comm

from ..errors import MOSError
from .registry import replaces

# The package rebinds the name of its module to the function.
_module = sys.modules["fastreid.engine.launch"]


@replaces(_module, "launch", 'backend="NCCL"', "asserts CUDA and NCCL", of=_module)
def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    device: str | None = None,
) -> None:
    """Run ``main_func(*args)`` once, or in several processes that work together.

    As fast-reid's, and ``device`` is MODEL.DEVICE: on "cuda" each process takes a GPU of its own (nccl), on "cpu" none
    does (gloo); None, as fast-reid's own programs call it, is "cuda" where there are that many GPUs. A ``dist_url`` of
    None or "auto" finds a free port.
    """
    if num_gpus_per_machine < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        given = f"--num-gpus {num_gpus_per_machine} --num-machines {num_machines} --machine-rank {machine_rank}"
        raise MOSError(f"{given}: counts start at 1 and the rank is below the number of machines")
    if dist_url not in (None, "auto") and not str(dist_url).startswith(("tcp://", "file://")):
        raise MOSError(f"--dist-url: auto, tcp://ADDRESS:PORT or file:///PATH, got {dist_url!r}")
    if num_gpus_per_machine * num_machines == 1:
        main_func(*args)
        return
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise MOSError("--dist-url: several machines need the address of the first, such as tcp://10.0.0.1:29500")
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            dist_url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    if device is None:
        device = "cuda" if torch.cuda.device_count() >= num_gpus_per_machine else "cpu"
    with _ending_together():
        arguments = (main_func, args, device, num_gpus_per_machine, num_machines, machine_rank, dist_url)
        mp.spawn(_worker, nprocs=num_gpus_per_machine, args=arguments, daemon=False)


@contextmanager
def _ending_together() -> Iterator[None]:
    """SIGINT and SIGTERM stop the processes started in the block too; left alone, this one would wait for them."""
    others = mp.active_children()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    except KeyboardInterrupt:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        processes = [process for process in mp.active_children() if process not in others]
        posix = os.name == "posix"
        interrupt = (lambda process: os.kill(process.pid, signal.SIGINT)) if posix else mp.Process.terminate
        # Wait first: Ctrl-C has reached them too, and a second one would disturb their cleanup. Kill last: a process
        # that waits for another inside a library reacts to no other signal.
        for end_it, seconds in ((lambda _: None, 1.0), (interrupt, 20.0), (lambda process: process.kill(), 10.0)):
            end = time.monotonic() + seconds
            for process in processes:
                if process.is_alive():
                    end_it(process)
            for process in processes:
                process.join(max(end - time.monotonic(), 0.0))
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(
    local_rank: int, main_func: Any, args: Any, device: str, num_local: int, machines: int, machine: int, dist_url: str
) -> None:
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(local_rank)
    size, rank = num_local * machines, machine * num_local + local_rank
    options: dict[str, Any] = {"init_method": dist_url, "world_size": size, "rank": rank}
    dist.init_process_group(backend="nccl" if on_gpu else "gloo", timeout=timedelta(minutes=30), **options)
    # The local group: processes of this machine. On one machine that is everybody.
    comm._LOCAL_PROCESS_GROUP = dist.group.WORLD
    if machines > 1:
        ranks = [list(range(index * num_local, (index + 1) * num_local)) for index in range(machines)]
        groups = [dist.new_group(own) for own in ranks]  # all processes make all groups
        comm._LOCAL_PROCESS_GROUP = groups[machine]
    try:
        comm.synchronize()
        main_func(*args)
        comm.synchronize()
    except BaseException:
        _leave_groups()
        raise
    if on_gpu:
        _leave_groups()
        return
    # Destroying gloo's groups can deadlock: it waits for gloo's threads while it holds the interpreter's lock, which
    # such a thread needs to finish. All processes are done here (the synchronize above), so this one ends at once.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave_groups() -> None:
    """A group that is still referenced when the interpreter ends takes the process down with it."""
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    gc.collect()  # models in reference cycles hold groups too
    dist.destroy_process_group()
