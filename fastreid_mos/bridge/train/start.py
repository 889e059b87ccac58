"""What a bridge starts from: the weights of ``BRIDGE.INIT_FROM`` and a trained autoencoder."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from ...data.transforms import sar_differences
from ...errors import CheckpointError, MOSError, one_line
from ...zoo import zoo_path
from ..autoencoder import load_autoencoder, scaling
from ..dump.generate import sar_record
from ..pipeline import BrownianBridgePipeline, load_pipeline
from .autoencoder import AutoencoderSettings
from .leaks import BridgeData, refuse_test_identities
from .network import SCHEDULER_KEYS, build_scheduler, build_unet

logger = logging.getLogger("fastreid_mos.bridge")


def start_folder(cfg: Any) -> str:
    """The folder that ``BRIDGE.INIT_FROM`` names, which may be ``zoo:<name>``; "" for none."""
    return zoo_path(os.path.expanduser(cfg.BRIDGE.INIT_FROM), bridge=True)


def open_start(cfg: Any, data: BridgeData) -> BrownianBridgePipeline | None:
    """The pipeline of ``BRIDGE.INIT_FROM``, or None; it may not have seen ships that are tested on or set aside."""
    folder = start_folder(cfg)
    if not folder:
        return None
    try:
        start = load_pipeline(folder)
    except MOSError as error:
        inner = os.path.join(folder, "pipeline")
        hint = f"; did you mean {inner}?" if os.path.isdir(inner) else ""
        raise CheckpointError(f"BRIDGE.INIT_FROM: {error}{hint}") from None
    check_start(start, folder, cfg)
    trained = start.config.trained_identities
    refuse_test_identities(trained, data.tests, f"BRIDGE.INIT_FROM: {folder}")
    seen = [group.identity for group in data.held if group.identity in trained.get(group.dataset, ())]
    if seen:
        fault = f"was trained on {len(seen)} identities that TEST.HOLDOUT sets aside here, {seen[0]} first"
        raise CheckpointError(f"BRIDGE.INIT_FROM: {folder}: {fault}; train it with the same TEST.HOLDOUT")
    differing = [f"{one.key} {one.there} (now {one.here})" for one in sar_differences(sar_record(start.config), cfg)]
    if differing:
        logger.warning(f"BRIDGE.INIT_FROM: {folder}: SAR chips were read with {', '.join(differing)}")
    return start


def check_start(start: BrownianBridgePipeline, folder: str, cfg: Any) -> None:
    """Refuse a start that was trained for something else than this config."""
    pairs = {"DIRECTION": (start.config.direction, cfg.BRIDGE.DIRECTION)}
    scheduler = build_scheduler(cfg)  # its config has one spelling of each name
    for key, name in SCHEDULER_KEYS.items():
        pairs[f"SCHEDULER.{key}"] = start.scheduler.config[name], scheduler.config[name]
    differing = [f"BRIDGE.{key} {there} (now {here})" for key, (there, here) in pairs.items() if there != here]
    if differing:
        raise CheckpointError(f"BRIDGE.INIT_FROM: {folder}: was trained with {', '.join(differing)}; use the same here")
    if bool(cfg.BRIDGE.LATENT.PATH or cfg.BRIDGE.LATENT.TRAIN) != (start.vae is not None):
        fault = (
            "works in pixels, this config in latents"
            if start.vae is None
            else "works in latents, this config in pixels"
        )
        raise CheckpointError(f"BRIDGE.INIT_FROM: {folder}: {fault}; BRIDGE.LATENT must agree")


def open_autoencoder(cfg: Any, start: BrownianBridgePipeline | None) -> Any:
    """The trained autoencoder, of ``BRIDGE.LATENT.PATH`` or of the pipeline started from; None: none, or a new one."""
    latent, folder = cfg.BRIDGE.LATENT, start_folder(cfg)
    if latent.PATH:
        vae = load_autoencoder(os.path.expanduser(latent.PATH), latent.NORMALIZE)
    elif latent.TRAIN and start is not None:
        vae = start.vae
        logger.info(f"The autoencoder is that of {folder}, scaling_factor {scaling(vae)[0]:g}")
    else:
        return None
    used = scaling(vae) if latent.NORMALIZE else (1.0, 0.0)
    if start is not None:
        own, other = vae.state_dict(), start.vae.state_dict()
        same = own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
        if used != scaling(start.vae) or not same:
            remedy = f"set PATH to {os.path.join(folder, 'vae')}, TRAIN to False and NORMALIZE to True"
            raise CheckpointError(f"BRIDGE.INIT_FROM: {folder}: works in other latents than BRIDGE.LATENT; {remedy}")
    return vae


def check_network(cfg: Any, vae: Any, start: BrownianBridgePipeline | None) -> None:
    """See that the network can be built and takes the start's weights, before anything is written."""
    with torch.device("meta"):
        if cfg.BRIDGE.LATENT.TRAIN and vae is None:
            vae = AutoencoderSettings.from_cfg(cfg).build()
        unet = build_unet(cfg, vae)
    try:
        if start is not None:
            unet.load_state_dict(start.unet.state_dict(), assign=True)
    except RuntimeError as error:
        fault = f"{cfg.BRIDGE.INIT_FROM}: its network is another ({one_line(error)})"
        remedy = "BRIDGE.UNET and BRIDGE.LATENT must be those it was trained with"
        raise CheckpointError(f"BRIDGE.INIT_FROM: {fault}; {remedy}") from None
