"""Does the simulated HOSS look like the real sample? The same statistics of both, side by side, and one picture.

    python benchmarks/sim_vs_real.py --ids 150 --picture output/sim_vs_real.png

The real chips are read from ``--real`` (a folder with HOSS/ in it) or from ``$FASTREID_MOS_SHARED/hoss_sample``;
without either, the simulation stands alone. Every chip that has an identity counts, training and test alike: the
simulator is judged by how its chips look, never by a ranking of the test queries.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fastreid_mos.data import read_chip, sar_denoise
from fastreid_mos.errors import MOSError
from fastreid_mos.evaluation import rank_metrics
from fastreid_mos.sim import write_hoss

NAME = re.compile(r"^(-?\d+)_(?:s(\d+)c\d+|\d+)_(RGB|SAR)\.tif$")
BANDS = (0.0, 0.04, 0.08, 0.15, 0.25, 0.35, 0.5)  # cycles per pixel
PROFILE = 96


@dataclass
class Item:
    """One chip: ``grey`` is what a model would see of it (0..255, float32), ``raw`` the stored pixels."""

    folder: str
    pid: int
    sequence: str
    sar: bool
    raw: NDArray
    grey: NDArray[np.float32]


def load(root: Path) -> list[Item]:
    """Every chip below ``root``/HOSS."""
    items = []
    for path in sorted((root / "HOSS").glob("*/*.tif")):
        match = NAME.match(path.name)
        if match is None:
            continue
        raw = np.asarray(read_chip(path).pixels)
        sar = match[3] == "SAR"
        grey = sar_denoise(raw)[..., 0] if sar else cv2.cvtColor(raw, cv2.COLOR_RGB2GRAY)
        items.append(Item(path.parent.name, int(match[1]), match[2] or "-", sar, raw, grey.astype(np.float32)))
    if not items:
        raise MOSError(f"{root}: no chips in HOSS/*/; give a folder that holds HOSS/")
    return items


def quantiles(values: list[float] | NDArray, points: tuple[float, ...] = (5, 25, 50, 75, 95)) -> str:
    return "  ".join(f"{v:.3g}" for v in np.percentile(np.asarray(values, float), points)) if len(values) else "-"


def by_identity(items: list[Item]) -> dict[int, tuple[list[Item], list[Item]]]:
    """Identity -> (optical chips, SAR chips); distractors left out."""
    table: dict[int, tuple[list[Item], list[Item]]] = defaultdict(lambda: ([], []))
    for item in items:
        if item.pid >= 0:
            table[item.pid][item.sar].append(item)
    return table


def spectrum(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of the power (mean removed, Hann window) in each of the radial bands."""
    window = np.outer(np.hanning(grey.shape[0]), np.hanning(grey.shape[1]))
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1])[None])
    total = np.array([power[(radius >= a) & (radius < b)].sum() for a, b in zip(BANDS, BANDS[1:], strict=False)])
    return total / max(total.sum(), 1e-12)


def grain(grey: NDArray[np.float32], axis: int, lag: int) -> float:
    """Autocorrelation of the high-passed chip at a lag along an axis (0 along the ship, 1 across)."""
    high = grey - cv2.GaussianBlur(grey, (0, 0), 4.0)
    a = high[:-lag] if axis == 0 else high[:, :-lag]
    b = high[lag:] if axis == 0 else high[:, lag:]
    return float((a * b).mean() / max(float((high**2).mean()), 1e-9))


