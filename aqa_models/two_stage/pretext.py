"""The self-supervised tasks: how slow is it, what is missing, what came first (paper 3.1, table 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import correlate1d
from torch import Tensor

from aqa_models.skeletons import skeleton
from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.sequence import pad_front

LIMBS = ("LA", "RA", "LL", "RL")
_HALF_WIDTH = 10  # of the low-pass filter, frames


@dataclass(frozen=True)
class PretextBatch:
    """What the non-expert reads and must answer.

    Attributes:
        slowed: (B, T, F) S', front padded; its segments shuffled if the pretext is order.
        valid: (B, T) bool, False on padding.
        pace: (B,) int64 class, position in the pool of paces; 0 without the pace task.
        observed: (B, F) bool, coordinates of joints that the recording shows.
        limb: (B,) int64, limb drawn, position in LIMBS.
        hidden: (B, T, F) bool, what the decoder must fill in; False on padding.
        counts: (B, T, F) bool, what counts in the reconstruction.
        order: (B, N) int64, where each shuffled segment belongs; -1 behind the last of a short sequence.
    """

    slowed: Tensor
    valid: Tensor
    pace: Tensor
    observed: Tensor
    limb: Tensor
    hidden: Tensor
    counts: Tensor
    order: Tensor

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


def low_pass(x: np.ndarray, band: float) -> np.ndarray:
    """(n, F) without what is faster than `band` times the Nyquist frequency; constants stay as they are."""
    at = np.arange(-_HALF_WIDTH, _HALF_WIDTH + 1)
    weights = np.sinc(band * at) * np.hamming(len(at))
    return correlate1d(x, weights / weights.sum(), axis=0, mode="reflect")


def limb_columns(skeleton_name: str, num_coordinates: int, with_root: bool = True) -> Tensor:
    """(4, F) bool: the flattened coordinates of the limbs LA, RA, LL, RL, shoulder and hip in or out."""
    body = skeleton(skeleton_name)
    columns = torch.zeros(len(LIMBS), len(body.joints), num_coordinates, dtype=torch.bool)
    for row, limb in enumerate(LIMBS):
        columns[row, list(body.limbs[limb][0 if with_root else 1 :])] = True
    return columns.flatten(1)


def shuffle_segments(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n, F) cut into len(order) segments of nearly equal length; place i receives segment order[i]."""
    segments = np.array_split(x, len(order))
    return np.concatenate([segments[k] for k in order])


def make_batch(
    sequences: list[np.ndarray],
    observed: list[np.ndarray],
    config: NonExpertConfig,
    limbs: Tensor,
    generators: list[np.random.Generator],
    crop_frames: int = 0,
    num_frames: int = 0,
) -> PretextBatch:
    """Draws crop, pace, limb and order for each sequence.

    Every sequence has its own generator, so a batch drawn by two workers equals one drawn by one.

    Args:
        sequences: B arrays (n_b, F).
        observed: B arrays (J,) bool.
        config: pretext, paces and guard.
        limbs: (4, F) of `limb_columns`.
        generators: B random generators.
        crop_frames: longest window taken of a sequence; 0 = whole sequences.
        num_frames: pad to this many frames at least.
    """
    slowed, paces, drawn, orders = [], [], [], []
    for x, generator in zip(sequences, generators, strict=True):
        draws = generator.random(5)
        if 0 < crop_frames < len(x):
            begin = int(draws[0] * (len(x) - crop_frames + 1))
            x = x[begin : begin + crop_frames]
        pace = int(draws[1] * len(config.paces)) if config.pace else 0
        if config.pace:
            x = _slow_down(x, config, pace, draws[2], draws[3])
        order = np.full(config.order_segments, -1)
        if config.pretext == "order":
            count = min(config.order_segments, len(x))
            order[:count] = generator.permutation(count)
            x = shuffle_segments(x, order[:count])
        slowed.append(torch.from_numpy(x))
        paces.append(pace)
        drawn.append(int(draws[4] * len(limbs)))
        orders.append(torch.from_numpy(order))
    padded, valid = pad_front(slowed, num_frames)
    limb = torch.tensor(drawn)
    width = padded.shape[2]
    told = torch.stack([torch.from_numpy(np.repeat(seen, width // len(seen))) for seen in observed])
    hidden, counts = _hidden(config, valid, limbs[limb], told)
    return PretextBatch(
        padded, valid, torch.tensor(paces), told, limb, hidden, counts, torch.stack(orders).long()
    )


def _slow_down(x: np.ndarray, config: NonExpertConfig, pace: int, start: float, shift: float) -> np.ndarray:
    """S' of one sequence, with as few traces of the interpolation as the guard promises.

    Linear interpolation damps fast motion, the more the slower the pace, and a spectrum of a few numbers
    tells the five paces apart by that alone. Filtering before slowing does not help: the edge of the band
    moves with the pace. Filtering behind it does, well below the band that the slowest pace leaves
    (docs/papers.md).
    """
    slowed = adjust_pace(x, config.paces[pace], start, 0.0 if config.pace_guard == "none" else shift)
    if config.pace_guard == "low_pass":
        slowed = low_pass(slowed, min(config.paces) / 2)
    return slowed


def _hidden(config: NonExpertConfig, valid: Tensor, limb: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoder must fill in and what of its answer counts, both (B, T, F)."""
    shape = (*valid.shape, limb.shape[1])
    there = valid[..., None].expand(shape)
    shown = there & observed[:, None]
    if config.pretext == "inpaint":
        return there & limb[:, None], shown
    if config.pretext == "recon":
        return there, shown
    if config.pretext == "motion_pred":
        num = valid.sum(dim=1, keepdim=True)
        position = torch.arange(valid.shape[1]) - (valid.shape[1] - num)
        second = (position >= (num + 1) // 2)[..., None]
        return there & second, shown & second
    nothing = torch.zeros(shape, dtype=torch.bool)
    return nothing, nothing
