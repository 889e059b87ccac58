#!/usr/bin/env python
"""Draws docs/method.png, the README's picture of the method, from chips of one SIMULATED ship.

    python docs/draw_method.py --bridge zoo:bridge
    python docs/draw_method.py --bridge output/demo/bridge/pipeline --output output/method.png

Everything but the feature vectors, which are a sketch, is what the code makes: the simulator's chips, SARDenoise, and
chips that the bridge generates. The SAR pair at the left is brightened, for what denoising takes away is dark.
"""

from __future__ import annotations

import argparse
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from fastreid_mos.bridge import BrownianBridgePipeline  # noqa: E402
from fastreid_mos.data import SARDenoise, SARMaxScale  # noqa: E402
from fastreid_mos.files import atomic_write  # noqa: E402
from fastreid_mos.sim.writer import SimConfig, plan, render  # noqa: E402
from fastreid_mos.zoo import zoo_path  # noqa: E402

SHIPS = 60  # of which one is drawn
WIDTH, HEIGHT = 9.0, 5.0  # inches
TOP, TALL = 4.55, 2.55  # of the chips
INK, FAINT, PAPER = "#1f2933", "#6b7785", "#ffffff"
OPTICAL, SAR, GENERATED, FUSED = "#2f6fb5", "#c2571a", "#2a8c74", "#6a4fa3"
BRIGHTEN = 0.35  # exponent
LIMIT = 200_000  # bytes