def sea_looks(raw: NDArray) -> float:
    """Equivalent number of looks in the darkest of the four corners of the chip."""
    h, w = max(6, raw.shape[0] // 10), max(5, raw.shape[1] // 4)
    blocks = [
        raw[a, b].astype(float) ** 2
        for a in (slice(None, h), slice(-h, None))
        for b in (slice(None, w), slice(-w, None))
    ]
    dark = min(blocks, key=np.mean)
    return float(dark.mean() ** 2 / max(dark.var(), 1e-20))


def profile(item: Item) -> NDArray[np.float64]:
    """What stands out at each station along the ship: local contrast of the optical chip, brightness of the SAR chip.

    Resampled to a common length, without trend and level, in units of its own deviation.
    """
    w = item.grey.shape[1]
    core = item.grey[:, w // 5 : max(w // 5 + 1, w - w // 5)]
    if item.sar:
        line = np.log1p(core).mean(1)
    else:
        line = np.log1p(np.abs(cv2.Sobel(core, cv2.CV_32F, 0, 1)) + np.abs(cv2.Sobel(core, cv2.CV_32F, 1, 0))).mean(1)
    line = cv2.resize(line.reshape(-1, 1).astype(np.float32), (1, PROFILE), interpolation=cv2.INTER_AREA)[:, 0]
    line = line - cv2.GaussianBlur(line.reshape(-1, 1), (1, 41), 8.0)[:, 0]
    return np.asarray((line - line.mean()) / (line.std() + 1e-9), float)


def agreement(a: NDArray[np.float64], b: NDArray[np.float64], reach: int = 7) -> float:
    """Highest correlation of two profiles over small shifts."""
    best = -1.0
    for s in range(-reach, reach + 1):
        x, y = a[max(0, s) : PROFILE + min(0, s)], b[max(0, -s) : PROFILE + min(0, -s)]
        best = max(best, float(np.corrcoef(x, y)[0, 1]))
    return best


def crossing(items: list[Item], other_sar: bool) -> tuple[list[float], list[float]]:
    """Agreement of an optical profile with another chip: of the same ship, and of others of similar length (12 %)."""
    table = by_identity(items)
    lines = {id(i): profile(i) for i in items}
    same, other = [], []
    for pid, (optical, sar) in table.items():
        if not optical:
            continue
        first = optical[0]
        for mate in (sar if other_sar else optical[1:])[:1]:
            same.append(agreement(lines[id(first)], lines[id(mate)]))
            mates = [
                chips[other_sar][-1]
                for q, chips in table.items()
                if q != pid
                and chips[other_sar]
                and abs(np.log(chips[other_sar][-1].grey.shape[0] / mate.grey.shape[0])) < 0.12
            ]
            other += [agreement(lines[id(first)], lines[id(m)]) for m in mates[:12]]
    return same, other


def auc(high: list[float], low: list[float]) -> float:
    """Chance that a value of ``high`` is above one of ``low``."""
    a, b = np.asarray(high)[:, None], np.asarray(low)[None]
    return float((a > b).mean() + 0.5 * (a == b).mean()) if a.size and b.size else float("nan")


def protocols(items: list[Item], identities: int, distractors: int, seed: int = 0) -> dict[str, str]:
    """mAP / R1 of ranking by size alone and at random, in the three protocols.

    The numbers depend on the gallery's size: of a larger split, 40 draws of ``identities`` with ``distractors`` count.
    """
    rng = np.random.default_rng(seed)
    tested = sorted({i.pid for i in items if i.folder == "query" and i.pid >= 0})
    others = [i for i in items if i.pid < 0]
    table: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for _ in range(40 if len(tested) > identities else 1):
        chosen = set(rng.permutation(tested)[:identities].tolist())
        part = [i for i in items if i.pid in chosen] + [others[k] for k in rng.permutation(len(others))[:distractors]]
        query, gallery = ([i for i in part if i.folder == f] for f in ("query", "bounding_box_test"))
        for name, q_sar, g_sar in (("ALL", None, None), ("O2S", False, True), ("S2O", True, False)):
            q = [i for i in query if q_sar is None or i.sar == q_sar]
            g = [i for i in gallery if g_sar is None or i.sar == g_sar]
            ids = [i.pid for i in q], [i.pid for i in g]
            if not set(ids[0]) & set(ids[1]):
                continue
            by_size = rank_metrics(np.linalg.norm(metres(q)[:, None] - metres(g)[None], axis=2), *ids)
            chance = [rank_metrics(rng.random((len(q), len(g))), *ids) for _ in range(10)]
            row = (by_size.mAP, by_size.cmc[0], np.mean([c.mAP for c in chance]), np.mean([c.cmc[0] for c in chance]))
            table[name].append(tuple(100 * float(v) for v in row))
    means = {name: np.mean(rows, 0) for name, rows in table.items()}
    return {name: f"{a:.1f}/{b:.1f}, random {c:.1f}/{d:.1f}" for name, (a, b, c, d) in means.items()}


def metres(chips: list[Item]) -> NDArray[np.float64]:
    """Logarithm of the chips' height and width in metres, [n, 2]."""
    sides = np.array([i.grey.shape for i in chips], float)
    return np.log(sides * np.where([[i.sar] for i in chips], 1.0, 0.75))


def statistics(items: list[Item], tested: int, distractors: int) -> dict[str, str]:
    """Every row of the table."""
    table = by_identity(items)
    optical, sar = ([i for i in items if i.sar == s] for s in (False, True))
    rows: dict[str, str] = {
        "chips optical / SAR": f"{len(optical)} / {len(sar)}",
        "identities; optical only; SAR only": f"{len(table)}; {sum(not s for _, s in table.values())}; "
        f"{sum(not o for o, _ in table.values())}",
    }
    for name, chips in (("optical", optical), ("SAR", sar)):
        for axis, side in ((0, "height"), (1, "width")):
            rows[f"{name} {side}, px (5 25 50 75 95 %)"] = quantiles([i.grey.shape[axis] for i in chips])
    for axis, side in ((0, "length"), (1, "width")):
        ratios = [o.grey.shape[axis] / s.grey.shape[axis] for os_, ss in table.values() for o in os_ for s in ss]
        rows[f"optical / SAR {side}, px"] = f"{np.mean(ratios):.2f} +- {np.std(ratios):.2f}" if ratios else "-"
        pairs = [
            abs(np.log(a.grey.shape[axis] / b.grey.shape[axis]))
            for o, _ in table.values()
            for a, b in zip(o, o[1:], strict=False)
        ]
        rows[f"optical / optical {side}, mean |log|"] = f"{np.mean(pairs):.3f}" if pairs else "-"

    for sequence in sorted({i.sequence for i in sar}):
        rows[f"SAR maximum, mean, s{sequence}"] = f"{np.mean([i.raw.max() for i in sar if i.sequence == sequence]):.2f}"
    rows["SAR / its maximum (50 75 90 99 %)"] = "  ".join(
        f"{v:.3f}" for v in np.mean([np.percentile(i.raw / i.raw.max(), (50, 75, 90, 99)) for i in sar], 0)
    )
    for point in (25, 50, 75, 90, 99):
        values = [float(np.percentile(i.grey, point)) for i in sar]
        rows[f"SAR stretched, {point} %: mean, spread"] = f"{np.mean(values):.1f} +- {np.std(values):.1f}"
    rows["SAR stretched, zeros %"] = f"{100 * np.mean([(i.grey == 0).mean() for i in sar]):.1f}"
    rows["SAR looks in the darkest corner"] = quantiles([sea_looks(i.raw) for i in sar])
    for name, chips in (("optical", optical), ("SAR", sar)):
        parts = 100 * np.mean([spectrum(i.grey) for i in chips], 0)
        rows[f"{name} spectrum, % by band"] = "  ".join(f"{v:.1f}" for v in parts)
        for axis, side in ((0, "along"), (1, "across")):
            rows[f"{name} grain {side}, lags 1 2 4 8"] = "  ".join(
                f"{np.mean([grain(i.grey, axis, lag) for i in chips]):.2f}" for lag in (1, 2, 4, 8)
            )
        rows[f"{name} grain along / across, spread lag 3"] = (
            f"{np.std([grain(i.grey, 0, 3) for i in chips]):.2f} / {np.std([grain(i.grey, 1, 3) for i in chips]):.2f}"
        )
    sides = [(i.grey[:, : i.grey.shape[1] // 2].sum(), i.grey[:, -(i.grey.shape[1] // 2) :].sum()) for i in sar]
    rows["SAR left-right imbalance"] = quantiles([abs(a - b) / (a + b + 1e-9) for a, b in sides])
    peaks = [float(np.sort(i.grey.mean(0))[-3:].mean() / (i.grey.mean() + 1e-9)) for i in sar]
    rows["SAR brightest columns / mean"] = quantiles(peaks)
    rows["SAR brightest rows / mean"] = quantiles(
        [float(np.sort(i.grey.mean(1))[-6:].mean() / (i.grey.mean() + 1e-9)) for i in sar]
    )

    rows["optical grey (chip's 5 25 50 75 95 %)"] = "  ".join(
        f"{v:.0f}" for v in np.mean([np.percentile(i.grey, (5, 25, 50, 75, 95)) for i in optical], 0)
    )
    rows["optical mean grey, over chips"] = quantiles([i.grey.mean() for i in optical])
    rows["optical contrast (deviation), over chips"] = quantiles([i.grey.std() for i in optical])
    rows["optical saturation, over chips"] = quantiles(
        [cv2.cvtColor(i.raw, cv2.COLOR_RGB2HSV)[..., 1].mean() for i in optical]
    )
    rows["optical mean R G B"] = "  ".join(f"{v:.0f}" for v in np.mean([i.raw.mean((0, 1)) for i in optical], 0))
    rows["optical sea R G B (corner median)"] = "  ".join(
        f"{v:.0f}" for v in np.median([np.median(i.raw[-6:, :6].reshape(-1, 3), 0) for i in optical], 0)
    )
    for other_sar, name in ((False, "optical - optical"), (True, "optical - SAR")):
        same, other = crossing(items, other_sar)
        rows[f"profiles {name}: same, other, AUC"] = (
            f"{np.mean(same):.2f}  {np.mean(other):.2f}  {auc(same, other):.2f} ({len(same)})"
            if same and other
            else "-"
        )
    for name, text in protocols(items, tested, distractors).items():
        rows[f"size only mAP/R1, {name}"] = text
    return rows


def draw(sets: dict[str, list[Item]], count: int, path: Path) -> None:
    """One picture: for each data set a row of identities that have both modalities, everything at 2 px per metre."""
    strips = []
    for title, items in sets.items():
        table = by_identity(items)
        both = [p for p in sorted(table) if table[p][0] and table[p][1]]
        cells = []
        for pid in both[:: max(1, len(both) // count)][:count]:
            for item in [*table[pid][0][:2], *table[pid][1][:2]]:
                picture = np.repeat(item.grey[..., None].astype(np.uint8), 3, 2) if item.sar else item.raw
                scale = 2.0 if item.sar else 1.5
                picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
                cells.append(np.pad(picture, ((20, 0), (0, 3), (0, 0)), constant_values=90))
            cells[-1] = np.pad(cells[-1], ((0, 0), (0, 12), (0, 0)), constant_values=90)
        high = max(c.shape[0] for c in cells)
        strip = np.concatenate(
            [np.pad(c, ((0, high - c.shape[0]), (0, 0), (0, 0)), constant_values=90) for c in cells], 1
        )
        cv2.putText(strip, title, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        strips.append(strip)
    wide = max(s.shape[1] for s in strips)
    page = np.concatenate([np.pad(s, ((0, 0), (0, wide - s.shape[1]), (0, 0)), constant_values=90) for s in strips])
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), page[..., ::-1]):
        raise MOSError(f"{path}: the picture could not be written; give a name that ends in .png or .jpg")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sim", type=Path, help="a simulated data set; made afresh when absent")
    parser.add_argument("--ids", type=int, default=150, help="identities to simulate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, help="folder that holds the real HOSS/")
    parser.add_argument("--picture", type=Path, help="draw rows of both")
    parser.add_argument("--columns", type=int, default=8, help="identities in a row of the picture")
    args = parser.parse_args()
    shared = os.environ.get("FASTREID_MOS_SHARED")
    real = args.real or (Path(shared, "hoss_sample") if shared else None)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = args.sim or write_hoss(Path(scratch, "sim"), args.ids, args.seed, workers=2)
            sets = {"simulated": load(Path(folder))}
        if real is not None:
            sets["real sample"] = load(real)
        like = list(sets.values())[-1]
        tested = len({i.pid for i in like if i.folder == "query" and i.pid >= 0})
        distractors = sum(i.pid < 0 for i in like)
        tables = {name: statistics(items, tested, distractors) for name, items in sets.items()}
        if args.picture:
            draw(sets, args.columns, args.picture)
    except (MOSError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = list(dict.fromkeys(key for rows in tables.values() for key in rows))
    print("".join(f"{cell:<46}" for cell in ["", *tables]))
    for name in names:
        print("".join(f"{cell:<46}" for cell in [name, *(rows.get(name, "-") for rows in tables.values())]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
