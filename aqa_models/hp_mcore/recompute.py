"""Layers that are computed twice instead of remembered: memory for time, same gradient, same statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, x: Tensor, model: nn.Module) -> Tensor:
    """`layer(x)`, whose activations are computed again in the backward pass (gradient checkpointing).

    Args:
        layer: part of a network.
        x: its input.
        model: holds every batch normalisation that `layer` runs, also by its hooks.
    """
    contexts = lambda: (nullcontext(), _statistics_kept(model))  # noqa: E731
    return checkpoint(layer, x, use_reentrant=False, context_fn=contexts)  # type: ignore[return-value]


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """The second pass normalises as the first did and must not count the batch a second time."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
