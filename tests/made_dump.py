"""A folder of generated chips made without a bridge: noise over a smaller picture of the source."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from fastreid_mos.bridge.dump.plan import plan_dump
from fastreid_mos.bridge.images import BridgeImages
from fastreid_mos.data import SARDenoise
from fastreid_mos.files import file_sha256
from fastreid_mos.synthetic.manifest import ChipRecord, DumpFacts, read_facts, write_facts, write_manifest

COMMAND = "python tools/train_bbdm.py --config-file bridge.yml --dump-only"
SETTINGS = dict(
    direction="optical_to_sar", bridge="/nowhere/pipeline", checkpoint="0123456789abcdef", steps=10, rule="dbim",
    eta=0.0, order=1, spacing="linear", clip=True, k=3, seed=0, size=(48, 24), datasets=("HOSS",), command=COMMAND,
    sar={"transform": "SARDenoise", "low": 5.0, "high": 100.0, "channel": "auto"}, trained_identities={"HOSS": []},
)  # fmt: skip


def make_dump(root, items_by_split, data, **facts) -> Path:
    root, made = Path(root), DumpFacts(**{**SETTINGS, "splits": tuple(items_by_split), **facts})
    images, records = BridgeImages(made.size, SARDenoise(), "bicubic"), []
    for chip in plan_dump(items_by_split, made, str(data), images.reader):
        small = images.read(str(Path(data) / chip.source), made.modalities[0])
        rng = np.random.default_rng(int(chip.source_sha256[:8], 16) + chip.sample)
        pixels = np.clip(small + rng.normal(0, 30, small.shape), 0, 255).astype(np.uint8)
        (root / chip.output).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if made.modalities[1] == 1 else pixels).save(root / chip.output)
        records.append(dataclasses.replace(chip, output_sha256=file_sha256(root / chip.output)).sealed(made))
    write_facts(root, made)
    write_manifest(root, records)
    return root


def lines(root) -> list[dict]:
    return [json.loads(line) for line in (Path(root) / "manifest.jsonl").read_text().splitlines()]


def write_lines(root, rows) -> None:
    (Path(root) / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rewrite(root, rows, **facts) -> None:
    """Write other lines and other facts, as a dump with these settings would have them."""
    made = dataclasses.replace(read_facts(root), **facts)
    write_facts(root, made)
    write_manifest(root, [ChipRecord.from_json(json.dumps(row)).sealed(made) for row in rows])
