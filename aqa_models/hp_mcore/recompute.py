"""Layers that are computed twice instead of remembered: memory for time, same gradient, same statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, whose activations are computed again in the backward pass (gradient checkpointing)."""
    contexts = lambda: (nullcontext(), _statistics_kept(layer))  # noqa: E731
    return checkpoint(layer, x, use_reentrant=False, context_fn=contexts)  # type: ignore[return-value]


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    """The second pass normalises as the first did and must not count the batch a second time."""
    norms = [m for m in layer.modules() if isinstance(m, _BatchNorm) and m.training]
    tracking = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracked
