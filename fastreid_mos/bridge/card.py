"""The model card of a pipeline folder: what was trained, on what, how to use it, and what it is not good for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

CARD = "README.md"

_SIDES = {"optical_to_sar": ("optical", "SAR"), "sar_to_optical": ("SAR", "optical")}
_OBJECTIVES = {
    "grad": "m_t (y - x_0) + sqrt(d_t) e, from which x_0 = x_t - prediction",
    "noise": "the noise e",
    "ysubx": "y - x_0",
}
_CITATIONS = """```bibtex
@inproceedings{zhao2026mos,
  title = {{MOS}: Mitigating Optical-{SAR} Modality Gap for Cross-Modal Ship Re-Identification},
  author = {Zhao, Yujian and Liu, Hankun and Niu, Guanglin},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2026},
  note = {arXiv:2512.03404}
}
@inproceedings{li2023bbdm,
  title = {{BBDM}: Image-to-Image Translation with {B}rownian Bridge Diffusion Models},
  author = {Li, Bo and Xue, Kaitao and Liu, Bin and Lai, Yu-Kun},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2023},
  note = {arXiv:2205.07680}
}
@inproceedings{zheng2025dbim,
  title = {Diffusion Bridge Implicit Models},
  author = {Zheng, Kaiwen and He, Guande and Chen, Jianfei and Bao, Fan and Zhu, Jun},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2025},
  note = {arXiv:2405.15885}
}
```"""


def model_card(pipeline: Any) -> str:
    """The text of README.md: YAML front matter and Markdown.

    Args:
        pipeline: a :class:`.pipeline.BrownianBridgePipeline`.
    """
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image",
        # The weights' licence follows from the data, which only their owner can say.
        license="other",
        license_name="see-section-licence",
        tags=["fastreid-mos", "brownian-bridge", "sar", "remote-sensing", "ship-re-identification"],
    )
    source, target = _SIDES[pipeline.config.direction]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# Brownian bridge, {source} to {target}",
        f"Makes {target} images from {source} ones by a Brownian-bridge diffusion model (BBDM), as MOS (CVPR 2026) "
        "does to re-identify ships across optical and SAR satellite images.",
        "## Model\n\n" + _table(_model_facts(pipeline)),
        "## Training\n\n" + _training(pipeline),
        "## Use\n\n" + _use(pipeline, source),
        "## Limits\n\n" + _limits(source, target),
        "## Licence\n\nThe code, fastreid-mos, is under the Apache License 2.0. For the weights the terms of the data "
        "they were trained on hold too; whoever publishes them puts the licence at the top of this file.",
        "## Citation\n\n" + _CITATIONS,
    ]
    return "\n\n".join(parts) + "\n"


def _model_facts(pipeline: Any) -> dict[str, Any]:
    config, bridge, unet = pipeline.config, pipeline.scheduler.config, pipeline.unet.config
    size = "any" if config.height is None else f"{config.height} x {config.width} pixels (height x width)"
    where = "pixels" if pipeline.vae is None else f"latents of a {type(pipeline.vae).__name__}"
    percentiles = f", percentiles {config.sar_low:g} and {config.sar_high:g}"
    return {
        "Direction": config.direction,
        "Image size": f"{size}, resized {config.resize} with antialiasing",
        "SAR side": f"{config.sar_transform}{percentiles if config.sar_transform == 'SARDenoise' else ''}, "
        f"channel {config.sar_channel}",
        "Bridge in": where,
        "Objective": f"{bridge.objective}: the network predicts {_OBJECTIVES[bridge.objective]}",
        "Bridge": f"{bridge.num_train_timesteps} timesteps, m_t {bridge.mt_type} from {bridge.m_min:g} to "
        f"{bridge.m_max:g}, variance factor s = {bridge.max_var:g}",
        "Sampling as saved": f"rule {bridge.step_rule}, eta {bridge.eta:g}, order {bridge.solver_order}, spacing "
        f"{bridge.timestep_spacing}",
        "Network": f"{type(pipeline.unet).__name__}, channels {list(unet.block_out_channels)}, "
        f"{sum(parameter.numel() for parameter in pipeline.unet.parameters()):,} parameters, "
        + ("given x_t and the source" if pipeline.conditioned else "given x_t"),
    }


def _training(pipeline: Any) -> str:
    facts: dict[str, Any] = {}
    for name, identities in sorted(pipeline.config.trained_identities.items()):
        facts[f"Data set {name}"] = f"{len(identities)} identities (listed in model_index.json, trained_identities)"
    facts.update({str(key).replace("_", " "): value for key, value in pipeline.config.info.items()})
    if not facts:
        return "Nothing is recorded of the training."
    return _table(facts)


def _use(pipeline: Any, source: str) -> str:
    modality = "0" if source == "optical" else "1"
    reading = (
        "import fastreid_mos  # makes the pipeline known to diffusers\n"
        "import torch\n"
        "from diffusers import DiffusionPipeline\n"
        "\n"
        'pipeline = DiffusionPipeline.from_pretrained("path/to/this/folder")\n'
    )
    if pipeline.config.height is None:
        reading += 'image = PIL.Image.open("ship.png")\n'
        reading = "import PIL.Image\n" + reading
    else:
        reading += f'image = pipeline.chip_reader().read("ship.tif", modality={modality})  # {source}\n'
    return (
        "`pip install 'fastreid-mos[bridge]'`, then\n\n```python\n" + reading + "images = pipeline(\n"
        "    image,\n"
        "    num_images_per_prompt=5,\n"
        "    num_inference_steps=20,\n"
        "    generator=[torch.Generator().manual_seed(k) for k in range(5)],  # an image depends on its own seed only\n"
        ").images\n"
        'images[0].save("generated.png")\n'
        "```\n\n"
        "The same weights work with either step rule and any number of steps:\n\n"
        "```python\n"
        "from fastreid_mos.bridge import BrownianBridgeScheduler\n"
        "\n"
        "pipeline.scheduler = BrownianBridgeScheduler.from_config(\n"
        '    pipeline.scheduler.config, step_rule="dbim", solver_order=2, eta=0.0\n'
        ")\n"
        "images = pipeline(image, num_inference_steps=10).images\n"
        "```"
    )


def _limits(source: str, target: str) -> str:
    lines = [
        f"A generated {target} image is a plausible one, not a measurement: what the {source} image does not show is "
        "made up. Do not read lengths, fittings or backscatter off it.",
        "It knows the ships, sensors, resolutions and sea states of its training data; on others its images can be "
        "wrong without looking wrong.",
        "Chips are cropped to one ship, turned upright, as in HOSS; whole scenes are out of its reach.",
        "Images of identities it was trained on say nothing about how well re-identification works on new ones.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(text.replace("|", "\\|").split())
