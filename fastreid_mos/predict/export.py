"""A trained model as one file, or a bridge's folder, in half precision."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..compat.checkpoints import EXPORT, EXPORT_VERSION, saved_config
from ..config import get_cfg, merge_values
from ..data.datasets import HOSS, join_items, open_training
from ..data.holdout import Split, hold_out
from ..data.listing import Item
from ..engine.ensemble import load_whole
from ..engine.rebuilding import keys_to_export, rebuilding_config
from ..errors import CheckpointError, DatasetError, MOSError
from ..files import atomic_write, whole_folder, write_bytes
from ..modeling import build_checked_model
from ..modeling.heads import classifier_weights
from .calibration import FEWEST, Calibration
from .predictor import Predictor

HELD_OUT, TRAINING, INDEX = "holdout", "train:", "model_index.json"


def export_weights(checkpoint: str, output: str, calibrate: str | Sequence[str] = ()) -> dict[str, Any]:
    """Write what a checkpoint of ``tools/train_net.py`` needs to be used, without its classifier and optimizer.

    Args:
        output: a new file that ends in ``.safetensors``; its tensors are as of :func:`halved`, and its metadata holds
            the config, the calibration and facts.
        calibrate: the ships from which :meth:`Predictor.same` is calibrated: ``holdout``, those that the run held out
            (``TEST.HOLDOUT``) of the data sets it was trained on; a folder with a HOSS, its test ships; or
            ``train:<folder>``, its training ships, none of which the weights were trained on. Several are as heavy as
            each other. Without any the calibration of an exported file is kept.

    Returns:
        The facts in the file.

    Raises:
        MOSError: a checkpoint that cannot be used, an output of another ending or one that cannot be written, or ships
            that cannot be calibrated on.
    """
    if not output.endswith(".safetensors"):
        raise MOSError(f"{output}: must end in .safetensors")
    cfg, content = rebuilding_config(checkpoint)
    ships = calibration_ships(calibrate, checkpoint, content)
    model = build_checked_model(cfg)
    load_whole(model, checkpoint)
    unused = classifier_weights(model)
    tensors = {name: halved(value) for name, value in content["model"].items() if name not in unused}
    saved = saved_config(content)
    facts = dict(content.get("facts", {}))
    if isinstance(content.get("epoch"), int):
        facts["epochs"] = content["epoch"] + 1
    metadata = {EXPORT: EXPORT_VERSION, "format": "pt", "config": json.dumps(keys_to_export(saved))}
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "weights.safetensors")
        write_bytes(file, save(tensors, metadata))
        predictor = Predictor(file, device="cpu")  # also the proof that the file can be used
        calibration = Calibration.from_file(checkpoint, content.get("calibration"))
        if ships:
            calibration = calibrated(predictor, ships)
        if calibration.curves:
            metadata["calibration"] = json.dumps(dataclasses.asdict(calibration))
    write_bytes(output, save(tensors, {**metadata, "facts": json.dumps(facts)}))
    return {**facts, "dim": predictor.dim, "calibration": dict(calibration.facts)}


def calibration_ships(
    calibrate: str | Sequence[str], checkpoint: str, content: Mapping[str, Any]
) -> list[tuple[list[Item], str]]:
    """Chips of the ships that ``calibrate`` of :func:`export_weights` names, and where they are from; else a MOSError.

    Args:
        checkpoint, content: the file of weights that tells which ships were held out, and what was read from it.
    """
    found = []
    for word in [calibrate] if calibrate and isinstance(calibrate, str) else calibrate:
        if word == HELD_OUT:
            found.append(held_out_items(checkpoint, content, saved_config(content)))
        else:
            found.append(listed_items(word))
            expect_untrained(checkpoint, content, found[-1][0], f"--calibrate {word}")
    return found


def calibrated(predictor: Predictor, ships: Sequence[tuple[Sequence[Item], str]]) -> Calibration:
    """The calibration of a predictor on :func:`calibration_ships`; a MOSError where they have too few chips."""
    sets = []
    for items, _ in ships:
        paths, identities, modalities = zip(*items, strict=True)
        features = predictor.extract(paths, [int(one) for one in modalities])
        sets.append((features, identities, modalities))
    source = " and ".join(name for _, name in ships)
    calibration = Calibration.fit(sets, source)
    if not calibration.curves:
        counts = ", ".join(f"{name} {same} and {other}" for name, (same, other) in calibration.facts["pairs"].items())
        needed = f"{FEWEST} of each are needed, so give more ships"
        raise MOSError(f"--calibrate: {source}: too few pairs of one ship and of two ({counts}); {needed}")
    return calibration


def export_bridge(folder: str, output: str, replace: bool = False, trained_on: str = "") -> None:
    """Write a bridge's pipeline folder again with its weights in half precision; a MOSError where it cannot be.

    ``trained_on`` comes before the names of the data sets that it was trained on: the identities of a simulated HOSS
    are not those of HOSS, on which a bridge is not tested or trained further if it has seen them.
    """
    from ..bridge.pipeline import load_pipeline  # needs diffusers

    load_pipeline(folder)
    with whole_folder(output, last=INDEX if replace else "") as target:
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        for root, _, names in os.walk(target):
            for path in (os.path.join(root, name) for name in names if name.endswith(".safetensors")):
                with safe_open(path, framework="pt") as file:
                    tensors = {name: halved(file.get_tensor(name)) for name in file.keys()}
                    metadata = file.metadata()
                write_bytes(path, save(tensors, metadata or {}))
        index = os.path.join(target, INDEX)
        with open(index, encoding="utf-8") as stream:
            content = json.load(stream)
        identities = content.get("trained_identities") or {}
        content["trained_identities"] = {f"{trained_on} {name}".strip(): pids for name, pids in identities.items()}
        with atomic_write(index) as stream:
            json.dump(content, stream, indent=2)
        load_pipeline(target)


def halved(value: Tensor) -> Tensor:
    """A tensor in float16; unchanged if its numbers are whole, or too large for that."""
    half = value.to(torch.float16) if value.is_floating_point() else value
    return (half if bool(torch.isfinite(half).all()) else value).contiguous()


def held_out_items(
    path: str, checkpoint: Mapping[str, Any], saved: Mapping[str, Any], option: str = "--calibrate"
) -> tuple[list[Item], str]:
    """The chips that the run held out, and where they are from; a MOSError about ``option`` for a run without."""
    cfg = _data_config(saved)
    if cfg.TEST.HOLDOUT.FRACTION <= 0:
        what = "its run held out no ships (TEST.HOLDOUT.FRACTION 0)"
        raise MOSError(f"{option} {HELD_OUT}: {path}: {what}; name a folder with a HOSS/ instead")
    _, splits = _training(path, checkpoint, cfg)
    items = sorted({item for part in splits[0] for item in part})
    return items, f"ships that the training held out of {', '.join(cfg.DATASETS.NAMES)}"


def expect_untrained(path: str, checkpoint: Any, items: Sequence[Item], option: str) -> None:
    """Refuse chips that the run was trained on, by their files; nothing is known where its data are not here.

    Raises:
        MOSError: the message begins with ``option``.
    """
    saved = saved_config(checkpoint)
    if "DATASETS.NAMES" not in saved:  # exported
        return
    try:
        kept, _ = _training(path, checkpoint, _data_config(saved))
    except MOSError:
        return
    trained = {os.path.realpath(file) for file, *_ in kept}
    if seen := [file for file, *_ in items if os.path.realpath(file) in trained]:
        what = f"{path} was trained on {len(seen)} of these {len(items)} chips, such as {seen[0]}"
        raise MOSError(f"{option}: {what}; give {HELD_OUT}, or ships that it has not seen")


def _data_config(saved: Mapping[str, Any]) -> Any:
    cfg = get_cfg()
    merge_values(cfg, {key: value for key, value in saved.items() if key.startswith(("DATASETS.", "TEST.HOLDOUT."))})
    return cfg


def _training(path: str, checkpoint: Mapping[str, Any], cfg: Any) -> tuple[list[Item], list[Split]]:
    """What the run was trained on, and the splits of what it held out; a MOSError where that is not here."""
    kept, splits = hold_out(cfg, join_items(dataset.train for dataset in open_training(cfg)))
    trained, ships = checkpoint.get("num_classes"), len({pid for _, pid, _ in kept})
    if trained not in (None, ships):
        what = f"was trained on {trained} ships, and without its held-out ones {ships} are here"
        raise CheckpointError(f"{path}: {what}; set FASTREID_DATASETS to the data of its training")
    return kept, splits


def listed_items(word: str, option: str = "--calibrate") -> tuple[list[Item], str]:
    """The test chips of a folder with a HOSS, each once, or of ``train:<folder>`` the training chips; and a name."""
    folder = word.removeprefix(TRAINING)
    try:
        dataset = HOSS(root=folder)
    except DatasetError:
        what = "holds no HOSS/ with bounding_box_train/, query/ and bounding_box_test/"
        raise MOSError(f"{option} {folder}: {what}") from None
    trained = word.startswith(TRAINING)
    items = sorted({*dataset.train} if trained else {*dataset.query, *dataset.gallery})
    if not items:
        splits = "bounding_box_train/ holds" if trained else "query/ and bounding_box_test/ hold"
        raise MOSError(f"{option} {word}: its {splits} no chips")
    return items, f"{'training' if trained else 'test'} ships of {os.path.basename(os.path.abspath(folder))}"
