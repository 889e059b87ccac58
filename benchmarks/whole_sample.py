#!/usr/bin/env python
"""A HOSS folder in which every ship is a test ship, for models that have seen none of its chips.

    python benchmarks/whole_sample.py /data/hoss_sample output/whole_sample

Links to the files of a HOSS: its query/ and bounding_box_test/ as they are, and of each training ship one query, by
turns an optical and a SAR chip where it has both, and the other chips in the gallery.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Queries and gallery of training chips, by their names ``<ship>_..._RGB|SAR.<extension>``."""
    ships: dict[int, list[str]] = {}
    for name in sorted(names):
        ships.setdefault(int(name.partition("_")[0]), []).append(name)
    queries, turn = [], 0
    for chips in (ships[ship] for ship in sorted(ships) if len(ships[ship]) > 1):
        optical, sar = ([name for name in chips if Path(name).stem.endswith(end)] for end in ("_RGB", "_SAR"))
        queries.append((sar if turn and sar else optical or sar)[0])
        turn = (turn + bool(optical and sar)) % 2
    return queries, [name for name in sorted(names) if name not in queries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder that holds HOSS/")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    source, target = args.source.resolve() / "HOSS", args.output / "HOSS"
    if not (source / TRAIN).is_dir():
        parser.error(f"{source / TRAIN}: no such folder")
    queries, gallery = split(os.listdir(source / TRAIN))
    shutil.rmtree(target, ignore_errors=True)
    for folder, own in ((TRAIN, []), (QUERY, queries), (GALLERY, gallery)):
        (target / folder).mkdir(parents=True)
        files = [source / TRAIN / name for name in own]
        files += sorted((source / folder).iterdir()) if folder != TRAIN else []
        for file in files:
            os.symlink(file, target / folder / file.name)
    print(f"{target}: {len(queries)} more queries, {len(gallery)} more gallery chips")


if __name__ == "__main__":
    main()
