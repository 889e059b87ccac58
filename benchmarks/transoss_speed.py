"""TransOSS forward and training step: its attention against the same network with the softmax written out.

    python benchmarks/transoss_speed.py [--batch 8] [--depth 12] [--dim 768] [--repeats 9] [--threads 1]

The other network has the same weights and differs only in its attention: q k^T, softmax, times v. Both give the same
feature and gradient (checked). On a GPU also in the mixed precision that training uses. Goal: never slower, on a GPU
clearly faster.
"""

from __future__ import annotations

import argparse
import copy

import torch
from _timing import compare
from tabulate import tabulate
from torch import Tensor, nn

from fastreid_mos.modeling import TransOSS
from fastreid_mos.modeling.transoss import Attention


class SoftmaxAttention(nn.Module):
    """The attention of a :class:`~fastreid_mos.modeling.transoss.Attention`, written out."""

    def __init__(self, same: Attention) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = same.num_heads, same.qkv, same.proj
        self.attn_drop, self.proj_drop = nn.Dropout(same.attn_drop), same.proj_drop

    def forward(self, tokens: Tensor, first_only: bool = False) -> Tensor:
        rows, length, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(rows, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((query @ key.transpose(-2, -1) * (dim // self.num_heads) ** -0.5).softmax(dim=-1))
        mixed = self.proj_drop(self.proj((weights @ value).transpose(1, 2).reshape(rows, length, dim)))
        return mixed[:, :1] if first_only else mixed


def with_softmax(model: TransOSS) -> TransOSS:
    """A copy of the network with the attention written out."""
    other = copy.deepcopy(model)
    for block in other.blocks:
        block.attn = SoftmaxAttention(block.attn)
    return other


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), help="height and width of a chip")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {"embed_dim": args.dim, "num_heads": args.dim // 64, "depth": args.depth, "stride_size": args.stride}
    rows = []
    cases = [("cpu", None)] + ([("cuda", None), ("cuda", torch.float16)] if torch.cuda.is_available() else [])
    for device, dtype in cases:
        torch.manual_seed(0)
        model = TransOSS(img_size=tuple(args.size), drop_path_rate=0.0, **settings).to(device)
        other = with_softmax(model)
        batch = (
            torch.randn(args.batch, 3, *args.size, device=device),
            torch.arange(args.batch, device=device) % 2,
            torch.randn(args.batch, 3, device=device),
        )

        def forward(network: TransOSS, batch=batch, device=device, dtype=dtype) -> Tensor:
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                return network(*batch)

        @torch.no_grad()
        def infer(network: TransOSS, forward=forward) -> Tensor:
            return forward(network.eval())

        # Not the sum of squares: after a layer norm that is constant.
        direction = torch.randn(args.batch, args.dim, device=device)

        def train(network: TransOSS, forward=forward, direction=direction) -> None:
            network.train().zero_grad()
            (forward(network).float() * direction).sum().backward()

        if dtype is None:
            torch.testing.assert_close(infer(model), infer(other), atol=1e-3, rtol=1e-3)
            train(model), train(other)
            ours, theirs = model.cls_token.grad, other.cls_token.grad
            torch.testing.assert_close(ours, theirs, atol=1e-3 * theirs.abs().max().item(), rtol=1e-2)
        for name, step in (("forward", infer), ("training step", train)):
            ours, theirs, ratio = compare(
                lambda s=step, m=model: s(m), lambda s=step, m=other: s(m), args.repeats, device, warm_up=1
            )
            precision = str(dtype or torch.float32).removeprefix("torch.")
            rows.append([device, precision, name, 1e3 * theirs, 1e3 * ours, ratio])
    print(
        f"TransOSS of {args.depth} blocks and width {args.dim}, {args.batch} chips of {args.size[0]}x{args.size[1]}, "
        f"{args.threads} threads, median of {args.repeats} turns"
    )
    print(tabulate(rows, ["device", "precision", "", "softmax, ms", "TransOSS, ms", "times faster"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
