"""The model card says what the pipeline is, and the code in it runs."""

from __future__ import annotations

import re

import pytest
import yaml
from PIL import Image
from tiny_bridge import chips, tiny_pipeline, tiny_unet, tiny_vae

from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler
from fastreid_mos.bridge.card import model_card
from fastreid_mos.sim import write_hoss


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter():
    matter = front_matter(model_card(tiny_pipeline()))
    assert matter["library_name"] == "diffusers" and matter["pipeline_tag"] == "image-to-image"
    assert "brownian-bridge" in matter["tags"] and matter["license"] == "other"


def test_card_says_what_was_trained():
    pipeline = tiny_pipeline(
        inside=6,
        vae=tiny_vae(),
        scheduler=BrownianBridgeScheduler(objective="ysubx", step_rule="dbim", eta=0.25, clip_sample=False),
        direction="sar_to_optical",
        sar_transform="SARMaxScale",
        resize="bicubic",
        trained_identities={"HOSS": [1, 2, 5], "QXSSAROPT": [7]},
        info={"steps": 1234, "data_folder": "a|b", "batch": [8, 2]},
    )
    card = model_card(pipeline)
    for fact in (
        "# Brownian bridge, SAR to optical", "| Direction | sar_to_optical |", "| Data set HOSS | 3 identities",
        "| Data set QXSSAROPT | 1 identities", "| steps | 1234 |", r"| data folder | a\|b |", "| batch | [8, 2] |",
        "SARMaxScale, channel auto", "ysubx: the network predicts y - x_0", "latents of a VQModel",
        "rule dbim, eta 0.25", "16 x 16 pixels", "resized bicubic", "given x_t and the source", "1000 timesteps",
        "## Licence", "## Limits",
        "2205.07680", "2512.03404", 'read("ship.tif", modality=1)',
    ):  # fmt: skip
        assert fact in card, fact
    plain = model_card(tiny_pipeline())
    assert "SARDenoise, percentiles 5 and 100" in plain and "Nothing is recorded" in plain and "in | pixels" in plain


@pytest.mark.parametrize("sized", [True, False])
def test_the_code_of_the_card_runs(sized, tmp_path, monkeypatch):
    pipeline = tiny_pipeline() if sized else BrownianBridgePipeline(tiny_unet(size=None), BrownianBridgeScheduler())
    pipeline.save_pretrained(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(chips(1)[0]).save("ship.png")
    chip = sorted((write_hoss(tmp_path / "sim", 6, seed=1) / "HOSS").rglob("*_RGB.*"))[0]
    (tmp_path / "ship.tif").write_bytes(chip.read_bytes())
    card = (tmp_path / "p" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks).replace("path/to/this/folder", "p").replace("steps=20", "steps=2")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert Image.open("generated.png").size == (8, 16)
    assert names["pipeline"].scheduler.config.step_rule == "dbim" and len(names["images"]) == 1
