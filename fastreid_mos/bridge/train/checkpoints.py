"""Checkpoints of a bridge's training: accelerate's state, written whole, and what a resumed run must agree with."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from accelerate.utils import broadcast_object_list

from ...compat.checkpoints import saved_config
from ...config import get_cfg
from ...errors import CheckpointError
from ...files import whole_folder

STATE = "state.json"
_NAME = re.compile(r"step_([0-9]+)")
_VERSION = 1
# Keys that rule what the weights become; of a node, all keys under it.
_BOUND = (
    "SEED",
    "BRIDGE.DIRECTION",
    "BRIDGE.SIZE",
    "BRIDGE.RESIZE",
    "BRIDGE.DATA.",
    "BRIDGE.SCHEDULER.",
    "BRIDGE.UNET.",
    "BRIDGE.LATENT.",
    "BRIDGE.SOLVER.",
    "BRIDGE.INIT_FROM",
    "INPUT.SAR.TRANSFORM",
    "INPUT.SAR.LOW_PERCENTILE",
    "INPUT.SAR.HIGH_PERCENTILE",
    "INPUT.SAR.CHANNEL",
    "TEST.HOLDOUT.FRACTION",
    "TEST.HOLDOUT.SEED",
)
_FREE = (
    "BRIDGE.SOLVER.CHECKPOINT_PERIOD",
    "BRIDGE.SOLVER.KEEP_CHECKPOINTS",
    "BRIDGE.SOLVER.SAMPLE_PERIOD",
    "BRIDGE.DATA.NAMES",  # where they lie; the pairs themselves are compared
)


def bound_config(cfg: Any) -> dict[str, Any]:
    """The settings that rule what a bridge's weights become, by key; the same wherever its data lie."""
    values = saved_config({"config": cfg.dump()})
    bound = {key: value for key, value in values.items() if key.startswith(_BOUND) and not key.startswith(_FREE)}
    for key in ("BRIDGE.INIT_FROM", "BRIDGE.LATENT.PATH"):
        if bound[key] and os.path.exists(os.path.expanduser(bound[key])):
            bound[key] = os.path.realpath(os.path.expanduser(bound[key]))
    return bound


def _unused(cfg: Any) -> tuple[str, ...]:
    """Keys that rule nothing in a run of this config; of a node, all keys under it."""
    latent, unused = cfg.BRIDGE.LATENT, []
    if not latent.TRAIN or cfg.BRIDGE.INIT_FROM:  # no autoencoder is made
        unused += [f"BRIDGE.LATENT.{key}" for key in latent if key not in ("PATH", "TRAIN", "NORMALIZE")]
    if not (latent.PATH or latent.TRAIN):
        unused.append("BRIDGE.LATENT.NORMALIZE")
    if cfg.BRIDGE.SOLVER.SCHED != "plateau":
        unused.append("BRIDGE.SOLVER.PLATEAU.")
    return tuple(unused)


def check_agrees(path: str, state: Mapping[str, Any], cfg: Any, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with another config, other pairs or another number of processes than the run began with.

    More ``STEPS`` than before are no difference where the rate does not look at them: the steps done are the same. Nor
    are keys that rule nothing here. A key that the checkpoint does not know had its default.

    Args:
        path: the checkpoint, for the message.
        state: what :func:`read_state` gave.
        cfg: this run's config.
        facts: this run's facts: processes, pairs.

    Raises:
        CheckpointError: one line with what differs.
    """
    there, here = {**bound_config(get_cfg()), **state["config"]}, bound_config(cfg)
    differing = [key for key in sorted(here) if there[key] != here[key] and not key.startswith(_unused(cfg))]
    if cfg.BRIDGE.SOLVER.SCHED != "cosine" and cfg.BRIDGE.SOLVER.STEPS >= state["step"]:
        differing = [key for key in differing if key != "BRIDGE.SOLVER.STEPS"]
    listed = [f"{key} {there[key]} (now {here[key]})" for key in differing]
    listed += [
        f"{name} {state['facts'][name]} (now {value})"
        for name, value in facts.items()
        if state["facts"].get(name, value) != value
    ]
    if listed:
        more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
        raise CheckpointError(
            f"{path}: was trained with other settings or data: {', '.join(listed[:6])}{more}; go on with those of the "
            "first run, or start anew in another OUTPUT_DIR"
        )


class Checkpoints:
    """``checkpoints/step_<n>/`` in a folder: the newest is what a run goes on from.

    Args:
        folder: OUTPUT_DIR/checkpoints.
        keep: how many stay.
        accelerator: accelerate's Accelerator, with everything that has a state prepared or registered.
    """

    def __init__(self, folder: str, keep: int, accelerator: Any) -> None:
        self.folder = folder
        self.keep = keep
        self.accelerator = accelerator

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write ``step_<step>``, whole or not at all, and remove the oldest beyond ``keep``. All processes call it.

        Args:
            step: steps of the optimizer done.
            state: what goes into ``state.json`` beside the step.

        Raises:
            MOSError: the folder cannot be written.
        """
        target = os.path.join(self.folder, f"step_{step}")
        if os.path.isdir(target):
            return
        accelerator = self.accelerator
        with ExitStack() as stack:
            where: list[Any] = [None]
            if accelerator.is_main_process:
                where = [stack.enter_context(whole_folder(target))]
            if accelerator.num_processes > 1:
                broadcast_object_list(where)
            accelerator.save_state(where[0])
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                with open(os.path.join(where[0], STATE), "w", encoding="utf-8") as stream:
                    json.dump({"version": _VERSION, "step": step, **state}, stream, indent=1)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for old in saved_steps(self.folder)[: -self.keep]:
                _remove(os.path.join(self.folder, f"step_{old}"))

    def load(self, path: str) -> None:
        """Put the state of a checkpoint into what is prepared and registered.

        Raises:
            CheckpointError: a file that is missing or damaged, or of another network.
        """
        try:
            self.accelerator.load_state(path)
        except Exception as error:  # accelerate, torch and safetensors raise what they like on damaged files
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"{path}: cannot be gone on from ({reason}); remove this folder to go on from the checkpoint before it"
            ) from None


def saved_steps(folder: str) -> list[int]:
    """Steps of the checkpoints in a folder, in rising order."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match and os.path.isdir(os.path.join(folder, match[0])))


def read_state(path: str) -> dict[str, Any]:
    """``state.json`` of a checkpoint or of a finished run.

    Raises:
        CheckpointError: it is missing or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            state = json.load(stream)
        numbers = type(state["step"]) is int and type(state["seed"]) is int
        if not (numbers and isinstance(state["config"], dict) and isinstance(state["facts"], dict)):
            raise ValueError("it holds something else")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no state of a bridge's training"
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove its folder, or restore it") from None
    return dict(state)


def _remove(folder: str) -> None:
    """Remove a checkpoint; its name goes first, so that a kill leaves no half of one that looks whole."""
    parent, name = os.path.split(folder)
    gone = os.path.join(parent, f".{name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.rename(folder, gone)
    except OSError:
        return
    shutil.rmtree(gone, ignore_errors=True)
