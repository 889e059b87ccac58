"""Any timm model as a fast-reid backbone."""

from __future__ import annotations

import difflib
import itertools
from typing import Any

import torch
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import Tensor, nn

from ..errors import one_line
from .building import started


class TimmBackbone(nn.Module):
    """A timm model without its classifier.

    Args:
        name: timm's name of the model, e.g. ``efficientnet_lite0``. Its weights are random: nothing is downloaded.
        img_size: (height, width) of the chips in pixels; models with a fixed grid of positions are made for it.

    Attributes:
        num_features: channels of what ``forward`` gives.

    Raises:
        ValueError: timm is not installed, has no such model, or the model cannot take that size.
    """

    def __init__(self, name: str, img_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, example = _create(name, img_size)
        self.channels_last = example.dim() == 4 and example.shape[1] != self.model.num_features == example.shape[-1]
        self.num_features = int(example.shape[-1 if self.channels_last else 1])
        self.is_depthwise = any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in self.model.modules())

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]``, normalized -> ``[B, C, h, w]``; h and w are 1 for models of tokens, which pool."""
        if self.is_depthwise:
            # Depthwise convolutions are about a third faster on pixels that lie together (EfficientNet-Lite0, CPU).
            images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.model(images)
        features = features[..., None, None] if features.dim() == 2 else features
        return features.permute(0, 3, 1, 2) if self.channels_last else features


def check_timm_name(name: str) -> None:
    """Raise ValueError where timm is not installed or does not know the name; near names are listed."""
    try:
        import timm
    except ImportError:
        raise ValueError('name: timm is not installed; run: pip install "fastreid-mos[pretrained]"') from None
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5) or ["see timm.list_models()"]
        raise ValueError(f"name: timm {timm.__version__} has no model {name!r}; near: {', '.join(near)}")


def _create(name: str, img_size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """The model, and what it gives for one empty image."""
    check_timm_name(name)
    import timm

    failures = []
    # A map without pooling where the model gives one, else the model's own pooling; with the image size where the
    # model takes one. Models differ in which of these they refuse, and in the error.
    for pooling, size in itertools.product(({"global_pool": ""}, {}), ({"img_size": img_size}, {})):
        settings: dict[str, Any] = {**pooling, **size}
        try:
            model = timm.create_model(name.split(".")[0], pretrained=False, num_classes=0, **settings)
            with torch.no_grad():
                example = model.eval()(torch.zeros(1, 3, *img_size))
        except Exception as error:
            failures.append(error)
            continue
        if example.dim() == 4 or (example.dim() == 2 and not pooling):  # not tokens
            return model.train(), example
    raise ValueError(f"img_size: {name} cannot take chips of {img_size[0]}x{img_size[1]}: {one_line(failures[0])}")


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_timm_backbone(cfg: Any) -> TimmBackbone:
    """The timm model ``MODEL.TIMM.NAME`` with start weights from the file ``MODEL.BACKBONE.PRETRAIN_PATH``.

    Raises:
        ValueError: timm is not installed, an unknown name.
        MOSError: a FEAT_DIM that is not the model's; start weights that cannot be read or do not fit.
    """
    return started(cfg, TimmBackbone(cfg.MODEL.TIMM.NAME, tuple(cfg.INPUT.SIZE_TRAIN)))
