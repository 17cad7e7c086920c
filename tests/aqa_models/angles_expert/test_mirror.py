from __future__ import annotations

import numpy as np

from aqa_models.angles_expert.mirror import SIDEWAYS, mirror
from aqa_models.body_angles import CHANNELS, body_channels
from aqa_models.skeletons import flip_sides, skeleton


def test_the_mirror_of_the_channels_is_the_channels_of_the_mirror():
    generator = np.random.default_rng(0)
    places = generator.normal(size=(20, 3)) * 0.3 + np.linspace(1.5, 0, 20)[:, None] * (0, 1, 0)
    places[skeleton("c20").index("left_hip"), 0] = 0.5
    places[skeleton("c20").index("right_hip"), 0] = -0.5
    xyz = places + 0.1 * generator.standard_normal((40, 20, 3))
    channels, _ = body_channels(xyz, "c20", 25.0)
    seen, _ = body_channels(flip_sides(xyz, "c20"), "c20", 25.0)
    difference = (seen - mirror(channels)).astype(float)
    difference = np.angle(np.exp(1j * difference))  # a line that points to the right has wrapped angles
    np.testing.assert_allclose(difference, 0, atol=1e-4)


def test_twice_is_once_more_the_same_and_every_sideways_channel_is_one():
    channels = np.random.default_rng(1).normal(size=(5, 49)).astype(np.float32)
    np.testing.assert_array_equal(mirror(mirror(channels)), channels)
    assert not np.array_equal(mirror(channels), channels)
    assert set(SIDEWAYS) <= set(CHANNELS)
