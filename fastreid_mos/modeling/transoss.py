"""TransOSS, the vision transformer for optical and SAR chips (Wang et al., ICCV 2025, arXiv 2506.22027).

Parameter names are those of the authors' checkpoints, so that these load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import normal_, trunc_normal_, zeros_
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from .inputs import ModelInputError, check_finite, check_modalities

LAYER_NORM_EPS = 1e-6
NUM_MODALITIES = 2
NUM_SIZES = 3


def _pair(value: int | tuple[int, int] | list[int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ConfigError(f"TransOSS {name}: one number, or (height, width), got {value}")
    height, width = pair
    if height < 1 or width < 1:
        raise ConfigError(f"TransOSS {name}: at least 1, got {value}")
    return int(height), int(width)


class DropPath(nn.Module):
    """Stochastic depth: a residual branch is left out for whole rows, the others scaled up (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        mask = branch.new_empty((branch.shape[0],) + (1,) * (branch.dim() - 1)).bernoulli_(keep)
        return branch * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Attention(nn.Module):
    """Multi-head self-attention by PyTorch's ``scaled_dot_product_attention``.

    With ``first_only`` it answers for the first token alone, ``[B, 1, dim]``.
    """

    def __init__(self, dim: int, num_heads: int, attn_drop: float, drop: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor, first_only: bool = False) -> Tensor:
        rows, length, dim = tokens.shape
        width = dim // self.num_heads
        if first_only:
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(tokens[:, :1], weight[:dim], bias[:dim]).view(rows, 1, self.num_heads, width)
            key_value = F.linear(tokens, weight[dim:], bias[dim:]).view(rows, length, 2, self.num_heads, width)
            query, (key, value) = query.transpose(1, 2), key_value.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            qkv = self.qkv(tokens).view(rows, length, 3, self.num_heads, width)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(rows, -1, dim)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(tokens)))))


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth.

    With ``first_only`` it gives the first token alone, ``[B, 1, dim]``, for which the others are still looked at.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop: float, attn_drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, first_only: bool = False) -> Tensor:
        kept = tokens[:, :1] if first_only else tokens
        tokens = kept + self.drop_path(self.attn(self.norm1(tokens), first_only))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class PatchEmbed(nn.Module):
    """Patches to tokens: a convolution whose stride may be smaller than the patch (overlapping patches)."""

    def __init__(
        self, patch_size: tuple[int, int], stride_size: tuple[int, int], in_chans: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=stride_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class SizeEmbed(nn.Module):
    """SSE, the ship-size embedding: a linear map of the three size numbers to one token."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(NUM_SIZES, embed_dim)

    def forward(self, sizes: Tensor) -> Tensor:
        return self.linear_layer(sizes.to(self.linear_layer.weight.dtype)).unsqueeze(1)


class TransOSS(nn.Module):
    """A ViT with one patch embedding per modality, MIE and SSE.

    MIE, the modality information embedding, is a learned vector per modality that is added, times ``mie_scale``, to
    every token together with the position embedding. SSE, the ship-size embedding, is one token more, appended after
    the position embedding.

    Args:
        img_size: (height, width) of the chips in pixels, or one number for a square.
        patch_size: side of a patch, or (height, width).
        stride_size: step between patches; smaller than the patch makes them overlap.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_ratio: hidden width of the blocks' MLP as a multiple of ``embed_dim``.
        mie: whether there is MIE.
        mie_scale: its factor.
        sse: whether there is SSE.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 in the first.
        in_chans: channels of a chip.
        drop_rate: dropout after the position embedding and in the blocks.
        attn_drop_rate: dropout of attention weights.
        modality_patch_embed: one patch embedding per modality; False: a shared one.
        grad_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ConfigError: heads that do not divide the width, an image smaller than a patch.
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
        in_chans: int = 3,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        modality_patch_embed: bool = True,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.img_size = _pair(img_size, "img_size")
        self.patch_size = _pair(patch_size, "patch_size")
        self.stride_size = _pair(stride_size, "stride_size")
        if embed_dim < 1 or num_heads < 1 or depth < 1:
            raise ConfigError(
                f"TransOSS: embed_dim ({embed_dim}), depth ({depth}) and num_heads ({num_heads}) are at least 1"
            )
        for name, rate in (
            ("drop_path_rate", drop_path_rate), ("drop_rate", drop_rate), ("attn_drop_rate", attn_drop_rate),
        ):  # fmt: skip
            if not 0.0 <= rate < 1.0:
                raise ConfigError(f"TransOSS {name}: at least 0 and below 1, got {rate}")
        if int(embed_dim * mlp_ratio) < 1:
            raise ConfigError(f"TransOSS mlp_ratio: {mlp_ratio} leaves no hidden unit")
        if embed_dim % num_heads:
            raise ConfigError(f"TransOSS: num_heads ({num_heads}) must divide embed_dim ({embed_dim})")
        if any(image < patch for image, patch in zip(self.img_size, self.patch_size, strict=True)):
            raise ConfigError(f"TransOSS: an image of {self.img_size} is smaller than a patch of {self.patch_size}")
        # (rows, columns) of patches
        self.grid_size = (
            (self.img_size[0] - self.patch_size[0]) // self.stride_size[0] + 1,
            (self.img_size[1] - self.patch_size[1]) // self.stride_size[1] + 1,
        )
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.embed_dim = self.num_features = embed_dim
        self.mie_scale = mie_scale
        self.grad_checkpoint = grad_checkpoint

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_patches + 1, embed_dim))
        self.mie_embed = nn.Parameter(torch.zeros(NUM_MODALITIES, 1, embed_dim)) if mie else None
        self.patch_embed = PatchEmbed(self.patch_size, self.stride_size, in_chans, embed_dim)
        self.patch_embed_SAR = (
            PatchEmbed(self.patch_size, self.stride_size, in_chans, embed_dim) if modality_patch_embed else None
        )
        self.pos_drop = nn.Dropout(drop_rate)
        rates = [drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, drop_rate, attn_drop_rate, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.wh_embed = SizeEmbed(embed_dim) if sse else None
        self._init_weights()

    def _init_weights(self) -> None:
        for vector in (self.cls_token, self.pos_embed, self.mie_embed):
            if vector is not None:
                trunc_normal_(vector, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):  # its bias keeps Conv2d's own start, as in the authors' code
                rows, columns = module.kernel_size
                normal_(module.weight, std=(2.0 / (rows * columns * module.out_channels)) ** 0.5)

    @property
    def uses_modalities(self) -> bool:
        """Whether ``forward`` needs ``modalities``."""
        return self.mie_embed is not None or self.patch_embed_SAR is not None

    @property
    def uses_sizes(self) -> bool:
        """Whether ``forward`` needs ``sizes``."""
        return self.wh_embed is not None

    def no_weight_decay(self) -> set[str]:
        """Parameters that are usually trained without weight decay."""
        return {"pos_embed", "cls_token", "mie_embed"}

    def forward(self, images: Tensor, modalities: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """The feature of each chip.

        Args:
            images: ``[B, C, H, W]``, normalized, of the size the model was made for.
            modalities: ``[B]``, 0 optical, 1 SAR. Not needed without MIE and with a shared patch embedding.
            sizes: ``[B, 3]``, the numbers of ``fastreid_mos.data.ship_size_features``. Not needed without SSE.

        Returns:
            The class token after the last norm, ``[B, embed_dim]``.

        Raises:
            ModelInputError: a wrong image size, missing modalities or sizes, a modality other than 0 and 1.
        """
        modalities = self._check(images, modalities, sizes)
        rows = images.shape[0]
        images = images.to(self.patch_embed.proj.weight.dtype)
        patches = self._embed_patches(images, modalities)
        tokens = torch.cat([self.cls_token.expand(rows, -1, -1).to(patches.dtype), patches], dim=1) + self.pos_embed
        if self.mie_embed is not None:
            tokens = tokens + self.mie_scale * self.mie_embed[modalities]
        if self.wh_embed is not None:
            assert sizes is not None
            tokens = torch.cat([tokens, self.wh_embed(sizes).to(tokens.dtype)], dim=1)
        tokens = self.pos_drop(tokens)
        for index, block in enumerate(self.blocks):
            # Only the class token leaves the network: the last block need not compute the others.
            last = index == len(self.blocks) - 1
            if self.grad_checkpoint and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, last, use_reentrant=False)
            else:
                tokens = block(tokens, last)
        return self.norm(tokens[:, 0])

    def _embed_patches(self, images: Tensor, modalities: Tensor | None) -> Tensor:
        if self.patch_embed_SAR is None:
            return self.patch_embed(images)
        assert modalities is not None
        # Both embeddings of every row and then a choice: picking rows would make the host wait for the device, and a
        # batch of one modality would leave the other embedding without a gradient, which DDP waits for. The extra work
        # is one part in 12 x depth of the network.
        is_sar = (modalities == 1).view(-1, 1, 1)
        return torch.where(is_sar, self.patch_embed_SAR(images), self.patch_embed(images))

    def _check(self, images: Tensor, modalities: Tensor | None, sizes: Tensor | None) -> Tensor | None:
        if not isinstance(images, Tensor):
            raise ModelInputError(f"images: a tensor [B, C, H, W], not {type(images).__name__}")
        if images.dim() != 4 or tuple(images.shape[2:]) != self.img_size:
            raise ModelInputError(
                f"images: this TransOSS was made for chips of {self.img_size[0]}x{self.img_size[1]} (height x width), "
                f"got a batch of shape {list(images.shape)}; set INPUT.SIZE_TRAIN and INPUT.SIZE_TEST alike"
            )
        channels = self.patch_embed.proj.in_channels
        if images.shape[0] == 0 or images.shape[1] != channels:
            raise ModelInputError(f"images: at least one of {channels} channels, got a batch of {list(images.shape)}")
        if self.uses_modalities:
            if modalities is None:
                raise ModelInputError("TransOSS needs the modality of each chip: 'modalities' [B], 0 optical, 1 SAR")
            modalities = check_modalities(modalities, images.shape[0])
        if self.uses_sizes:
            if sizes is None:
                raise ModelInputError("TransOSS with SSE needs the size numbers of each chip: 'sizes' [B, 3]")
            if not isinstance(sizes, Tensor):
                raise ModelInputError(f"sizes: a tensor [{images.shape[0]}, {NUM_SIZES}], not {type(sizes).__name__}")
            if tuple(sizes.shape) != (images.shape[0], NUM_SIZES):
                raise ModelInputError(f"sizes: [{images.shape[0]}, {NUM_SIZES}], got {list(sizes.shape)}")
            check_finite(sizes, "sizes")
        return modalities