def chips_of(ship: int, seed: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """The first optical chip of a simulated ship, and its two SAR chips, as measured."""
    config = SimConfig(SHIPS, seed, chips_per_id=4, single_modality_fraction=0.0)
    own = [chip for chip in plan(config) if chip.owner == (1, ship)]
    return next(render(config, c) for c in own if not c.sar), [render(config, c) for c in own if c.sar]


def generate(bridge: str, optical: NDArray[Any], count: int) -> list[NDArray[Any]]:
    """Chips that the bridge makes of the optical one, at its size."""
    pipeline = BrownianBridgePipeline.from_pretrained(zoo_path(bridge, bridge=True))
    seeds = [torch.Generator().manual_seed(k) for k in range(count)]
    images = pipeline(optical, num_images_per_prompt=count, num_inference_steps=5, generator=seeds).images
    return [np.asarray(image.resize(optical.shape[1::-1], Image.Resampling.BICUBIC)) for image in images]


class Drawing:
    """A figure whose axes are inches from the lower left."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.axes.axis("off")

    def chip(self, pixels: NDArray[Any], x: float, tall: float = TALL) -> None:
        """An image whose middle is at x and whose top is at TOP."""
        wide = tall * pixels.shape[1] / pixels.shape[0]
        self.axes.imshow(pixels, extent=(x - wide / 2, x + wide / 2, TOP - tall, TOP), aspect="auto", zorder=2)

    def say(self, x: float, y: float, words: str, size: float = 9, color: str = INK, **options: Any) -> None:
        self.axes.text(x, y, words, size=size, color=color, **{"ha": "center", "va": "center", **options})

    def arrow(self, start: tuple[float, float], end: tuple[float, float], style: str = "-|>", **options: Any) -> None:
        looks = {"color": INK, "lw": 1.3, "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0, **options}
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle=style, **looks))

    def vector(self, x: float, y: float, color: str, seed: int) -> None:
        """A feature, sketched as a row of cells."""
        for cell, share in enumerate(np.random.default_rng(seed).uniform(0.15, 1, 8)):
            place = (x - 0.4 + cell * 0.1, y - 0.07)
            self.axes.add_patch(Rectangle(place, 0.1, 0.14, facecolor=color, alpha=share, edgecolor="none"))


def draw(optical: NDArray[Any], sar: list[NDArray[Any]], generated: list[NDArray[Any]]) -> Figure:
    """The whole picture."""
    drawing = Drawing()
    left, right, middle, beside = 0.6, 1.85, 3.35, 8.2
    places = [4.95 + 0.68 * k for k in range(len(generated))]
    above, centre, below = TOP + 0.18, TOP - TALL / 2, TOP - TALL

    for reading, x in ((SARMaxScale(), left), (SARDenoise(), right)):
        drawing.chip((255 * (reading(sar[0]) / 255) ** BRIGHTEN).astype(np.uint8), x)
    for pixels, x in zip([optical, *generated, SARDenoise()(sar[1])], [middle, *places, beside], strict=True):
        drawing.chip(pixels, x)
    drawing.axes.plot([7.3, 7.3], [below, TOP + 0.35], color=FAINT, lw=0.8, ls=(0, (3, 3)))
    captions = {left: "SAR chip", right: "denoised", middle: "optical chip", places[1]: "generated SAR chips"}
    for x, words in captions.items():
        drawing.say(x, above, words)
    drawing.say(beside, above, "another SAR chip\nof this ship, to compare", 8, FAINT)
    drawing.arrow((left + 0.34, centre), (right - 0.34, centre))
    drawing.arrow((middle + 0.34, centre), (places[0] - 0.34, centre))
    drawing.say((middle + places[0]) / 2, centre + 0.27, "Brownian\nbridge")

    bar, features, fused = 1.5, 0.95, (4.5, 0.28)
    looks = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": "#eef1f5", "edgecolor": INK}
    drawing.axes.add_patch(FancyBboxPatch((1.2, bar - 0.17), 6.0, 0.34, **looks))
    drawing.say(4.2, bar, "one network for both sensors; CMAL draws a ship's optical and SAR features together")
    for x, color, seed in ((right, SAR, 1), (middle, OPTICAL, 2), (places[1], GENERATED, 3)):
        drawing.arrow((x, below - 0.04), (x, bar + 0.18))
        drawing.arrow((x, bar - 0.18), (x, features + 0.1))
        drawing.vector(x, features, color, seed)
    drawing.vector(*fused, FUSED, 4)
    drawing.say(right, features - 0.2, "SAR feature", color=SAR)
    drawing.say(middle, features - 0.2, "optical feature", color=OPTICAL)
    drawing.say(places[1] + 0.5, features, "mean feature of\nthe generated chips", color=GENERATED, ha="left")
    drawing.say(fused[0] + 0.5, fused[1], "fused feature", color=FUSED, ha="left")

    drawing.arrow((middle + 0.44, features), (fused[0] - 0.12, fused[1] + 0.1), color=OPTICAL)
    drawing.arrow((places[1] - 0.44, features), (fused[0] + 0.12, fused[1] + 0.1), color=GENERATED)
    drawing.say(4.15, 0.72, "1 - alpha", 8, OPTICAL, ha="left")
    drawing.say(5.06, 0.62, "alpha", 8, GENERATED, ha="left")
    corner = "angle,angleA=90,angleB=0"
    drawing.arrow((right, features - 0.32), (fused[0] - 0.45, fused[1]), "<|-|>", connectionstyle=corner)
    drawing.say((right + fused[0]) / 2 - 0.2, fused[1] + 0.12, "cosine: one ship?")
    note = "SIMULATED chips; the SAR\npair at the left is brightened"
    drawing.say(WIDTH - 0.12, fused[1], note, 8, FAINT, ha="right")
    return drawing.figure


def packed(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours, as large as LIMIT allows."""
    for dpi in (150, 130, 110):
        drawn, small = BytesIO(), BytesIO()
        figure.savefig(drawn, format="png", dpi=dpi)
        with Image.open(drawn) as picture:
            picture.convert("RGB").quantize(256, kmeans=2).save(small, format="png", optimize=True)
        if small.tell() <= LIMIT:
            break
    return small.getvalue()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bridge", default="zoo:bridge", help="zoo:<name>, or the pipeline folder of a bridge")
    parser.add_argument("--output", default=str(ROOT / "docs/method.png"))
    parser.add_argument("--seed", type=int, default=2026, help="of the simulated ships")
    parser.add_argument("--ship", type=int, default=21, help=f"which of {SHIPS}")
    args = parser.parse_args(argv)
    optical, sar = chips_of(args.ship, args.seed)
    figure = draw(optical, sar, generate(args.bridge, optical, 3))
    with atomic_write(args.output, "wb") as stream:
        stream.write(packed(figure))


if __name__ == "__main__":
    main()
