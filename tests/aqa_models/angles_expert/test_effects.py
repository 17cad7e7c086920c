from __future__ import annotations

import numpy as np

from aqa_models.angles_expert.effects import channel_effects
from aqa_models.angles_expert.expert import fit_expert
from aqa_models.angles_expert.performance import Performance
from aqa_models.body_angles import CHANNELS


def test_the_channel_that_decides_moves_the_score_most():
    generator = np.random.default_rng(0)
    known = []
    for person in range(20):
        channels = 0.3 * generator.standard_normal((40, 49)).astype(np.float32)
        depth = generator.uniform(0, 3)
        channels[:, CHANNELS.index("left_knee")] += depth
        channels[:, CHANNELS.index("right_knee")] += depth
        known.append(Performance(channels, "squat", f"p{person}", 10 * depth))
    expert = fit_expert(known, rate_hz=10.0, network_seeds=0, epochs=5, seed=0)
    effects = channel_effects(expert, known)
    assert len(effects) == 23 + 13
    assert next(iter(effects)) == "knee"
    values = list(effects.values())
    assert values[0] > 1.5 * values[1]
    assert values == sorted(values, reverse=True)
