"""Dumps of generated chips: K samples of each chip of a data set's splits, with a manifest, by one call or several."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from ...data.build import dataset_root
from ...data.listing import Item
from ...errors import ConfigError, MOSError
from ...files import atomic_write
from ...synthetic.manifest import DIRECTIONS, DumpFacts, pipeline_id
from ..loading import load_pipeline
from .folder import DumpFolder
from .generate import ChipGenerator
from .journal import Journal
from .plan import Task, make_tasks, read_sources
from .sampling import DTYPES, SampleSettings, recorded_sar, sampling_scheduler

logger = logging.getLogger("fastreid_mos.bridge")


@dataclass(frozen=True)
class DumpReport:
    """What a call of :func:`dump` did.

    Attributes:
        root: the folder.
        asked: chips that were asked for, of all processes.
        made: chips that this process made.
        seconds: that it took, without loading the pipeline.
        finished: whether the manifest is written; with several processes the last one writes it.
    """

    root: str
    asked: int
    made: int
    seconds: float
    finished: bool

    @property
    def images_per_second(self) -> float:
        """Of this process; 0 when it made none."""
        return self.made / self.seconds if self.made else 0.0


def dump(
    pipeline_folder: str | os.PathLike[str],
    cfg: Any,
    items_by_split: Mapping[str, Sequence[Item]],
    output: str | os.PathLike[str] = "",
    k: int | None = None,
    *,
    steps: int | None = None,
    batch: int | None = None,
    rule: str | None = None,
    eta: float | None = None,
    order: int | None = None,
    spacing: str | None = None,
    clip: bool | None = None,
    seed: int | None = None,
    precision: str | None = None,
    device: str | torch.device | None = None,
    rank: int = 0,
    world: int = 1,
    datasets: Sequence[str] = (),
    command: str = "",
    progress: bool = True,
) -> DumpReport:
    """Generate K chips from each chip of the source modality, into a folder that fused testing reads.

    Killed anywhere and called again it makes only what is missing, and ends in the same chips. So it does when K is
    raised, or when splits are added. A file that is missing or differs from its checksum is named in the log and made
    again. A chip's noise is the same whatever it is made together with, and in single precision on the CPU the chip
    to within a grey level, see :class:`fastreid_mos.bridge.dump.generate.ChipGenerator`.

    Args:
        pipeline_folder: of a trained BrownianBridgePipeline.
        cfg: ``BRIDGE.SAMPLE`` gives what is not given here; ``INPUT.SAR`` and ``BRIDGE.DIRECTION`` must be what the
            pipeline was trained with.
        items_by_split: (path, identity, modality) by "query", "gallery", "train" or "holdout"; chips of the other
            modality are left out.
        output: the folder; by default ``BRIDGE.SAMPLE.OUTPUT`` or else ``OUTPUT_DIR/synthetic``.
        k: samples of each chip; a folder that has more keeps them.
        steps, batch, rule, eta, order, spacing, clip, seed, precision: instead of ``BRIDGE.SAMPLE``.
        device: by default a GPU where there is one.
        rank, world: this process and how many there are; they share the chips out without talking to each other.
        datasets: names, for ``dump.json``.
        command: that makes the dump again, for ``dump.json`` and for messages.
        progress: show a bar with images per second.

    Returns:
        :class:`DumpReport`.

    Raises:
        ChipError: a source that cannot be used; all are opened before anything is generated.
        ConfigError: settings that cannot work, or differ from the pipeline's.
        DatasetError: the folder holds chips of another bridge, of other settings or of sources that have changed
            since, files that are not its own, or a broken manifest.
        MOSError: a pipeline or folder that cannot be used, or another process at work on the same share.
    """
    settings = SampleSettings.from_cfg(
        cfg,
        k=k,
        steps=steps,
        batch=batch,
        rule=rule,
        eta=eta,
        order=order,
        spacing=spacing,
        clip=clip,
        seed=seed,
        precision=precision,
    )
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world} processes: 0..{world - 1} is needed")
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    root = os.fspath(output) or cfg.BRIDGE.SAMPLE.OUTPUT or os.path.join(cfg.OUTPUT_DIR, "synthetic")
    bridge = os.path.expanduser(os.fspath(pipeline_folder))
    pipeline = load_pipeline(bridge, place)
    torch.nn.Module.to(pipeline.unet, DTYPES[settings.precision])  # diffusers' own warns of what does not matter here
    sar = recorded_sar(pipeline.config, cfg)
    scheduler = sampling_scheduler(pipeline, settings)
    images = pipeline.chip_reader()
    folder = DumpFolder(root)
    facts = folder.agree(
        DumpFacts(
            direction=pipeline.config.direction,
            bridge=os.path.abspath(bridge),
            checkpoint=pipeline_id(bridge),
            steps=settings.steps,
            rule=settings.rule,
            eta=float(settings.eta),
            order=settings.order,
            spacing=settings.spacing,
            clip=bool(scheduler.config.clip_sample),
            k=settings.k,
            seed=settings.seed,
            sar=sar,
            size=images.size,
            resize=images.resize,
            precision=str(pipeline.unet.dtype).removeprefix("torch."),
            trained_identities={name: list(pids) for name, pids in pipeline.config.trained_identities.items()},
            datasets=tuple(datasets),
            splits=tuple(items_by_split),
            command=command,
        )
    )
    source, target = DIRECTIONS[facts.direction]
    sources = read_sources(items_by_split, source, dataset_root(), images.channel, folder.rows)
    tasks = make_tasks(sources, facts.k, facts.seed, target, folder.rows)
    mine = folder.missing(tasks, tasks[rank::world])
    seconds, flat = 0.0, []
    if mine:
        folder.make()
        generator = ChipGenerator(pipeline, scheduler, images, source, target, facts.steps, settings.batch)
        started = time.monotonic()
        with Journal(folder.root, rank) as journal, closing(generator.generate(mine)) as chips:
            folder.write_facts(facts)
            for task, pixels in tqdm(chips, total=len(mine), unit="image", desc="chips", disable=not progress):
                _write(folder, journal, facts, task, pixels)
                if (pixels == pixels[0, 0]).all():
                    flat.append(task.output)
        seconds = time.monotonic() - started
    if flat:
        logger.warning(
            f"{folder.root}: {len(flat)} of {len(mine)} chips are of one value, such as {flat[0]}; the bridge has not "
            "learnt enough, or is sampled with settings that it cannot be"
        )
    finished = folder.finish(facts, tasks)
    report = DumpReport(folder.root, len(tasks), len(mine), seconds, finished)
    logger.info(
        f"{folder.root}: {len(tasks)} chips asked for ({facts.k} of each of {len(sources)}), {len(mine)} made now"
        + (f", {report.images_per_second:.2f} images/s" if mine else "")
        + ("" if finished else "; other processes are still at work")
    )
    return report


def _write(folder: DumpFolder, journal: Journal, facts: DumpFacts, task: Task, pixels: Any) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    content = stream.getvalue()
    row = folder.row(facts, task, content)
    try:
        journal.append(row)
        with atomic_write(os.path.join(folder.root, *task.output.split("/")), "wb") as file:
            file.write(content)
    except OSError as error:
        raise MOSError(f"{os.path.join(folder.root, task.output)}: cannot be written ({error.strerror})") from None
