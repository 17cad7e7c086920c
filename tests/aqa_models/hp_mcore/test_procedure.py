from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aqa_models.hp_mcore.procedure import (
    ProcedureSegmentation,
    check_transitions,
    decode_halves,
    decode_ordered,
    equal_parts,
    frames_of_windows,
    interpolate,
    resample,
    slots_of,
)


def present_of(*counts: int, slots: int) -> Tensor:
    """The first K - 1 slots and the last one."""
    return torch.tensor([[True] * (k - 1) + [False] * (slots - k) + [True] for k in counts])


def test_size_of_the_released_segmentation():
    net = ProcedureSegmentation([368], 3, dropout=0.5)
    assert sum(p.numel() for p in net.parameters()) == 1_630_978
    assert net(torch.randn(2, 96, 368)).shape == (2, 96, 2)


def test_several_features_are_read_together():
    torch.manual_seed(0)
    net = ProcedureSegmentation([6, 4], 4, dropout=0.5).eval()
    a, b = torch.randn(2, 20, 6), torch.randn(2, 20, 4)
    assert net(a, b).shape == (2, 20, 3)
    assert not torch.equal(net(a, b), net(a + torch.randn_like(a), b))
    torch.testing.assert_close(net(1000 * a, b), net(a, b), atol=1e-3, rtol=1e-3)  # scale does not matter


def test_halves_by_hand():
    logits = torch.zeros(2, 10, 2)
    logits[0, 3, 0] = logits[0, 7, 1] = 1
    logits[1, 8, 0], logits[1, 2, 0] = 9, 1  # the second half of channel 0 is never looked at
    logits[1, 1, 1], logits[1, 5, 1] = 9, 1
    assert decode_halves(logits).tolist() == [[3, 7], [2, 5]]


@pytest.mark.parametrize("slots", [2, 3, 4, 5, 6])
def test_ordered_decoding_equals_brute_force(slots):
    generator = torch.Generator().manual_seed(slots)
    frames, counts = 9, list(range(2, slots + 1)) * 3
    logits = torch.randn(len(counts), frames, slots - 1, generator=generator)
    present = present_of(*counts, slots=slots)
    decoded = decode_ordered(logits, present)
    for row, used in enumerate(present[:, 1:]):
        channels = used.nonzero().flatten().tolist()
        best = max(
            combinations(range(1, frames), len(channels)),
            key=lambda at: sum(float(logits[row, t, c]) for t, c in zip(at, channels, strict=True)),
        )
        assert decoded[row, used].tolist() == list(best)
        assert (decoded[row, ~used] == -1).all()


def test_ordered_decoding_at_its_limits():
    assert decode_ordered(torch.zeros(1, 4, 3), present_of(4, slots=4)).tolist() == [[1, 2, 3]]
    falling = torch.zeros(1, 8, 2)
    falling[0, 6, 0] = falling[0, 2, 1] = 5  # each channel's own best frame is out of order
    assert decode_halves(falling).tolist() == [[0, 4]]
    (first, second) = decode_ordered(falling, present_of(3, slots=3))[0].tolist()
    assert first < second
    assert falling[0, first, 0] + falling[0, second, 1] == 5
    with pytest.raises(ValueError, match="3 frames cannot hold 4 procedures"):
        decode_ordered(torch.zeros(1, 3, 3), present_of(4, slots=4))


def test_equal_parts_by_hand():
    assert equal_parts(present_of(3, 2, slots=3), 96).tolist() == [[32, 64], [-1, 48]]
    assert equal_parts(present_of(5, 4, slots=6), 100).tolist() == [
        [20, 40, 60, -1, 80],
        [25, 50, -1, -1, 75],
    ]


def test_slots_by_hand():
    assert slots_of([20, 60], 3) == ([20, 60], [True, True, True])
    assert slots_of([20, 40, 60], 3) == ([20, 60], [True, True, True])  # first and last, as released
    assert slots_of([20, 30, 40, 60], 3) == ([20, 60], [True, True, True])
    assert slots_of([20, 30, 40, 60], 4) == ([20, 30, 60], [True] * 4)
    assert slots_of([20, 60], 5) == ([20, -1, -1, 60], [True, True, False, False, True])
    assert slots_of([20, 60], 2) == ([60], [True, True])
    assert slots_of([60], 3) == ([-1, 60], [True, False, True])
    for wrong in ([], [0, 5], [5, 5], [9, 5]):
        with pytest.raises(ValueError, match="transitions must rise from frame 1 on"):
            slots_of(wrong, 3)


