"""TransOSS, the vision transformer for optical and SAR chips (Wang et al., ICCV 2025, arXiv 2506.22027).

Parameter names are those of the authors' checkpoints, so that these load as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.layers.drop import DropPath
from fastreid.layers.helpers import to_2tuple
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.backbones.vision_transformer import Mlp, PatchEmbed_overlap
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_
from torch.utils.checkpoint import checkpoint

from .building import started
from .inputs import NUM_SIZES, ModelInputError, check_arguments, check_modalities, check_sizes

NUM_MODALITIES = 2


class Attention(nn.Module):
    """Multi-head self-attention; with ``kept`` above 0 for the first so many tokens alone, ``[B, kept, dim]``."""

    def __init__(self, dim: int, num_heads: int, attn_drop: float, drop: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor, kept: int = 0) -> Tensor:
        rows, length, dim = tokens.shape
        width = dim // self.num_heads
        if kept:
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(tokens[:, :kept], weight[:dim], bias[:dim]).view(rows, kept, self.num_heads, width)
            key_value = F.linear(tokens, weight[dim:], bias[dim:]).view(rows, length, 2, self.num_heads, width)
            query, (key, value) = query.transpose(1, 2), key_value.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            qkv = self.qkv(tokens).view(rows, length, 3, self.num_heads, width)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self.attn_drop if self.training else 0.0)
        output: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(rows, -1, dim)))
        return output


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth; with ``kept`` it gives the first so many tokens alone."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop: float, attn_drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, kept: int = 0) -> Tensor:
        start = tokens[:, :kept] if kept else tokens
        tokens = start + self.drop_path(self.attn(self.norm1(tokens), kept))
        output: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return output


class TransOSS(nn.Module):
    """A ViT with one patch embedding per modality, MIE and SSE.

    Args:
        img_size, patch_size: (height, width) in pixels, or one number for a square.
        stride_size: step between patches; smaller than the patch makes them overlap.
        embed_dim, depth, num_heads: width of a token, number of blocks, attention heads (a divisor of the width).
        mlp_ratio: hidden width of the blocks' MLP as a multiple of ``embed_dim``.
        mie, mie_scale: the modality information embedding, a learned vector per modality that is added, times the
            scale, to every token together with the position embedding.
        sse: the ship-size embedding, one token more, appended after the position embedding.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 in the first.
        drop_rate, attn_drop_rate: dropout after the position embedding and in the blocks, and of attention weights.
        modality_patch_embed: one patch embedding per modality; False: a shared one.
        specific_token: a second class token, one for each modality (SDF-Net, arXiv 2603.12588), whose feature comes
            beside the first one's.
        grad_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ValueError: heads that do not divide the width, a patch or stride larger than the image, a rate outside [0, 1).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = (256, 128),
        patch_size: int | tuple[int, int] = 16,
        stride_size: int | tuple[int, int] = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        mie: bool = True,
        mie_scale: float = 3.0,
        sse: bool = True,
        drop_path_rate: float = 0.1,
        *,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        modality_patch_embed: bool = True,
        specific_token: bool = False,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.img_size, self.patch_size, self.stride_size = map(to_2tuple, (img_size, patch_size, stride_size))
        rates = {"drop_path_rate": drop_path_rate, "drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate}
        check_arguments(
            ("depth", depth, depth >= 1, "at least 1"),
            ("num_heads", num_heads, num_heads >= 1 and embed_dim % num_heads == 0, f"divides embed_dim {embed_dim}"),
            *((name, rate, 0.0 <= rate < 1.0, "at least 0, below 1") for name, rate in rates.items()),
        )
        for name, sides in (("patch_size", self.patch_size), ("stride_size", self.stride_size)):
            fits = len(sides) == 2 and all(1 <= s <= most for s, most in zip(sides, self.img_size, strict=True))
            check_arguments((name, sides, fits, f"(height, width), each from 1 to the image's {self.img_size}"))
        self.kept = 2 if specific_token else 1  # tokens whose features leave the network
        self.embed_dim, self.num_features = embed_dim, self.kept * embed_dim
        self.mie_scale, self.grad_checkpoint = mie_scale, grad_checkpoint
        # Its weights start as the authors': N(0, sqrt(2 / (area x embed_dim))), its bias as Conv2d's.
        patches = {"stride_size": self.stride_size, "embed_dim": embed_dim}
        embeddings = [PatchEmbed_overlap(self.img_size, self.patch_size, **patches) for _ in range(NUM_MODALITIES)]
        self.patch_embed, self.patch_embed_SAR = embeddings[0], embeddings[1] if modality_patch_embed else None
        self.grid_size = (self.patch_embed.num_y, self.patch_embed.num_x)  # (rows, columns) of patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.cls_token_spe_rgb = nn.Parameter(torch.zeros(1, 1, embed_dim)) if specific_token else None
        self.cls_token_spe_sar = nn.Parameter(torch.zeros(1, 1, embed_dim)) if specific_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + self.kept, embed_dim))
        self.mie_embed = nn.Parameter(torch.zeros(NUM_MODALITIES, 1, embed_dim)) if mie else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, drop_rate, attn_drop_rate, drop_path_rate * share)
            for share in np.linspace(0, 1, depth).tolist()
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.wh_embed = nn.ModuleDict({"linear_layer": nn.Linear(NUM_SIZES, embed_dim)}) if sse else None
        # What ``forward`` needs besides images.
        self.uses_modalities, self.uses_sizes = mie or modality_patch_embed or specific_token, sse
        specific = (self.cls_token_spe_rgb, self.cls_token_spe_sar)
        for vector in (self.cls_token, self.pos_embed, self.mie_embed, *specific):
            if vector is not None:
                trunc_normal_(vector, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                zeros_(module.bias)

    def forward(self, images: Tensor, modalities: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """The class token after the last norm, ``[B, embed_dim]``; with the specific one ``[B, 2 embed_dim]``.

        Args:
            images: ``[B, 3, H, W]``, normalized, of the size the model was made for.
            modalities: ``[B]``, 0 optical, 1 SAR. Not needed without MIE and with a shared patch embedding.
            sizes: ``[B, 3]``, the numbers of ``fastreid_mos.data.ship_size_features``. Not needed without SSE.

        Raises:
            ModelInputError: a wrong image size, missing modalities or sizes, a modality other than 0 and 1.
        """
        if images.dim() != 4 or tuple(images.shape[2:]) != tuple(self.img_size):
            given = f"{self.img_size[0]}x{self.img_size[1]} (height x width), got {list(images.shape)}"
            raise ModelInputError(f"images: this TransOSS takes {given}; set INPUT.SIZE_TRAIN and SIZE_TEST alike")
        rows = images.shape[0]  # len() would fix the batch of an exported graph
        if self.uses_modalities:
            modalities = check_modalities(modalities, rows)
        images = images.to(self.cls_token.dtype)
        patches = self.patch_embed(images)
        if self.patch_embed_SAR is not None and modalities is not None:
            # Picking rows would make the host wait for the device, and a batch of one modality would leave the other
            # embedding without a gradient, which DDP waits for.
            patches = torch.where((modalities == 1).view(-1, 1, 1), self.patch_embed_SAR(images), patches)
        first = self.cls_token.expand(rows, -1, -1)
        if self.cls_token_spe_rgb is not None and self.cls_token_spe_sar is not None:
            specific = torch.cat([self.cls_token_spe_rgb, self.cls_token_spe_sar])[modalities]
            first = torch.cat([first, specific], dim=1)
        tokens = torch.cat([first.to(patches.dtype), patches], dim=1) + self.pos_embed
        if self.mie_embed is not None:
            tokens = tokens + self.mie_scale * self.mie_embed[modalities]
        if self.wh_embed is not None:
            size_token = self.wh_embed["linear_layer"](check_sizes(sizes, rows).to(self.cls_token.dtype))
            tokens = torch.cat([tokens, size_token[:, None].to(tokens.dtype)], dim=1)
        tokens = self.pos_drop(tokens)
        for index, block in enumerate(self.blocks):
            # Only the class tokens leave the network: the last block need not compute the others.
            kept = self.kept if index == len(self.blocks) - 1 else 0
            if self.grad_checkpoint and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, kept, use_reentrant=False)
            else:
                tokens = block(tokens, kept)
        feature: Tensor = self.norm(tokens).flatten(1)
        return feature

    def patch_map(self, tokens: Tensor) -> Tensor:
        """The patches among a block's output tokens as a map, ``[B, embed_dim, rows, columns]``."""
        patches = tokens[:, self.kept : self.kept + self.patch_embed.num_patches]
        return patches.transpose(1, 2).reshape(len(tokens), -1, *self.grid_size)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_transoss_backbone(cfg: Any) -> TransOSS:
    """TransOSS from ``MODEL.TRANSOSS``, fast-reid's ``MODEL.BACKBONE`` (stride, dropout, drop path, start weights) and
    ``INPUT.SIZE_TRAIN``. ValueError for an impossible combination, MOSError for start weights that do not fit."""
    return started(cfg, transoss_from_config(cfg))


def transoss_from_config(cfg: Any) -> TransOSS:
    """TransOSS without start weights."""
    common = cfg.MODEL.BACKBONE
    return TransOSS(
        img_size=tuple(cfg.INPUT.SIZE_TRAIN),
        stride_size=tuple(common.STRIDE_SIZE),
        drop_path_rate=common.DROP_PATH_RATIO,
        drop_rate=common.DROP_RATIO,
        attn_drop_rate=common.ATT_DROP_RATE,
        **{key.lower(): value for key, value in cfg.MODEL.TRANSOSS.items()},
    )
