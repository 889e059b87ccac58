"""What a dump is to generate: its sources, each opened before anything is generated, and the samples of each."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...data.doubts import Doubts
from ...data.listing import Item
from ...data.reader import ChipReader
from ...errors import ChipError
from ...files import file_sha256
from ...synthetic.manifest import IMAGES, ChipRecord, DumpFacts, sample_seed, sorted_records

# Longer stems are cut: with what is added to them names stay below the 255 bytes of a file system.
_LONGEST = 180


def plan_dump(
    items_by_split: Mapping[str, Sequence[Item]],
    facts: DumpFacts,
    data_root: str,
    reader: ChipReader,
    known: Sequence[ChipRecord] = (),
) -> list[ChipRecord]:
    """The chips to generate: all first samples, then all second ones, and so on.

    Outputs are ``images/<split>/<stem>_k<sample>_SAR.png`` (``_RGB.png``). Where two sources of a split have one stem,
    or would have on a file system that ignores case, digits of a checksum of the source's name follow the stem. A file
    that is in two splits counts in the first. Sources of ``known`` chips, which were generated already, are not decoded
    again, and keep their split and their output's stem.
    """
    sources = _sources(items_by_split, facts, data_root, reader, {record.source: record for record in known})
    word = ("RGB", "SAR")[facts.modalities[1]]
    stems = _output_stems(sources, word, known)
    return [
        replace(
            source,
            sample=sample,
            output=f"{stems[source.source]}_k{sample}_{word}.png",
            seed=sample_seed(facts.seed, source.source_sha256, sample),
        )
        for sample in range(facts.k)
        for source in sources
    ]


def _sources(
    items_by_split: Mapping[str, Sequence[Item]],
    facts: DumpFacts,
    data_root: str,
    reader: ChipReader,
    known: Mapping[str, ChipRecord],
) -> list[ChipRecord]:
    """A record for each source, without a sample yet."""
    sources: dict[str, ChipRecord] = {}
    doubts = Doubts()
    for split, (path, identity, modality) in ((split, item) for split, own in items_by_split.items() for item in own):
        name = source_name(path, data_root)
        if modality != facts.modalities[0] or name in sources:
            continue
        try:
            content = file_sha256(path)
        except OSError as error:
            raise ChipError(path, f"cannot be read ({error.strerror})") from None
        if (old := known.get(name)) and old.source_sha256 == content:
            size = old.source_size
        else:
            chip = reader(path, modality)
            doubts.note(path, chip.doubts)
            size = chip.size
        common = (facts.checkpoint, facts.steps, facts.rule)
        sources[name] = ChipRecord(
            name, content, size, old.split if old else split, int(identity), 0, "", "", 0, *common
        )
    doubts.report()
    return sorted_records(sources.values())


def _output_stems(sources: Sequence[ChipRecord], word: str, known: Iterable[ChipRecord]) -> dict[str, str]:
    """By source: the path of its outputs up to ``_k<sample>``."""
    stems: dict[str, str] = {}
    for record in known:
        if match := re.fullmatch(rf"(.*)_k{record.sample}_{word}\.png", record.output, re.DOTALL):
            stems[record.source] = match[1]
    plain = {source.source: f"{IMAGES}/{source.split}/{_short_stem(source.source)}" for source in sources}
    # Sources that have outputs already are counted too: a resumed dump must find the names of its first call.
    count = Counter(stem.casefold() for stem in plain.values())
    count.update(stem.casefold() for name, stem in stems.items() if name not in plain)
    for name, stem in plain.items():
        digits = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        stems.setdefault(name, stem if count[stem.casefold()] == 1 else f"{stem}-{digits}")
    return stems


def _short_stem(name: str) -> str:
    stem = os.path.splitext(os.path.basename(name))[0]
    encoded = os.fsencode(stem)
    return encoded[:_LONGEST].decode("utf-8", "ignore") if len(encoded) > _LONGEST else stem


def source_name(path: str | os.PathLike[str], data_root: str) -> str:
    """The name of a source in a manifest: relative to the folder of data sets, absolute outside it; with ``/``."""
    full, base = os.path.abspath(path), os.path.join(os.path.abspath(data_root), "")
    return (os.path.relpath(full, base) if full.startswith(base) else full).replace(os.sep, "/")
