"""Which channels a score hangs on: how far it moves when a channel is made as usual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aqa_models.angles_expert.expert import TREE_VIEWS, AnglesExpert
from aqa_models.angles_expert.kernel_member import KernelMember
from aqa_models.angles_expert.performance import Performance
from aqa_models.angles_expert.views import PAIRED
from aqa_models.body_angles import CHANNELS


def channel_effects(expert: AnglesExpert, performances: Sequence[Performance]) -> dict[str, float]:
    """Mean change of the score, in points, when all that the kernels see of a channel is set to the usual.

    Left and right count together under one name. Only the kernels on posture and extremes are asked: their
    features belong to one channel each. An effect is what the model uses, not what causes a score.

    Args:
        expert: fitted.
        performances: of known exercises.

    Returns:
        Name of a channel without its side -> points, largest first.
    """
    exercise = expert.index(performances)
    bare = np.array([name.removeprefix("left_").removeprefix("right_") for name in CHANNELS])
    changes = {str(name): np.zeros(len(performances)) for name in dict.fromkeys(bare)}
    weights = dict(zip(expert.members, expert.weights, strict=True))
    for view in TREE_VIEWS:
        member = expert.members[view]
        if not isinstance(member, KernelMember):
            raise TypeError(f"the member {view!r} is no kernel")
        straight, crossed = expert.views[view](performances, exercise)
        answer = member.predict(straight, crossed, exercise)
        # Features come in blocks of all channels; behind them, in posture, in blocks of the pairs of sides.
        blocks = straight.shape[1] // len(CHANNELS)
        owner = np.concatenate([np.tile(bare, blocks), np.tile(bare[PAIRED], 3)])[: straight.shape[1]]
        for name, change in changes.items():
            hidden = np.where(owner == name, 0.0, straight), np.where(owner == name, 0.0, crossed)
            change += weights[view] * (answer - member.predict(*hidden, exercise))
    points = expert.lines[exercise, 1]
    effects = {name: float(np.abs(change * points).mean()) for name, change in changes.items()}
    return dict(sorted(effects.items(), key=lambda item: -item[1]))
