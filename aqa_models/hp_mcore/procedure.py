"""Procedures of a performance: where they begin, and each of them resampled to the same number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

WINDOW, WINDOW_STRIDE = 16, 10
"""Frames that a dynamic feature covers, and frames between the starts of two of them."""
JOINED_WIDTH = 256
"""Width to which several features are brought before the segmentation reads them together."""


class ProcedureSegmentation(nn.Module):
    """One bidirectional GRU over the frames and a linear layer (spec 2.4).

    With one feature per frame it is the released model: as many hidden units as inputs, 1,630,978
    parameters at 368 inputs and 2 transitions. Several features are first brought to one scale and width,
    and summed.

    Args:
        widths: D of each feature it reads.
        num_procedures: P.
        dropout: share of hidden units left out in training.
    """

    def __init__(self, widths: Sequence[int], num_procedures: int, dropout: float):
        super().__init__()
        self.join = nn.ModuleList()
        if len(widths) > 1:
            self.join.extend(nn.Sequential(nn.LayerNorm(w), nn.Linear(w, JOINED_WIDTH)) for w in widths)
        hidden = JOINED_WIDTH if len(widths) > 1 else widths[0]
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * hidden, num_procedures - 1)

    def forward(self, *features: Tensor) -> Tensor:
        """(B, T, D) each -> logits (B, T, P - 1): channel p says where the procedure in slot p + 1 begins."""
        if self.join:
            x = torch.stack([layer(f) for layer, f in zip(self.join, features, strict=True)]).sum(dim=0)
        else:
            (x,) = features
        states, _ = self.gru(x)
        return self.out(self.dropout(states))


def decode_halves(logits: Tensor) -> Tensor:
    """Argmax of each channel in its half of the frames, as the released code does (spec 2.4).

    Args:
        logits: (B, T, 2).

    Returns:
        (B, 2) long. 42 of the 749 test dives of FineDiving have a transition outside its half.
    """
    half = logits.shape[1] // 2
    return torch.stack([logits[:, :half, 0].argmax(dim=1), half + logits[:, half:, 1].argmax(dim=1)], dim=1)


def decode_ordered(logits: Tensor, present: Tensor) -> Tensor:
    """The strictly increasing frames >= 1 whose logits have the largest sum.

    Dynamic programming over the slots: the best sum with this slot beginning at frame t is its logit plus
    the best sum of the slots before with the last of them beginning earlier than t.

    Args:
        logits: (B, T, P - 1). The softmax over the frames would add the same to all candidates.
        present: (B, P) bool, the slots used.

    Returns:
        (B, P - 1) long, -1 for slots not used.

    Raises:
        ValueError: fewer frames than procedures.
    """
    batch, frames, slots = logits.shape
    if frames < slots + 1:
        raise ValueError(f"{frames} frames cannot hold {slots + 1} procedures")
    logits, used = logits.float(), present[:, 1:]
    nowhere = logits.new_full((batch, 1), -torch.inf)
    # The procedure in slot 0 begins at frame 0.
    best = torch.cat([logits.new_zeros(batch, 1), nowhere.expand(-1, frames - 1)], dim=1)
    came_from = []
    for slot in range(slots):
        earlier, frame = best.cummax(dim=1)
        begun = logits[:, :, slot] + torch.cat([nowhere, earlier[:, :-1]], dim=1)
        came_from.append(torch.cat([frame[:, :1], frame[:, :-1]], dim=1))
        best = torch.where(used[:, slot, None], begun, best)
    at = best.argmax(dim=1)
    decoded = torch.full_like(used, -1, dtype=torch.long)
    for slot in reversed(range(slots)):
        decoded[:, slot] = torch.where(used[:, slot], at, -1)
        at = torch.where(used[:, slot], came_from[slot].gather(1, at[:, None]).squeeze(1), at)
    return decoded


def equal_parts(present: Tensor, frames: int) -> Tensor:
    """Transitions that cut a performance into equally long procedures (ablation).

    Args:
        present: (B, P) bool.
        frames: T.

    Returns:
        (B, P - 1) long, -1 for slots not used.
    """
    share = frames / present.sum(dim=1, keepdim=True)
    order = present.long().cumsum(dim=1)[:, 1:] - 1
    return torch.where(present[:, 1:], (order * share).round().long(), -1)


def slots_of(steps: Sequence[int], num_procedures: int) -> tuple[list[int], list[bool]]:
    """Transitions and slots of a performance that was annotated with its own number of steps.

    With at most P steps, the first ones take the first slots and the last one slot P - 1. With more, slot
    P - 2 holds all steps from there to the last one: at P = 3 a dive of 5 steps keeps its first and its
    last transition, as in the released code (spec 1.3).

    Args:
        steps: first frame of every step but the first, rising; 1 to any number of them.
        num_procedures: P.

    Returns:
        P - 1 transitions (-1 = slot not used), and P times whether the slot is used.

    Raises:
        ValueError: no transition at all, or transitions that do not rise from 1 on.
    """
    if not steps or any(b <= a for a, b in zip([0, *steps], steps, strict=False)):
        raise ValueError(f"transitions must rise from frame 1 on, got {list(steps)}")
    kept = list(steps[:-1])[: num_procedures - 2]
    transitions = kept + [-1] * (num_procedures - 2 - len(kept)) + [steps[-1]]
    return transitions, [True] + [t >= 0 for t in transitions]


def check_transitions(transitions: Tensor, present: Tensor, frames: int) -> None:
    """Raises ValueError, naming the row, unless transitions rise from frame 1 to T - 1 in the slots used."""
    used = present[:, 1:]
    known = torch.where(used, transitions, 0)
    before = torch.cat([torch.zeros_like(known[:, :1]), known.cummax(dim=1).values[:, :-1]], dim=1)
    wrong = used & ((known <= before) | (known >= frames)) | (~used & (transitions != -1))
    rows = wrong.any(dim=1).nonzero().flatten().tolist()
    if rows:
        slots = present[rows[0]].nonzero().flatten().tolist()
        raise ValueError(
            f"transitions of row {rows[0]} are {transitions[rows[0]].tolist()}, but must rise from 1 to "
            f"{frames - 1} in the slots used, {slots}, and be -1 elsewhere"
        )
    if not (present[:, 0] & present[:, -1]).all():
        raise ValueError("every performance must use the first and the last slot")


def resample(
    sequence: Tensor,
    transitions: Tensor,
    present: Tensor,
    steps: int,
    slices: Literal["overlapping", "disjoint"],
    stride: int = 1,
    window: int = 1,
) -> Tensor:
    """Cuts sequences at their transitions and brings each procedure to `steps` steps, linearly, ends kept.

    `disjoint`: a procedure is its own frames, first to last. An item that covers a window of frames stands
    at the window's middle, so that a step at frame f reads item (f - (window - 1) / 2) / stride.
    `overlapping` (released code, spec 2.4): the items up to and including the next transition, those of the
    last procedure from one before its own; a transition at frame t is item t // stride.

    Args:
        sequence: (B, S, D); item s covers frames s * stride to s * stride + window - 1.
        transitions: (B, P - 1) frames, rising; -1 = slot not used.
        present: (B, P) bool.
        steps: steps of each procedure.
        slices: see above.
        stride: frames between two items.
        window: frames that an item covers.

    Returns:
        (B, P, steps, D), zero in slots not used; differentiable in `sequence`.
    """
    items = sequence.shape[1]
    starts = torch.cat([torch.zeros_like(transitions[:, :1]), transitions], dim=1)
    ends = _next_starts(starts, present, frames=(items - 1) * stride + window)
    if slices == "disjoint":
        middle = (window - 1) / 2
        first, last = (starts - middle) / stride, (ends - 1 - middle) / stride
    else:
        first, last = (starts // stride).float(), (ends // stride).float()
        first[:, -1] -= 1
        first, last = first.clamp(0, items - 1), last.clamp(0, items - 1)
    share = torch.linspace(0, 1, steps, device=sequence.device)
    position = first[..., None] + (last - first)[..., None] * share
    position = position.clamp(0, items - 1)  # before the first window's middle there is only the first window
    return interpolate(sequence, position.flatten(1), present.repeat_interleave(steps, dim=1)).unflatten(
        1, (present.shape[1], steps)
    )


def frames_of_windows(windows: Tensor, frames: int) -> Tensor:
    """(B, N, D) dynamic features -> (B, T, D): each frame between the windows whose middles surround it."""
    frame = torch.arange(frames, device=windows.device)
    position = ((frame - (WINDOW - 1) / 2) / WINDOW_STRIDE).clamp(0, windows.shape[1] - 1)
    position = position.expand(len(windows), -1)
    return interpolate(windows, position, torch.ones_like(position, dtype=torch.bool))


def every_frame(features: Tensor, stride: int, frames: int) -> Tensor:
    """(B, ceil(T / stride), D) features of every stride-th frame -> (B, T, D), linear in between."""
    if stride == 1:
        return features
    frame = torch.arange(frames, device=features.device)
    position = (frame / stride).clamp(max=features.shape[1] - 1).expand(len(features), -1)
    return interpolate(features, position, torch.ones_like(position, dtype=torch.bool))


def interpolate(sequence: Tensor, position: Tensor, wanted: Tensor) -> Tensor:
    """Values between the items of a sequence.

    A product with hat functions: a third of the time of gathering, and its gradient adds up in a fixed order
    on every device.

    Args:
        sequence: (B, S, D).
        position: (B, M) in items, 0 to S - 1.
        wanted: (B, M) bool; elsewhere the result is zero.

    Returns:
        (B, M, D).
    """
    item = torch.arange(sequence.shape[1], device=sequence.device)
    weight = (1 - (position[..., None] - item).abs()).clamp(min=0) * wanted[..., None]
    return weight.to(sequence.dtype) @ sequence


def _next_starts(starts: Tensor, present: Tensor, frames: int) -> Tensor:
    """(B, P): the frame after the last one of each procedure; meaningless in slots not used."""
    begins = torch.where(present, starts, frames)
    after = begins.flip(1).cummin(dim=1).values.flip(1)
    return torch.cat([after[:, 1:], torch.full_like(after[:, :1], frames)], dim=1)
