"""What a dump is to make: its sources, opened before anything is generated, and the samples of each."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...data.chips import read_chip
from ...data.doubts import Doubts
from ...data.listing import Item
from ...data.modality import SAR
from ...errors import ChipError, ConfigError
from ...synthetic.folder import source_name
from ...synthetic.manifest import IMAGES, SPLITS, SyntheticRow, file_sha256, sample_seed

logger = logging.getLogger("fastreid_mos.bridge")

# Longer stems are cut: with what is added to them names stay below the 255 bytes of a file system.
_LONGEST = 180


@dataclass(frozen=True)
class Source:
    """A chip to generate others from.

    Attributes:
        path: the file.
        name: how the manifest calls it.
        sha256: of its bytes.
        size: (width, height) in pixels.
        split, identity: as in the data set.
    """

    path: str
    name: str
    sha256: str
    size: tuple[int, int]
    split: str
    identity: int


@dataclass(frozen=True)
class Task:
    """A chip to be generated: source, number of the sample, where it goes, and the seed of its noise."""

    source: Source
    sample: int
    output: str
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """As :attr:`fastreid_mos.synthetic.manifest.SyntheticRow.key`."""
        return self.source.name, self.sample


def read_sources(
    items_by_split: Mapping[str, Sequence[Item]],
    modality: int,
    data_root: str,
    channel: str,
    rows: Iterable[SyntheticRow] = (),
) -> list[Source]:
    """The chips of one modality, each opened once.

    Args:
        items_by_split: (path, identity, modality) by "query", "gallery", "train" or "holdout"; a file that comes in
            two splits counts in the first.
        modality: of the chips to take.
        data_root: folder of the data sets, from which chips are named.
        channel: INPUT.SAR.CHANNEL.
        rows: of chips that are generated already; their sources are hashed but not decoded again, and stay in their
            split.

    Returns:
        In the order of splits and names.

    Raises:
        ChipError: a chip that cannot be used.
        ConfigError: a split of another name, or no chip.
    """
    known = {row.source: row for row in rows}
    sources: dict[str, Source] = {}
    doubts, read = Doubts(), 0
    for split, items in items_by_split.items():
        if split not in SPLITS:
            raise ConfigError(f"BRIDGE.SAMPLE.SPLITS: {', '.join(SPLITS)}, got {split!r}")
        for path, identity, kind in items:
            name = source_name(path, data_root)
            if kind != modality or name in sources:
                continue
            try:
                content = file_sha256(path)
            except OSError as error:
                raise ChipError(path, f"cannot be read ({error.strerror})") from None
            row = known.get(name)
            if row is not None and row.source_sha256 == content:
                size = row.source_size
            else:
                chip = read_chip(path, modality, channel)
                doubts.note(path, chip.doubts)
                size, read = chip.size, read + 1
            own_split = row.split if row is not None else split
            sources[name] = Source(path, name, content, size, own_split, int(identity))
    doubts.report(read)
    if not sources:
        kind_name = "SAR" if modality == SAR else "optical"
        raise ConfigError(f"BRIDGE.SAMPLE.SPLITS {list(items_by_split)}: no {kind_name} chip in them to generate from")
    return sorted(sources.values(), key=lambda source: (SPLITS.index(source.split), source.name))


def make_tasks(
    sources: Sequence[Source], k: int, seed: int, target: int, rows: Iterable[SyntheticRow] = ()
) -> list[Task]:
    """Samples 0..k - 1 of every source: all first samples, then all second ones, and so on.

    Args:
        sources: what to make them from.
        k: how many of each.
        seed: of the dump.
        target: modality of the generated chips.
        rows: what is there already: a source keeps the name it has there.

    Returns:
        A :class:`Task` for each. Outputs are ``images/<split>/<stem>_k<sample>_SAR.png`` (``_RGB.png``); where two
        sources of a split have one stem, or would have on a file system that ignores case, digits of a checksum of the
        source's name follow the stem.
    """
    word = "SAR" if target == SAR else "RGB"
    bases: dict[str, str] = {}
    for row in rows:
        match = re.fullmatch(rf"(.*)_k{row.sample}_{word}\.png", row.output, re.DOTALL)
        if match:
            bases[row.source] = match[1]
    plain = {source.name: f"{IMAGES}/{source.split}/{_stem(source)}" for source in sources}
    # Sources that have a name already are counted too: a restart must find the names of the call it goes on with.
    count = Counter(base.casefold() for base in plain.values())
    count.update(base.casefold() for name, base in bases.items() if name not in plain)
    for source in sources:
        if source.name not in bases:
            base = plain[source.name]
            if count[base.casefold()] > 1:
                base += f"-{hashlib.sha256(source.name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
            bases[source.name] = base
    return [
        Task(
            source,
            sample,
            f"{bases[source.name]}_k{sample}_{word}.png",
            sample_seed(seed, source.sha256, sample),
        )
        for sample in range(k)
        for source in sources
    ]


def _stem(source: Source) -> str:
    stem = os.path.splitext(os.path.basename(source.name))[0]
    return os.fsencode(stem)[:_LONGEST].decode("utf-8", "ignore") if len(os.fsencode(stem)) > _LONGEST else stem
