"""A batch of performances as the model reads them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Performances:
    """Tensors of B performances; what a configuration does not use may be None.

    A performance has 2 to P procedures. The first ones take the slots 0, 1, ...; the last one (the entry)
    always takes slot P - 1, so that a slot means the same in performances of different length.

    Attributes:
        dynamic: (B, N, 1024) I3D features of N windows of 16 frames starting every 10 frames.
        static: (B, T, D) features of each frame.
        frames: (B, T, 3, 112, 112) normalised RGB, for models that hold their visual encoders.
        keypoints: (B, T, J, 2) px, MPII order.
        transitions: (B, P - 1) long: first frame of the procedure in slots 1 to P - 1; -1 = slot not used.
        present: (B, P) bool: slots used.
        splash: (B,) splash score; NaN = not known.
        number: (B,) long: class of the dive number; -1 = not known.
    """

    dynamic: Tensor | None = None
    static: Tensor | None = None
    frames: Tensor | None = None
    keypoints: Tensor | None = None
    transitions: Tensor | None = None
    present: Tensor | None = None
    splash: Tensor | None = None
    number: Tensor | None = None

    def to(self, device: torch.device) -> Performances:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in self._given().items()}
        return replace(self, **moved)

    def __getitem__(self, rows: Tensor | slice) -> Performances:
        """Some of the performances, in the order of `rows`."""
        return replace(self, **{name: value[rows] for name, value in self._given().items()})

    def _given(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}
