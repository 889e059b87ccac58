"""The model card of a pipeline folder: what was trained, on what, how to use it, and what it is not good for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

CARD = "README.md"

_OBJECTIVES = {
    "grad": "m_t (y - x_0) + sqrt(d_t) e, from which x_0 = x_t - prediction",
    "noise": "the noise e",
    "ysubx": "y - x_0",
}
_TEMPLATE = """---
{{ card_data }}
---

# Brownian bridge, {{ source }} to {{ target }}

Makes {{ target }} images from {{ source }} ones by a Brownian-bridge diffusion model (BBDM), as MOS (CVPR 2026) does to re-identify ships across optical and SAR satellite images.

## Model

{{ model }}

## Training

{{ training }}

## Use

`pip install 'fastreid-mos[bridge]'`, then

```python
import PIL.Image
import torch
from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler

pipeline = BrownianBridgePipeline.from_pretrained("path/to/this/folder")
image = {{ reading }}
images = pipeline(
    image,
    num_images_per_prompt=5,
    num_inference_steps=20,
    generator=[torch.Generator().manual_seed(k) for k in range(5)],  # an image depends on its own seed only
).images
images[0].save("generated.png")
```

The same weights work with either step rule and any number of steps:

```python
pipeline.scheduler = BrownianBridgeScheduler.from_config(
    pipeline.scheduler.config, step_rule="dbim", solver_order=2, eta=0.0
)
images = pipeline(image, num_inference_steps=10).images
```

## Limits

- A generated {{ target }} image is a plausible one, not a measurement: what the {{ source }} image does not show is made up. Do not read lengths, fittings or backscatter off it.
- It knows the ships, sensors, resolutions and sea states of its training data; on others its images can be wrong without looking wrong.
- It takes chips cropped to one ship, turned upright, as in HOSS, not whole scenes.
- Images of identities it was trained on say nothing about how well re-identification works on new ones.

## Licence

The code, fastreid-mos, is under the Apache License 2.0. For the weights the terms of the data they were trained on hold too; whoever publishes them puts the licence at the top of this file.

## Citation

- MOS: Zhao, Liu, Niu. Mitigating Optical-SAR Modality Gap for Cross-Modal Ship Re-Identification. CVPR 2026, [arXiv 2512.03404](https://arxiv.org/abs/2512.03404)
- BBDM: Li, Xue, Liu, Lai. Image-to-Image Translation with Brownian Bridge Diffusion Models. CVPR 2023, [arXiv 2205.07680](https://arxiv.org/abs/2205.07680)
- DBIM: Zheng, He, Chen, Bao, Zhu. Diffusion Bridge Implicit Models. ICLR 2025, [arXiv 2405.15885](https://arxiv.org/abs/2405.15885)
"""  # noqa: E501


def model_card(pipeline: Any) -> ModelCard:
    """The README.md of a :class:`.pipeline.BrownianBridgePipeline`."""
    source, target = (side.replace("sar", "SAR") for side in pipeline.config.direction.split("_to_"))
    path = f'pipeline.chip_reader().read("ship.tif", modality={int(source == "SAR")})  # {source}'
    card: ModelCard = ModelCard.from_template(
        ModelCardData(
            library_name="diffusers",
            pipeline_tag="image-to-image",
            # The weights' licence follows from the data, which only their owner can say.
            license="other",
            license_name="see-section-licence",
            tags=["fastreid-mos", "brownian-bridge", "sar", "remote-sensing", "ship-re-identification"],
        ),
        template_str=_TEMPLATE,
        source=source,
        target=target,
        model=_table(_model_facts(pipeline)),
        training=_table(_training_facts(pipeline)) or "Nothing is recorded of the training.",
        reading='PIL.Image.open("ship.png")' if pipeline.config.height is None else path,
    )
    return card


def _model_facts(pipeline: Any) -> dict[str, Any]:
    config, bridge, unet = pipeline.config, pipeline.scheduler.config, pipeline.unet
    size = "any" if config.height is None else f"{config.height} x {config.width} pixels (height x width)"
    percentiles = f" {config.sar_low:g} to {config.sar_high:g} %" if config.sar_transform == "SARDenoise" else ""
    return {
        "Direction": config.direction,
        "Image size": f"{size}, resized {config.resize} with antialiasing",
        "SAR side": f"{config.sar_transform}{percentiles}, channel {config.sar_channel}",
        "Bridge in": "pixels" if pipeline.vae is None else f"latents of a {type(pipeline.vae).__name__}",
        "Objective": f"{bridge.objective}: the network predicts {_OBJECTIVES[bridge.objective]}",
        "Bridge": f"{bridge.num_train_timesteps} timesteps, m_t {bridge.mt_type} from {bridge.m_min:g} to "
        f"{bridge.m_max:g}, variance factor s = {bridge.max_var:g}",
        "Sampling as saved": f"rule {bridge.step_rule}, eta {bridge.eta:g}, order {bridge.solver_order}, spacing "
        f"{bridge.timestep_spacing}",
        "Network": f"{type(unet).__name__}, channels {list(unet.config.block_out_channels)}, "
        f"{unet.num_parameters():,} parameters, given x_t{' and the source' if pipeline.conditioned else ''}",
    }


def _training_facts(pipeline: Any) -> dict[str, Any]:
    sets, where = sorted(pipeline.config.trained_identities.items()), "(listed in model_index.json, trained_identities)"
    facts: dict[str, Any] = {f"Data set {name}": f"{len(pids)} identities {where}" for name, pids in sets}
    return facts | {str(key).replace("_", " "): value for key, value in pipeline.config.info.items()}


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows]) if rows else ""


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(text.replace("|", "\\|").split())
