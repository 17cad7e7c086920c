from __future__ import annotations

import numpy as np
import torch

from aqa_models.angles_expert.mirror import mirror
from aqa_models.angles_expert.network import (
    AngleNetwork,
    Clips,
    NetworkSizes,
    batch,
    predict,
    score_loss,
    train,
)
from aqa_models.angles_expert.network_member import coarse

SIZES = NetworkSizes(channels=49, exercises=2, width=8, blocks=2)


def clips(count: int = 24) -> Clips:
    """The height of the whole body says the score, the same in both exercises."""
    generator = np.random.default_rng(0)
    target = generator.normal(size=count)
    channels = [
        (generator.normal(size=(int(generator.integers(6, 14)), 49)) * 0.1 + value).astype(np.float32)
        for value in target
    ]
    return Clips(channels, np.arange(count) % 2, target)


def test_frames_of_padding_and_of_other_clips_do_not_matter():
    network = AngleNetwork(SIZES).eval()
    known = clips()
    x, valid = batch(known.channels[:3])
    assert x.shape == (3, max(len(part) for part in known.channels[:3]), 49)
    exercise = torch.tensor([0, 1, 0])
    together = network(x, valid, exercise)
    x[~valid] = 1e6
    torch.testing.assert_close(network(x, valid, exercise), together)
    for row in range(3):
        alone = network(*batch([known.channels[row]]), exercise[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-5)


def test_scores_are_the_same_in_a_mirror():
    network, known = AngleNetwork(SIZES).eval(), clips()
    mirrored = [mirror(part) for part in known.channels]
    np.testing.assert_allclose(
        predict(network, mirrored, known.exercise),
        predict(network, known.channels, known.exercise),
        atol=1e-6,
    )


def test_training_learns_watches_and_repeats_itself():
    known, seen = clips(), []
    network = train(known, SIZES, epochs=40, seed=3, watch=lambda epoch, _: seen.append(epoch))
    answer = predict(network, known.channels, known.exercise)
    assert np.corrcoef(answer, known.target)[0, 1] > 0.9
    assert seen == list(range(5, 41, 5))
    state = torch.get_rng_state()
    again = train(known, SIZES, epochs=40, seed=3)
    np.testing.assert_array_equal(predict(again, known.channels, known.exercise), answer)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's draws are left alone


def test_the_loss_asks_for_the_order_within_an_exercise_only():
    target, exercise = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0, 0, 1])
    right = score_loss(target, target, exercise)
    torch.testing.assert_close(right, 0.3 * torch.nn.functional.softplus(torch.tensor(-2.0)))
    turned = score_loss(torch.tensor([1.0, 0.0, 0.0]), target, exercise)
    huber = torch.nn.functional.smooth_l1_loss(torch.tensor([1.0, 0.0, 0.0]), target, beta=0.5)
    torch.testing.assert_close(turned, huber + 0.3 * torch.nn.functional.softplus(torch.tensor(2.0)))
    alone = score_loss(torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(alone, torch.tensor(0.75))


def test_slow_means_are_over_all_frames():
    (slow,) = coarse([np.arange(25.0)[:, None]], rate_hz=25.0)
    np.testing.assert_allclose(slow[:, 0], [6.0, 18.5])
    (short,) = coarse([np.arange(3.0)[:, None]], rate_hz=25.0)
    np.testing.assert_allclose(short, [[1.0]])
