"""A folder of generated chips made by hand: noise over a smaller picture of the source, and its manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from fastreid_mos.data import HOSS, read_chip, sar_denoise
from fastreid_mos.data.holdout import split_holdout
from fastreid_mos.synthetic.manifest import (
    DIRECTIONS,
    DumpFacts,
    SyntheticRow,
    read_facts,
    sample_seed,
    write_facts,
    write_manifest,
)

SAR = {"transform": "SARDenoise", "low": 5.0, "high": 100.0, "channel": "auto"}
COMMAND = "python tools/train_bbdm.py --config-file bridge.yml --dump-only"


def held_out(data, fraction=0.25, splits=2, seed=0):
    """Splits of held-out training chips, as configs/HOSS/demo/debug.yml asks for."""
    return split_holdout(HOSS(root=str(data)).train, fraction, splits=splits, seed=seed)[1]


def chips_of(data):
    """(path, identity, modality, split) of the chips that a bridge dumps."""
    hoss = HOSS(root=str(data))
    query, gallery = held_out(data)[0]
    parts = (("query", hoss.query), ("gallery", hoss.gallery), ("holdout", [*query, *gallery]))
    return [(*item[:3], split) for split, items in parts for item in items]


def make_dump(root, data, direction="optical_to_sar", k=3, trained=(), keep=lambda path, split: True, **facts):
    """Write a folder of generated chips for the test and the held-out chips, and return it."""
    root = Path(root)
    source_modality = DIRECTIONS[direction][0]
    rows, seen = [], set()
    for path, identity, modality, split in chips_of(data):
        if modality != source_modality or not keep(path, split) or path in seen:
            continue
        seen.add(path)
        chip = read_chip(path, modality)
        image = chip.pixels if modality == 0 else sar_denoise(chip.pixels)
        small = np.asarray(Image.fromarray(image).resize((24, 48))).astype(float)
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for sample in range(k):
            rng = np.random.default_rng(int(content[:8], 16) + sample)
            made = np.clip(small + rng.normal(0, 30, small.shape), 0, 255).astype(np.uint8)
            word = ("SAR", "RGB")[source_modality]
            made = np.repeat(made[..., :1], 3, axis=2) if word == "SAR" else made
            output = f"images/{split}/{Path(path).stem}_k{sample}_{word}.png"
            (root / output).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made).save(root / output)
            rows.append(
                SyntheticRow(
                    Path(path).relative_to(data).as_posix(), content, chip.size, split, int(identity), sample, output,
                    hashlib.sha256((root / output).read_bytes()).hexdigest(), sample_seed(0, content, sample),
                    "0123456789abcdef", 10, "dbim",
                )
            )  # fmt: skip
    common = dict(
        direction=direction, bridge="/nowhere/pipeline", checkpoint="0123456789abcdef", steps=10, rule="dbim", eta=0.0,
        order=1, spacing="linear", clip=True, k=k, seed=0, sar=dict(SAR), size=(48, 24),
        trained_identities={"HOSS": list(trained)}, datasets=("HOSS",), splits=("query", "gallery", "holdout"),
        command=COMMAND,
    )  # fmt: skip
    made = DumpFacts(**{**common, **facts})
    write_facts(root, made)
    write_manifest(root, [row.sealed(made) for row in rows])
    return root


def lines(root):
    """The manifest's lines as dicts."""
    return [json.loads(line) for line in (Path(root) / "manifest.jsonl").read_text().splitlines()]


def rewrite(root, rows, **facts):
    """Write other lines and other facts, as a dump that was made so would have them."""
    made = dataclasses.replace(read_facts(root), **facts)
    write_facts(root, made)
    for number, row in enumerate(rows):
        with contextlib.suppress(ValueError):  # what no dump can write is written as it is
            rows[number] = json.loads(SyntheticRow.from_json(json.dumps(row)).sealed(made).to_json())
    (Path(root) / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
