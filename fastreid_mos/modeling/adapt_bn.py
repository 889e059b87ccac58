"""Batch norm adapted to the chips that are tested, without their labels (transductive)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError


class AdaptedModel(nn.Module):
    """A model whose backbone normalizes each modality by statistics of the chips that are tested, for evaluation.

    Mean and variance of each layer are ``1 - weight`` of the training's and ``weight`` of the tested chips' (Schneider
    et al., NeurIPS 2020, arXiv 2006.16971), measured in batches of one modality that are normalized by themselves as in
    training. The head keeps its own.

    Args:
        model: a MOS model; after each call it is as before.
        batches: what will be tested; read once. Several processes have a share each.
        weight: 0..1.

    Raises:
        ConfigError: a backbone without batch norm.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Mapping[str, Any]], weight: float) -> None:
        super().__init__()
        self.model, self.layers = model.eval(), norm_layers(model)
        own = self._statistics()
        sums = [torch.zeros_like(own), torch.zeros_like(own)]
        counts = own.new_zeros(2)
        with torch.no_grad(), self._lent():
            self._set(own.clone())  # written into below
            for layer in self.layers:
                layer.train().momentum = 1.0  # the running statistics are the batch's
                layer.num_batches_tracked = None
            for batch in batches:
                for modality, rows, part in _by_modality(batch):
                    if len(rows) > 1:
                        model(part)
                        sums[modality] += self._statistics() * len(rows)
                        counts[modality] += len(rows)
        if dist.is_available() and dist.is_initialized():
            for tensor in (counts, *sums):
                dist.all_reduce(tensor)
        # A modality without chips keeps the training's.
        self.adapted = [torch.lerp(own, total / n, weight) if n else own for total, n in zip(sums, counts, strict=True)]

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """The model's features, ``[B, D]``."""
        rows, features = [], []
        with self._lent():
            for modality, own, part in _by_modality(batch):
                self._set(self.adapted[modality])
                rows.append(own)
                features.append(self.model(part))
        return torch.cat(features)[torch.cat(rows).argsort().to(features[0].device)]

    def _statistics(self) -> Tensor:
        """Means and variances of all layers, one after the other."""
        buffers: Any = ((layer.running_mean, layer.running_var) for layer in self.layers)
        return torch.cat([buffer for pair in buffers for buffer in pair])

    def _set(self, statistics: Tensor) -> None:
        parts = iter(torch.split(statistics, [layer.num_features for layer in self.layers for _ in range(2)]))
        for layer in self.layers:
            layer.running_mean, layer.running_var = next(parts), next(parts)

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """The layers have their own statistics and modes again afterwards."""
        kept = ("running_mean", "running_var", "num_batches_tracked", "momentum", "training")
        before = [{name: getattr(layer, name) for name in kept} for layer in self.layers]
        try:
            yield
        finally:
            for layer, values in zip(self.layers, before, strict=True):
                for name, value in values.items():
                    setattr(layer, name, value)


def norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The backbone's layers of batch norm; a ConfigError without any."""
    layers = [layer for layer in model.get_submodule("backbone").modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise ConfigError("TEST.ADAPT_BN.WEIGHT: must be 0, this backbone has no batch norm")
    return layers


def _by_modality(batch: Mapping[str, Any]) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    """Each modality of a batch: its rows' indices, and the batch of them alone."""
    modalities = torch.as_tensor(batch["modalities"]).cpu()
    for modality in (0, 1):
        rows = (modalities == modality).nonzero().ravel()
        if len(rows):
            part = {
                name: value[rows.to(value.device)] if isinstance(value, Tensor) else [value[row] for row in rows]
                for name, value in batch.items()
            }
            yield modality, rows, part
