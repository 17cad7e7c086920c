"""The two self-supervised tasks: how slow is the motion, and which limb is missing (paper section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aqa_models.skeletons import skeleton
from aqa_models.two_stage.sequence import pad_front

LIMBS = ("LA", "RA", "LL", "RL")


@dataclass(frozen=True)
class PretextBatch:
    """What the non-expert reads and must answer.

    Attributes:
        slowed: (B, T, F) S', front padded.
        masked: (B, T, F) S' with one limb set to zero in all frames.
        valid: (B, T) bool, False on padding.
        pace: (B,) int64 class, position in the pool of paces.
        target: (B, F) bool, coordinates that count in the loss (observed joints).
        hidden: (B, F) bool, coordinates of the masked limb.
    """

    slowed: Tensor
    masked: Tensor
    valid: Tensor
    pace: Tensor
    target: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> PretextBatch:
        """The same batch on another device."""
        return PretextBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def adjust_pace(x: np.ndarray, pace: float, start: float, shift: float = 0.0) -> np.ndarray:
    """Takes floor(n * pace) consecutive frames and stretches them to n by linear interpolation.

    Args:
        x: (n, F) one sequence without padding: the paper writes T, but a window of padding is no motion.
        pace: p in (0, 1].
        start: where the window begins, 0 = first possible frame, 1 = last possible one.
        shift: in [0, 1), moves the first sampling point by part of a frame. Without it p = 1 alone would
            skip the interpolator, and its sharpness would give the class away.

    Returns:
        (n, F) S'.
    """
    if not 0 < pace <= 1:
        raise ValueError(f"pace must be in (0, 1], got {pace}")
    n = len(x)
    taken = max(1, int(np.floor(n * pace + 1e-9)))
    first = round(start * (n - taken))
    if n == 1 or taken == 1:
        return np.repeat(x[first : first + 1], n, axis=0)
    at = np.clip(first + np.linspace(shift, taken - 1, n), 0, n - 1)
    left = np.minimum(at.astype(int), n - 2)
    ahead = (at - left)[:, None].astype(x.dtype)
    return x[left] * (1 - ahead) + x[left + 1] * ahead


def limb_columns(skeleton_name: str, num_coordinates: int) -> Tensor:
    """(4, F) bool: the flattened coordinates of the limbs LA, RA, LL, RL."""
    body = skeleton(skeleton_name)
    columns = torch.zeros(len(LIMBS), len(body.joints), num_coordinates, dtype=torch.bool)
    for row, limb in enumerate(LIMBS):
        columns[row, list(body.limbs[limb])] = True
    return columns.flatten(1)


def make_batch(
    sequences: list[np.ndarray],
    observed: list[np.ndarray],
    paces: tuple[float, ...],
    limbs: Tensor,
    generators: list[np.random.Generator],
    crop_frames: int = 0,
) -> PretextBatch:
    """Draws crop, pace and limb for each sequence.

    Every sequence has its own generator, so a batch drawn by two workers equals one drawn by one.

    Args:
        sequences: B arrays (n_b, F).
        observed: B arrays (J,) bool.
        paces: the pool P.
        limbs: (4, F) of `limb_columns`.
        generators: B random generators.
        crop_frames: longest window taken of a sequence; 0 = whole sequences.
    """
    slowed, classes, hidden, target = [], [], [], []
    for x, seen, generator in zip(sequences, observed, generators, strict=True):
        draws = generator.random(5)
        if 0 < crop_frames < len(x):
            begin = int(draws[0] * (len(x) - crop_frames + 1))
            x = x[begin : begin + crop_frames]
        pace = int(draws[1] * len(paces))
        slowed.append(torch.from_numpy(adjust_pace(x, paces[pace], draws[2], draws[3])))
        classes.append(pace)
        hidden.append(limbs[int(draws[4] * len(limbs))])
        target.append(torch.from_numpy(np.repeat(seen, x.shape[1] // len(seen))))
    padded, valid = pad_front(slowed)
    gone = torch.stack(hidden)
    masked = padded.masked_fill(gone[:, None], 0.0)
    return PretextBatch(padded, masked, valid, torch.tensor(classes), torch.stack(target), gone)