@pytest.mark.parametrize("wrong", [[30, 20], [30, 30], [0, 20], [30, 96], [-1, 20]])
def test_transitions_out_of_order_are_refused_by_row(wrong):
    good, all_three = [29, 62], present_of(3, 3, slots=3)
    check_transitions(torch.tensor([good, good]), all_three, 96)
    with pytest.raises(ValueError, match=r"transitions of row 1 are .* must rise from 1 to 95 in the slots"):
        check_transitions(torch.tensor([good, wrong]), all_three, 96)


def test_transitions_of_unused_slots():
    two = present_of(2, slots=3)
    check_transitions(torch.tensor([[-1, 62]]), two, 96)
    with pytest.raises(ValueError, match="be -1 elsewhere"):
        check_transitions(torch.tensor([[29, 62]]), two, 96)
    with pytest.raises(ValueError, match="must use the first and the last slot"):
        check_transitions(torch.tensor([[29, -1]]), torch.tensor([[True, True, False]]), 96)


def stretched(part: Tensor, steps: int) -> Tensor:
    """(n, D) -> (steps, D) by torch's own interpolation."""
    return F.interpolate(part.T[None], size=steps, mode="linear", align_corners=True)[0].T


def test_overlapping_slices_are_those_of_the_released_code():
    x = torch.randn(1, 96, 5)
    a, b = 29, 62
    got = resample(x, torch.tensor([[a, b]]), present_of(3, slots=3), 10, "overlapping")[0]
    for k, part in enumerate([x[0, : a + 1], x[0, a : b + 1], x[0, b - 1 :]]):
        torch.testing.assert_close(got[k], stretched(part, 10), atol=1e-5, rtol=1e-5)


def test_overlapping_windows_are_those_of_the_released_code():
    x = torch.randn(1, 9, 5)
    got = resample(x, torch.tensor([[29, 62]]), present_of(3, slots=3), 10, "overlapping", 10, 16)[0]
    for k, part in enumerate([x[0, :3], x[0, 2:7], x[0, 5:]]):
        torch.testing.assert_close(got[k], stretched(part, 10), atol=1e-5, rtol=1e-5)
    late = resample(x, torch.tensor([[5, 95]]), present_of(3, slots=3), 10, "overlapping", 10, 16)[0]
    torch.testing.assert_close(late[2], x[0, 8].expand(10, 5))  # item 9 does not exist
    torch.testing.assert_close(late[0], x[0, 0].expand(10, 5))


def test_disjoint_slices_of_any_number_of_procedures():
    x = torch.randn(2, 40, 3)
    transitions = torch.tensor([[7, 19, -1, 33], [12, -1, -1, 13]])
    got = resample(x, transitions, present_of(4, 3, slots=5), 6, "disjoint")
    bounds = [
        {0: (0, 7), 1: (7, 19), 2: (19, 33), 4: (33, 40)},
        {0: (0, 12), 1: (12, 13), 4: (13, 40)},
    ]
    for row in range(2):
        for slot in range(5):
            if slot in bounds[row]:
                first, end = bounds[row][slot]
                expected = stretched(x[row, first:end], 6)
            else:
                expected = torch.zeros(6, 3)
            torch.testing.assert_close(got[row, slot], expected, atol=1e-5, rtol=1e-5)


def test_disjoint_windows_stand_at_their_middle():
    middles = 10.0 * torch.arange(9) + 7.5  # frames 0 to 15 have their middle at 7.5
    got = resample(
        middles[None, :, None], torch.tensor([[20, 60]]), present_of(3, slots=3), 5, "disjoint", 10, 16
    )[0, :, :, 0]
    expected = torch.stack(
        [torch.linspace(0, 19, 5), torch.linspace(20, 59, 5), torch.linspace(60, 95, 5)]
    ).clamp(7.5, 87.5)  # nothing is known before the first and after the last middle
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    frames = frames_of_windows(middles[None, :, None], 96)[0, :, 0]
    torch.testing.assert_close(frames, torch.arange(96.0).clamp(7.5, 87.5), atol=1e-4, rtol=1e-4)


def test_resampling_is_differentiable_and_row_by_row():
    x = torch.randn(3, 30, 4, dtype=torch.float64, requires_grad=True)
    transitions = torch.tensor([[5, 20], [-1, 9], [1, 2]])
    present = present_of(3, 2, 3, slots=3)
    assert torch.autograd.gradcheck(lambda y: resample(y, transitions, present, 4, "disjoint"), x)
    together = resample(x, transitions, present, 4, "disjoint")
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(
            together[one], resample(x[one], transitions[one], present[one], 4, "disjoint")
        )


def test_interpolation_between_items():
    x = torch.tensor([[[0.0], [10.0], [40.0]]])
    position = torch.tensor([[0.0, 0.25, 1.0, 1.5, 2.0]])
    wanted = torch.tensor([[True, True, True, True, False]])
    assert interpolate(x, position, wanted)[0, :, 0].tolist() == [0, 2.5, 10, 25, 0]
