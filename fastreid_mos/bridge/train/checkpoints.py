"""Checkpoints of a bridge's training: accelerate's state, written whole, and where a call resumes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ...compat.checkpoints import saved_config
from ...config import get_cfg
from ...errors import CheckpointError, MOSError, one_line
from ...files import whole_folder

CHECKPOINTS, PIPELINE, AUTOENCODER = "checkpoints", "pipeline", "autoencoder"
STATE, FINISHED, CONFIG, LOSSES = "state.json", "finished.json", "bbdm.yaml", "metrics.json"
# What runs of the re-identifier leave in OUTPUT_DIR.
_OTHERS = ("last_checkpoint", "model_final.pth", "results.json", "config.yaml", "eval_config.yaml", LOSSES)
# Keys, or their beginnings, that rule what the weights become, and those of them that do not. Of the data, the pairs
# themselves are compared, wherever they lie.
_BOUND = ("SEED", "BRIDGE.", "INPUT.SAR.", "TEST.HOLDOUT.")
_FREE = ("BRIDGE.SAMPLE.", "BRIDGE.DATA.NAMES", "BRIDGE.SOLVER.CHECKPOINT_PERIOD", "BRIDGE.SOLVER.KEEP_CHECKPOINTS",
         "BRIDGE.SOLVER.SAMPLE_PERIOD", "INPUT.SAR.CACHE", "TEST.HOLDOUT.SPLITS")  # fmt: skip


class ResumePoint(NamedTuple):
    """What an earlier call has left: steps done, the seed it drew, its newest checkpoint, and whether it finished."""

    step: int = 0
    seed: int | None = None
    checkpoint: str | None = None
    finished: bool = False


def resume_point(cfg: Any, facts: Mapping[str, Any]) -> ResumePoint:
    """What an earlier call has left in ``OUTPUT_DIR``; refused if it is not this run, of these processes and pairs."""
    output, steps = cfg.OUTPUT_DIR, cfg.BRIDGE.SOLVER.STEPS
    folder, pipeline, finished, config = (os.path.join(output, n) for n in (CHECKPOINTS, PIPELINE, FINISHED, CONFIG))
    others = [name for name in _OTHERS if os.path.lexists(os.path.join(output, name))]
    if others and not os.path.isfile(config):
        raise MOSError(f"OUTPUT_DIR {output}: holds another run ({others[0]}); set OUTPUT_DIR to a folder of its own")
    saved = saved_steps(folder)
    if os.path.isfile(finished) and os.path.isfile(os.path.join(pipeline, "model_index.json")):
        state = _read_state(finished)
        _check_agrees(finished, state, cfg, {"pairs": facts["pairs"]})  # the processes no longer matter
        if state["step"] == steps:
            return ResumePoint(steps, finished=True)
        if not saved:
            fault = f"trained for {state['step']} steps, and its checkpoints are gone"
            raise CheckpointError(f"{output}: {fault}; start from it in another OUTPUT_DIR: --init-from {pipeline}")
    if not saved:
        if os.path.isdir(pipeline) and os.listdir(pipeline):
            raise MOSError(f"{pipeline}: is there already, and no run of this OUTPUT_DIR made it; set another")
        return ResumePoint()
    newest = os.path.join(folder, f"step_{saved[-1]}")
    state = _read_state(os.path.join(newest, STATE))
    _check_agrees(newest, state, cfg, facts)
    return ResumePoint(state["step"], state["seed"], newest)


def bound_config(cfg: Any) -> dict[str, Any]:
    """The settings that rule what a bridge's weights become, by key; the same wherever its data lie."""
    values = saved_config({"config": cfg.dump()})
    bound = {key: value for key, value in values.items() if key.startswith(_BOUND) and not key.startswith(_FREE)}
    for key in ("BRIDGE.INIT_FROM", "BRIDGE.LATENT.PATH"):
        path = os.path.expanduser(bound[key])
        if os.path.exists(path):
            bound[key] = os.path.realpath(path)
    return bound


def _check_agrees(path: str, state: Mapping[str, Any], cfg: Any, facts: Mapping[str, Any]) -> None:
    """Refuse to resume with another config, other pairs or another number of processes."""
    latent, solver, unused = cfg.BRIDGE.LATENT, cfg.BRIDGE.SOLVER, []  # keys, or their beginnings, that rule nothing
    if not latent.TRAIN or cfg.BRIDGE.INIT_FROM:  # no autoencoder is trained
        unused += [f"BRIDGE.LATENT.{key}" for key in latent if key not in ("PATH", "TRAIN", "NORMALIZE")]
    unused += [] if latent.PATH or latent.TRAIN else ["BRIDGE.LATENT.NORMALIZE"]
    unused += [] if solver.SCHED == "plateau" else ["BRIDGE.SOLVER.PLATEAU."]
    if solver.SCHED != "cosine" and solver.STEPS >= state["step"]:
        unused += ["BRIDGE.SOLVER.STEPS"]  # the rate does not depend on them
    bound = sorted(bound_config(cfg).items())
    here = {key: value for key, value in bound if not key.startswith(tuple(unused))} | dict(facts)
    # A key that the checkpoint does not know had its default.
    there = {**facts, **bound_config(get_cfg()), **state["config"], **state["facts"]}
    differing = [f"{key} {there[key]} (now {value})" for key, value in here.items() if there[key] != value]
    if differing:
        fault = f"was trained with other settings or data: {', '.join(differing)}"
        raise CheckpointError(f"{path}: {fault}; resume with those of the first run, or set another OUTPUT_DIR")


def _read_state(path: str) -> dict[str, Any]:
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        kinds = {"step": int, "seed": int, "config": dict, "facts": dict}
        return {name: kind(state[name]) for name, kind in kinds.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)}); remove its folder, or restore it") from None


def saved_steps(folder: str) -> list[int]:
    """Steps of the checkpoints in a folder, in rising order."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch("step_[0-9]+", name))


def save_checkpoint(accelerator: Accelerator, folder: str, step: int, record: Mapping[str, Any], keep: int) -> None:
    """Write ``step_<step>``, whole or not at all, and remove the oldest beyond ``keep``. All processes call it."""
    target = os.path.join(folder, f"step_{step}")
    if os.path.isdir(target):
        return
    main = accelerator.is_main_process
    with whole_folder(target) if main else nullcontext("") as temporary:
        temporary = broadcast_object_list([temporary])[0]
        accelerator.save_state(temporary)
        accelerator.wait_for_everyone()
        if main:
            with open(os.path.join(temporary, STATE), "w", encoding="utf-8") as stream:
                json.dump({"version": 1, "step": step, **record}, stream, indent=1)
    accelerator.wait_for_everyone()
    if main:
        for old in saved_steps(folder)[:-keep]:
            # Renamed first: a kill leaves no half of one under its name.
            gone = os.path.join(folder, f".step_{old}.removed")
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(os.path.join(folder, f"step_{old}"), gone)
            shutil.rmtree(gone, ignore_errors=True)


def load_checkpoint(accelerator: Accelerator, path: str) -> None:
    """Put the state of a checkpoint into what is prepared and registered."""
    try:
        accelerator.load_state(path)
    except Exception as error:  # accelerate, torch and safetensors raise what they like on damaged files
        reason = one_line(error)
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove it to resume from the one before") from None
