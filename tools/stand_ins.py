"""What stands in for a bridge's chips in a table: the same folder with other pixels in it.

    perfect    further passes of the simulator of the same ship: what a perfect generator would give
    grey       the source chip itself, in grey
    other      what the bridge generated from another ship of the split

The first is the ceiling of a table of generated chips; the others say what a generated chip owes to its pixels. They
are brought to the bridge's size and read as its targets are, so that the pixels are all that differs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from fastreid_mos import get_cfg
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.data import ChipReader
from fastreid_mos.data.transforms import SAR_KEYS
from fastreid_mos.errors import DatasetError
from fastreid_mos.files import atomic_write, file_sha256
from fastreid_mos.sim.further import further_pass, read_plan
from fastreid_mos.sim.writer import MANIFEST as SIMULATED
from fastreid_mos.sim.writer import ChipPlan, SimConfig, encode
from fastreid_mos.synthetic.folder import GeneratedSet, open_generated
from fastreid_mos.synthetic.manifest import (
    MANIFEST,
    ChipRecord,
    DumpFacts,
    read_facts,
    write_facts,
    write_manifest,
)

STAND_INS = ("perfect", "grey", "other")
FEW = 100  # passes, for which it is not worth it to start a process
Draw = Callable[[ChipRecord, Path], object]  # writes what stands in for a generated chip


def is_simulated(data: Path) -> bool:
    """Whether a perfect generator's chips can be drawn for the data set."""
    return (data / SIMULATED).is_file()


def stand_in(kind: str, dump: Path, data: Path, folder: Path, workers: int = 1) -> Path:
    """``folder``, with chips of one of ``STAND_INS`` for all of a dump's; kept if it holds them already.

    Args:
        data: the folder of data sets that the dump's sources are in.
        workers: processes that draw passes.
    """
    made = open_generated(dump)
    facts = replace(made.facts, rule=kind)  # results.json says what was fused
    records = [replace(record, rule=kind) for record in made.records]
    if _holds(folder, facts, records):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        draw = {"perfect": _perfect, "grey": _grey, "other": _other}[kind](made, data, Path(scratch), workers)
        for number, record in enumerate(records):
            path = folder / record.output
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(record, path)
            records[number] = replace(record, output_sha256=file_sha256(path)).sealed(facts)
    write_facts(folder, facts)
    write_manifest(folder, records)
    return folder


def _holds(folder: Path, facts: DumpFacts, records: Iterable[ChipRecord]) -> bool:
    if not (folder / MANIFEST).is_file() or read_facts(folder) != facts:
        return False
    there = {(one.key, one.source_sha256) for one in open_generated(folder).records}
    return there == {(one.key, one.source_sha256) for one in records}


def _images(facts: DumpFacts) -> BridgeImages:
    """Chips as the dump's bridge reads and resizes them."""
    cfg = get_cfg()
    for name, key in SAR_KEYS.items():
        cfg.INPUT.SAR[key] = facts.sar[name]
    reader = ChipReader.from_cfg(cfg)
    return BridgeImages(facts.size, reader.sar_transform, facts.resize, reader.channel)


def _perfect(made: GeneratedSet, data: Path, scratch: Path, workers: int) -> Draw:
    images, target = _images(made.facts), made.facts.modalities[1]
    config, chips = read_plan(data)
    passes = {record.key: scratch / f"{number}.tif" for number, record in enumerate(made.records)}
    try:
        jobs = [(config, chips[one.source], one.sample, target, passes[one.key]) for one in made.records]
    except KeyError as error:
        raise DatasetError(f"{data}: {error} is not among its simulated chips, so its ship cannot be drawn") from None
    if min(workers, len(jobs) // FEW) <= 1:
        list(map(_draw_pass, jobs))
    else:  # not fork: the caller may have threads
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_draw_pass, jobs, chunksize=24))

    def draw(record: ChipRecord, path: Path) -> None:
        pixels = images.read(str(passes[record.key]), target)
        Image.fromarray(pixels[..., 0] if target else pixels).save(path)

    return draw


def _draw_pass(job: tuple[SimConfig, ChipPlan, int, int, Path]) -> None:
    import cv2

    cv2.setNumThreads(1)
    *what, path = job
    with atomic_write(path, "wb") as stream:
        stream.write(encode(further_pass(*what)))


def _grey(made: GeneratedSet, data: Path, scratch: Path, workers: int) -> Draw:
    images, source = _images(made.facts), made.facts.modalities[0]

    def draw(record: ChipRecord, path: Path) -> None:
        pixels = images.read(os.path.join(data, record.source), source)
        Image.fromarray(pixels).convert("L").save(path)

    return draw


def _other(made: GeneratedSet, data: Path, scratch: Path, workers: int) -> Draw:
    alike: dict[tuple[str, int], list[ChipRecord]] = {}
    for record in made.records:
        alike.setdefault((record.split, record.sample), []).append(record)
    turn = {record.key: number for number, record in enumerate(made.records)}

    def draw(record: ChipRecord, path: Path) -> None:
        others = [one for one in alike[record.split, record.sample] if one.identity != record.identity]
        if not others:
            raise DatasetError(f"{made.root}: has chips of one ship only in {record.split}, none of another")
        shutil.copyfile(made.path(others[7 * turn[record.key] % len(others)]), path)

    return draw
