"""Varied poses: drawn by the seed alone, and still poses of the same body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_dives import SMALL, make_tables, settings

from aqa_models.hp_mcore.model import HpMcore
from aqa_models.skeletons import skeleton
from pipelines.hp_mcore import augment
from pipelines.hp_mcore.augment import SHAKE, TURN, vary_poses
from pipelines.hp_mcore.dives import Dives, dive_table
from pipelines.hp_mcore.phase import HpMcorePhase

BODY = skeleton("mpii16")


@pytest.fixture
def poses() -> torch.Tensor:
    """Five performances of one figure that stands still, with a torso of 50 px."""
    figure = np.random.default_rng(0).normal(0, 40, size=(16, 2)) + 100
    figure[BODY.index("thorax")] = figure[BODY.index("pelvis")] + [0, -50]
    return torch.tensor(np.tile(figure, (5, 96, 1, 1)), dtype=torch.float32)


def test_each_performance_is_varied_by_its_own_seed_alone(poses):
    together = vary_poses(poses, [[k] for k in range(5)])
    assert together.shape == poses.shape
    assert together.dtype == torch.float32
    for k in range(5):
        assert torch.equal(vary_poses(poses[k : k + 1], [[k]])[0], together[k])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(vary_poses(poses, [[1]] * 5)[0], together[1])


def test_turns_and_sizes_are_the_same_in_all_frames_and_every_other_one_is_mirrored(poses, monkeypatch):
    monkeypatch.setattr(augment, "SHAKE", 0.0)
    figure = poses[0, 0].double().numpy()
    figure = figure - figure.mean(axis=0)
    mirrored, sizes = [], []
    for seed in range(200):
        found = vary_poses(poses[:1], [[seed]])[0].double().numpy()
        assert np.abs(found - found[0]).max() < 1e-4
        assert found[0].mean(axis=0) == pytest.approx(poses[0, 0].mean(dim=0).tolist(), abs=1e-3)
        shape = found[0] - found[0].mean(axis=0)
        flips = {True: figure[BODY.flip_order] * [-1, 1], False: figure}
        fits = {}
        for flip, source in flips.items():
            matrix = np.linalg.lstsq(source, shape, rcond=None)[0]
            fits[flip] = (np.abs(source @ matrix - shape).max(), matrix)
        flip = min(fits, key=lambda flip: fits[flip][0])
        error, matrix = fits[flip]
        size = np.sqrt(np.linalg.det(matrix))
        assert error < 1e-3
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2) * size**2, atol=1e-4)  # no shear
        assert abs(np.arctan2(-matrix[0, 1], matrix[0, 0])) <= TURN + 1e-4
        mirrored.append(flip)
        sizes.append(np.log(size))
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.1)
    assert np.std(sizes) == pytest.approx(augment.STRETCH, rel=0.2)


def test_joints_shake_by_a_share_of_the_torso(poses):
    found = vary_poses(poses[:1], [[3]])[0]
    deviation = (found - found.mean(dim=0)).std()
    assert float(deviation) == pytest.approx(SHAKE * 50, rel=0.1)


def test_joints_that_are_not_available_stay_so(poses):
    poses[0, :, 3] = torch.nan
    found = vary_poses(poses[:1], [[3]])[0]
    gone = found.isnan().any(dim=-1)
    assert gone.sum() == 96
    assert gone[:, [3, BODY.flip_order[3]]].sum() == 96


def test_training_shows_other_poses_in_each_epoch_and_validation_none(monkeypatch):
    dives = Dives(dive_table(*make_tables(train=2, val=1, test=0, streams=("static", "keypoints")), 96))
    seen = []
    real = HpMcore.encode

    def watched(self, performances, transitions=None):
        seen.append(performances.keypoints.clone())
        return real(self, performances, transitions)

    monkeypatch.setattr(HpMcore, "encode", watched)

    def shown(epoch: int, **changes) -> torch.Tensor:
        HpMcorePhase(dives, settings(**changes), torch.device("cpu")).gradients([0, 1], 2, epoch)
        return seen.pop()

    # SMALL reads no poses, so only what it is given is looked at.
    assert not SMALL.use_pose
    assert torch.equal(shown(0), shown(0))
    assert not torch.equal(shown(0)[0], shown(1)[0])
    stored = torch.from_numpy(dives.stream("keypoints", [0, 1]))
    assert torch.equal(shown(0, vary_poses=False)[:2], stored)
    assert not torch.equal(shown(0)[:2], stored)
    phase = HpMcorePhase(dives, settings(), torch.device("cpu"))
    phase.validate()
    assert torch.equal(seen[-1], torch.from_numpy(dives.stream("keypoints", phase.val_rows)))
