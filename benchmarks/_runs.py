"""What the benchmarks that train share: whole runs of tools/train_net.py, kept and read again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def machine() -> str:
    """What the figures were measured on, in one line."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    name = platform.processor() or platform.machine()
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            name = next((line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {device}; Python {platform.python_version()}, torch {torch.__version__}"


def simulate(folder: Path, ids: int, seed: int = 0, **settings: Any) -> Path:
    """A simulated HOSS in ``folder``, made now or kept from before; see :func:`fastreid_mos.sim.write_hoss`."""
    from fastreid_mos.sim import write_hoss

    return write_hoss(folder, ids, seed, workers=os.cpu_count() or 1, **settings)


def run(config: str, data: Path, output: Path, *options: Any, eval_only: bool = False) -> dict[str, Any]:
    """One run of ``tools/train_net.py``; a finished one is read, a stopped one is resumed.

    Args:
        config: config file, relative to the repository.
        data: folder that holds HOSS/.
        output: the run's own folder.
        options: KEY VALUE pairs.
        eval_only: test the weights in ``MODEL.WEIGHTS`` instead of training.

    Returns:
        The content of its ``results.json``.

    Raises:
        SystemExit: the run failed; its last lines are printed.
    """
    results, called = output / "results.json", output / "command.json"
    words = [config, str(data), str(eval_only), *map(str, options)]
    if results.is_file() and called.is_file() and json.loads(called.read_text(encoding="utf-8")) == words:
        return dict(json.loads(results.read_text(encoding="utf-8")))
    if eval_only:  # of another command: the tool would keep them and write the new ones beside them
        results.unlink(missing_ok=True)
    flags = ["--eval-only"] if eval_only else ["--resume"]
    _call("tools/train_net.py", ["--config-file", config, *flags], data, output, options)
    called.write_text(json.dumps(words), encoding="utf-8")
    return dict(json.loads(results.read_text(encoding="utf-8")))


def bridge(config: str, data: Path, output: Path, *options: Any, dump_only: bool = False) -> Path:
    """One run of ``tools/train_bbdm.py``, which itself does only what is missing.

    Args:
        config: config file, relative to the repository.
        data: folder that holds HOSS/ (FASTREID_DATASETS).
        output: the run's own folder.
        options: KEY VALUE pairs.
        dump_only: generate chips with the pipeline that is there.

    Returns:
        The pipeline's folder.

    Raises:
        SystemExit: the run failed; its last lines are printed.
    """
    flags = ["--dump-only"] if dump_only else []
    _call("tools/train_bbdm.py", ["--config-file", config, *flags], data, output, options)
    return output / "pipeline"


def _call(tool: str, arguments: Sequence[str], data: Path, output: Path, options: Sequence[Any]) -> None:
    command = [sys.executable, tool, *arguments, "OUTPUT_DIR", str(output), *map(str, options)]
    print(" ".join(command[1:]), flush=True)
    environment = {**os.environ, "FASTREID_DATASETS": str(data)}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if finished.returncode:
        print(finished.stdout[-2000:], finished.stderr[-2000:], sep="\n", file=sys.stderr)
        raise SystemExit(f"{' '.join(command)} ended with status {finished.returncode}")
